"""The arguments of this trainer: those of upstream's train.py and val.py, and its hyperparameters by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from slr_det.errors import ConfigError, nearest

#: Entries of upstream's files of hyperparameters that may be given by name, as numbers of at least 0.
HYPERPARAMETERS = (
    *("lr0", "lrf", "momentum", "weight_decay", "warmup_epochs", "warmup_momentum", "warmup_bias_lr"),
    *("box", "cls", "cls_pw", "obj", "obj_pw", "iou_t", "anchor_t", "fl_gamma"),
    *("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective"),
    *("flipud", "fliplr", "mosaic", "mixup", "copy_paste"),
)


@dataclass(frozen=True)
class Arguments:
    """How a model is trained and evaluated.

    Attributes:
        upstream: The checkout; $SLR_DET_YOLOV3 or third_party/yolov3 where empty.
        hyp: Upstream's file of hyperparameters: a path, or the name of one in data/hyps of the checkout.
        imgsz: Size of the images in pixels, for training and evaluation; rounded up to the model's stride.
        batch: Images per batch; upstream adds up the gradients of round(64 / batch) batches.
        workers: Processes that read and augment images.
        optimizer: ``SGD``, ``Adam`` or ``AdamW``.
        cos_lr: A cosine learning-rate schedule in place of a linear one.
        label_smoothing: Smoothing of the class labels.
        multi_scale: Sizes of half to one and a half of ``imgsz``, by chance.
        rect: Rectangular batches in place of mosaics, in a fixed order.
        quad: Batches of images four times as large, for a quarter of them.
        cache: Keep the decoded images in memory.
        autoanchor: Fit the anchors to the data, in dense training alone.
        amp: Mixed precision in training, on a GPU.
        val: Score the averaged, hard-pruned model after every epoch of training.
        split: What is evaluated: ``val``, ``test`` or ``train``.
        conf_thres: Confidence above which a box counts in evaluation.
        iou_thres: Overlap above which evaluation suppresses a box.
        max_det: Boxes per image in evaluation.
        augment: Evaluate with test-time augmentation.
        half: Evaluate in half precision, on a GPU.
        hyperparameters: What differs from ``hyp``: the entries of HYPERPARAMETERS, which are given by their own names.
    """

    upstream: str = ""
    hyp: str = "hyp.scratch-low.yaml"
    imgsz: int = 640
    batch: int = 16
    workers: int = 4
    optimizer: str = "SGD"
    cos_lr: bool = False
    label_smoothing: float = 0.0
    multi_scale: bool = False
    rect: bool = False
    quad: bool = False
    cache: bool = False
    autoanchor: bool = True
    amp: bool = True
    val: bool = True
    split: str = "val"
    conf_thres: float = 0.001
    iou_thres: float = 0.6
    max_det: int = 300
    augment: bool = False
    half: bool = False
    hyperparameters: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def names(cls) -> frozenset[str]:
        """Every argument that a user may give."""
        own = {entry.name for entry in fields(cls)} - {"hyperparameters"}
        return frozenset(own | set(HYPERPARAMETERS))

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Arguments:
        """Check what a user gave; ConfigError with every problem at once."""
        defaults = {entry.name: entry.default for entry in fields(cls)}
        problems: list[str] = []
        values: dict[str, Any] = {}
        hyperparameters: dict[str, float] = {}
        for key, value in given.items():
            if key not in cls.names():
                problems.append(f"the trainer has no argument '{key}'{nearest(key, cls.names())}")
            elif key in HYPERPARAMETERS:
                if _is_number(value):
                    hyperparameters[key] = float(value)
                else:
                    problems.append(f"{key} is {value!r}, expected a number of at least 0")
            else:
                says, fits = _RULES[key] if key in _RULES else _KINDS[type(defaults[key])]
                if not fits(value):
                    problems.append(f"{key} is {value!r}, expected {says}")
                values[key] = value
        if problems:
            raise ConfigError(problems)
        return cls(**values, hyperparameters=hyperparameters)


#: How a message says what was expected, and the test of a value.
_Rule = tuple[str, Callable[[Any], bool]]


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    )


def _whole(least: int) -> _Rule:
    return (
        f"a whole number of at least {least}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least,
    )


def _one_of(*names: str) -> _Rule:
    return f"one of {', '.join(names)}", lambda value: value in names


_SHARE: _Rule = ("a number in [0, 1]", lambda value: _is_number(value) and value <= 1)
_KINDS: dict[type, _Rule] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    str: ("text", lambda value: isinstance(value, str)),
    float: _SHARE,
}
_RULES: dict[str, _Rule] = {
    "imgsz": _whole(32),
    "batch": _whole(1),
    "workers": _whole(0),
    "max_det": _whole(1),
    "optimizer": _one_of("SGD", "Adam", "AdamW"),
    "split": _one_of("val", "test", "train"),
}

"""The arguments of the classifier trainer: names, defaults, ranges."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from slr_det.errors import ConfigError, nearest

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("cosine", "constant", "step")
AMP = ("", "bf16", "fp16")
AUGMENT = ("basic", "none")


@dataclass(frozen=True)
class Arguments:
    """How a classifier is trained and evaluated.

    Attributes:
        lr: Learning rate at the top of the schedule.
        batch: Images per optimizer step, over all processes.
        optimizer: ``sgd``, ``adam``, ``adamw`` or ``rmsprop``.
        momentum: Momentum of SGD and RMSprop.
        nesterov: Nesterov's momentum (SGD).
        weight_decay: Weight decay.
        schedule: ``cosine`` down to ``min_lr``, ``constant``, or ``step`` (a tenth at 1/2 and at 3/4).
        min_lr: Where the cosine ends, as a fraction of ``lr``.
        warmup_epochs: Epochs of linear warm-up.
        clip: Largest gradient norm; 0 for no clipping.
        accumulate: Batches whose gradients are summed up before a step.
        label_smoothing: In [0, 1).
        ema: Decay of an averaged copy of the weights, which is then what is evaluated; 0 for none.
        amp: Mixed precision in training and evaluation: ``bf16``, ``fp16`` (a GPU) or empty.
        channels_last: Memory layout of convolutions; faster on most processors.
        augment: ``basic`` (random crop and flip; for photographs a random resized crop) or ``none``.
        pad: Pixels of zero padding before the random crop of small images.
        flip: Whether images may be mirrored; digits and text may not.
        size: Side of the images that the model sees, in pixels; 0 for the data's (or the model's) own.
        workers: Processes that read images, where they are files.
        processes: Training processes on the CPU (gloo); GPUs are chosen by ``device=0,1``.
        threads: CPU threads per process; 0 leaves torch's choice.
        train_images: Train on that many images only, the same number of each class; 0 for all.
        val_images: Evaluate on that many images only, the same number of each class; 0 for all.
        val_every: Score the hard-pruned model every that many epochs of training; 0 for never.
        epoch_val_images: How many images that score is taken on; 0 for all.
        recalibration_images: Training images that batch-norm statistics are re-estimated on.
    """

    lr: float = 0.02
    batch: int = 64
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    min_lr: float = 0.0
    warmup_epochs: float = 0.0
    clip: float = 0.0
    accumulate: int = 1
    label_smoothing: float = 0.0
    ema: float = 0.0
    amp: str = ""
    channels_last: bool = True
    augment: str = "basic"
    pad: int = 4
    flip: bool = True
    size: int = 0
    workers: int = 0
    processes: int = 1
    threads: int = 0
    train_images: int = 0
    val_images: int = 0
    val_every: int = 1
    epoch_val_images: int = 0
    recalibration_images: int = 2048

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Arguments:
        """Check what a user gave; ConfigError with every problem at once."""
        known = {field.name: field.default for field in fields(cls)}
        problems: list[str] = []
        values: dict[str, Any] = {}
        for key, value in given.items():
            if key not in known:
                problems.append(f"the trainer has no argument '{key}'{nearest(key, known)}")
                continue
            default = known[key]
            if key in _CHOICES and value in (None, False):
                value = ""
            right = _fits(value, default)
            rule = _RULES.get(key)
            if not right:
                problems.append(f"{key} is {value!r}, expected {_KINDS[type(default)]}")
            elif key in _CHOICES and value not in _CHOICES[key]:
                names = ", ".join(name or "nothing" for name in _CHOICES[key])
                problems.append(
                    f"{key} is {value!r}, expected one of {names}{nearest(str(value), _CHOICES[key])}"
                )
            elif rule is not None and not rule[0](value):
                problems.append(f"{key} is {value!r}, expected {rule[1]}")
            else:
                values[key] = float(value) if isinstance(default, float) else value
        if problems:
            raise ConfigError(problems)
        return cls(**values)


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_CHOICES = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "amp": AMP, "augment": AUGMENT}
_AT_LEAST_1: tuple[Callable[[Any], bool], str] = (lambda value: value >= 1, "at least 1")
_AT_LEAST_0: tuple[Callable[[Any], bool], str] = (lambda value: value >= 0, "at least 0")
_BELOW_1: tuple[Callable[[Any], bool], str] = (lambda value: 0 <= value < 1, "a number in [0, 1)")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (lambda value: value > 0, "a number above 0"),
    **dict.fromkeys(("batch", "accumulate", "processes", "recalibration_images"), _AT_LEAST_1),
    **dict.fromkeys(("momentum", "label_smoothing", "ema"), _BELOW_1),
    "min_lr": (lambda value: 0 <= value <= 1, "a fraction of lr, in [0, 1]"),
    **dict.fromkeys(
        (
            *("weight_decay", "warmup_epochs", "clip", "pad", "size", "workers", "threads"),
            *("train_images", "val_images", "val_every", "epoch_val_images"),
        ),
        _AT_LEAST_0,
    ),
}


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, type(default))

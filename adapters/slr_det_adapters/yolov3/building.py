"""Upstream's networks, hyperparameters, options and data, from a checkout that is open."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from slr_det.errors import ConfigError, DataError, nearest
from slr_det_adapters import checkouts
from slr_det_adapters.hidden import Checkout
from slr_det_adapters.ultralytics.adapter import quiet
from slr_det_adapters.ultralytics.offline import load_ultralytics
from slr_det_adapters.yolov3.arguments import HYPERPARAMETERS, Arguments
from slr_det_adapters.yolov3.inject import use_checkout
from slr_det_adapters.yolov3.labels import labels_cached_in

TITLE = "ultralytics/yolov3"


def device_of(word: str) -> torch.device:
    """The device that a user named; see :func:`slr_det_adapters.checkouts.device_of`.

    Raises:
        ConfigError: As there, or a launcher has started several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but this adapter drives {TITLE} in one process; start it "
            "without a launcher"
        )
    return checkouts.device_of(word, TITLE)


@contextlib.contextmanager
def opened(
    upstream: str | Path, device: torch.device, data: str = "", *, verbose: bool = False
) -> Iterator[Checkout]:
    """Upstream on a device, quiet unless ``verbose``; caches of labels go beside the data file ``data``."""
    load_ultralytics()  # it sets the level of its log when it is imported
    with (
        warnings.catch_warnings(),
        quiet(verbose),
        use_checkout(upstream) as checkout,
        torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext(),
        labels_cached_in(Path(data).parent, checkout) if data else contextlib.nullcontext(),
    ):
        # Torch's and numpy's remarks on upstream's code are news for its authors.
        warnings.simplefilter("ignore")
        yield checkout


def around(model: str) -> Path | None:
    """The checkout that an architecture lies in, if it lies in one."""
    for folder in Path(model).expanduser().absolute().parents:
        if (folder / "train.py").is_file() and (folder / "models" / "yolo.py").is_file():
            return folder
    return None


def architecture(model: str, checkout: Checkout) -> Path:
    """The file of an architecture: the user's own, or one of upstream's by its name."""
    return _file(model, checkout, "models", "architecture")


def network(model: str, checkout: Checkout, classes: int | None) -> nn.Module:
    """Upstream's model of an architecture with random weights.

    Raises:
        ConfigError: There is no such file, or upstream cannot build it.
    """
    file = architecture(model, checkout)
    make = checkout.seam("models.yolo", "Model")
    try:
        built: nn.Module = make(str(file), nc=classes)
    except Exception as error:  # it evaluates what the file holds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{file}: upstream cannot build this architecture ({reason:.160})") from error
    layers: Any = built.model
    if not hasattr(layers[-1], "anchors"):
        raise ConfigError(
            f"{file}: has no detection layer with anchors, expected one such as yolov3-tiny.yaml"
        )
    return built


def hyperparameters(arguments: Arguments, checkout: Checkout) -> dict[str, Any]:
    """Upstream's file of hyperparameters with what was given in its place."""
    file = _file(arguments.hyp, checkout, "data/hyps", "file of hyperparameters")
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML ({' '.join(str(error).split()):.120})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: is no file of hyperparameters, expected entries such as lr0: 0.01")
    found |= arguments.hyperparameters
    missing = [name for name in HYPERPARAMETERS if name not in found]
    if missing:
        raise ConfigError(f"{file}: has no '{missing[0]}', expected the entries of hyp.scratch-low.yaml")
    return found


def options(arguments: Arguments, checkout: Checkout, **more: Any) -> Namespace:
    """Upstream's command-line options at their defaults but for what was given."""
    given, sys.argv = sys.argv, ["train.py"]
    try:
        found: Namespace = checkout.seam("train", "parse_opt")(True)
    finally:
        sys.argv = given
    vars(found).update(
        imgsz=arguments.imgsz,
        batch_size=arguments.batch,
        workers=workers(arguments),
        optimizer=arguments.optimizer,
        cos_lr=arguments.cos_lr,
        label_smoothing=arguments.label_smoothing,
        multi_scale=arguments.multi_scale,
        rect=arguments.rect,
        quad=arguments.quad,
        cache="ram" if arguments.cache else None,
        patience=0,  # a method needs all its iterations
        noplots=True,
        **more,
    )
    return found


def workers(arguments: Arguments) -> int:
    """How many processes read images: none where they would be no copies of this one, which alone has the modules."""
    return arguments.workers if multiprocessing.get_start_method() == "fork" else 0


def refused_by_upstream(error: Exception) -> DataError:
    """What upstream says of data in an assertion, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{TITLE} refuses the data or the model: {text:.240}")


def _file(name: str, checkout: Checkout, folder: str, what: str) -> Path:
    relative = Path(name).expanduser()
    for candidate in (relative, checkout.root / relative, checkout.root / folder / relative):
        if candidate.is_file():
            return candidate
    near = [other.name for other in (checkout.root / folder).glob("*.yaml")]
    raise ConfigError(f"{name}: no such {what}, neither here nor in {checkout.root}{nearest(name, near)}")

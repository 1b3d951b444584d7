"""The arguments of the OpenPCDet trainer: what differs from the user's own configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from slr_det.errors import ConfigError, nearest
from slr_det.metrics.kitti_rules import OVERLAPS


@dataclass(frozen=True)
class Arguments:
    """How a model is trained and evaluated. Zero and empty mean what the configuration says.

    Attributes:
        upstream: The checkout; $SLR_DET_OPENPCDET or third_party/OpenPCDet where empty.
        batch: Frames per optimizer step.
        lr: Learning rate at the top of the cycle.
        workers: Processes that read and augment frames.
        set: Settings of the configuration by dotted name; numbers count in lists:
            ``{DATA_CONFIG.DATA_PROCESSOR.2.MAX_POINTS_PER_VOXEL: 16}``. Also a list of names and values in turn, as
            OpenPCDet's own ``--set`` has it.
        overlap: The intersection over union of a match: ``standard`` (0.7 for cars, 0.5 for others), ``loose`` (0.5,
            0.25), or ``0.5`` for every class.
        recalibration_frames: Training frames that batch-norm statistics are re-estimated on.
    """

    upstream: str = ""
    batch: int = 0
    lr: float = 0.0
    workers: int = 4
    set: Mapping[str, Any] = field(default_factory=dict)
    overlap: str = "standard"
    recalibration_frames: int = 2048

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Arguments:
        """Check what a user gave; ConfigError with every problem at once."""
        known = [entry.name for entry in fields(cls)]
        problems: list[str] = []
        values: dict[str, Any] = {}
        for key, value in given.items():
            if key not in known:
                problems.append(f"the trainer has no argument '{key}'{nearest(key, known)}")
                continue
            try:
                values[key] = _READERS[key](value)
            except (TypeError, ValueError) as error:
                problems.append(f"{key} is {value!r}, expected {error}")
        if problems:
            raise ConfigError(problems)
        return cls(**values)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("the path of a checkout")
    return value


def _whole(value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"a whole number of at least {least}")
    return value


def _rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError("a number of at least 0")
    return float(value)


def _settings(value: Any) -> dict[str, Any]:
    expected = "settings by name, such as {OPTIMIZATION.WEIGHT_DECAY: 0.02}"
    if isinstance(value, list | tuple):
        if len(value) % 2 or not all(isinstance(name, str) for name in value[::2]):
            raise ValueError(f"{expected}, or names and values in turn")
        return dict(zip(value[::2], value[1::2], strict=True))
    if not isinstance(value, Mapping):
        raise TypeError(expected)
    return flattened(value)


def flattened(value: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with dotted names: ``{A: {B: 1}}`` is ``{A.B: 1}``."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= flattened(item, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = item
    return found


def _overlap(value: Any) -> str:
    name = str(value)
    if name not in OVERLAPS:
        raise ValueError(f"one of {', '.join(OVERLAPS)}{nearest(name, OVERLAPS)}")
    return name


_READERS: dict[str, Callable[[Any], Any]] = {
    "upstream": _text,
    "batch": lambda value: _whole(value, 0),
    "lr": _rate,
    "workers": lambda value: _whole(value, 0),
    "set": _settings,
    "overlap": _overlap,
    "recalibration_frames": lambda value: _whole(value, 1),
}

"""Which objects count in KITTI's benchmark: classes, overlaps, difficulties, and the role of each object.

The rules are those of the KITTI object development kit with the numbers of OpenPCDet's evaluator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slr_det.data.kitti.labels import DONT_CARE, KittiObjects
from slr_det.errors import ConfigError, DataError, nearest

#: The classes that can be evaluated, as KITTI spells them.
CLASSES: tuple[str, ...] = ("Car", "Pedestrian", "Cyclist", "Van", "Person_sitting", "Truck")

#: The classes that the benchmark and the paper report.
BENCHMARK: tuple[str, ...] = ("Car", "Pedestrian", "Cyclist")

#: Objects of the class on the right neither count as missed nor make a detection of the class on the left false.
NEIGHBOURS: dict[str, str] = {"Car": "Van", "Pedestrian": "Person_sitting"}

DIFFICULTIES: tuple[str, ...] = ("easy", "moderate", "hard")
#: Per difficulty: height in the picture that an object must exceed (a detection: reach), in pixels; the highest
#: occlusion level; the highest truncation.
MIN_HEIGHT: tuple[float, ...] = (40.0, 25.0, 25.0)
MAX_OCCLUSION: tuple[int, ...] = (0, 1, 2)
MAX_TRUNCATION: tuple[float, ...] = (0.15, 0.3, 0.5)

_STRICT = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5, "Van": 0.7, "Person_sitting": 0.5, "Truck": 0.7}
_LOOSE_2D = {**_STRICT, "Truck": 0.5}
_LOOSE_3D = {
    "Car": 0.5,
    "Pedestrian": 0.25,
    "Cyclist": 0.25,
    "Van": 0.5,
    "Person_sitting": 0.25,
    "Truck": 0.5,
}
_HALF = dict.fromkeys(CLASSES, 0.5)

#: Overlap set -> kind of box -> class -> the intersection over union that a match must exceed.
OVERLAPS: dict[str, dict[str, dict[str, float]]] = {
    "standard": {"bbox": _STRICT, "bev": _STRICT, "3d": _STRICT},
    "loose": {"bbox": _LOOSE_2D, "bev": _LOOSE_3D, "3d": _LOOSE_3D},
    "0.5": {"bbox": _HALF, "bev": _HALF, "3d": _HALF},
}

#: Roles of an object or a detection for one class and difficulty.
COUNTS, IGNORED, OTHER = 0, 1, -1

_CODES = {name.lower(): code for code, name in enumerate(CLASSES)}
_UNKNOWN, _DONT_CARE = -1, -2


@dataclass(frozen=True)
class Stack:
    """The objects of all frames one after the other, N in all.

    Attributes:
        frames: (N,) index of the frame, ascending.
        codes: (N,) index into ``CLASSES``; negative for DontCare and for classes that are not evaluated.
        truncated: (N,).
        occluded: (N,).
        alpha: (N,) radians.
        boxes_2d: (N, 4) left, top, right, bottom in pixels.
        boxes_3d: (N, 7) x, y, z of the bottom's centre in the camera frame, length, height, width, rotation_y.
        scores: (N,), zeros for ground truth.
        count: Number of frames.
    """

    frames: NDArray[np.int64]
    codes: NDArray[np.int64]
    truncated: NDArray[np.float64]
    occluded: NDArray[np.int64]
    alpha: NDArray[np.float64]
    boxes_2d: NDArray[np.float64]
    boxes_3d: NDArray[np.float64]
    scores: NDArray[np.float64]
    count: int

    @property
    def dont_care(self) -> NDArray[np.bool_]:
        """(N,) which objects are regions without labels."""
        return np.equal(self.codes, _DONT_CARE)


def stack(frames: Sequence[KittiObjects], *, scored: bool) -> Stack:
    """Put the objects of all frames one after the other.

    Class names match whatever their case, DontCare only as written here; both as in OpenPCDet.

    Raises:
        DataError: a frame of detections (``scored``) without scores, or a number that is not finite.
    """
    for index, objects in enumerate(frames):
        if scored and objects.scores is None and len(objects):
            raise DataError(f"predictions of frame {index}: no scores; read detections with scored=True")
    objects_3d = [
        np.concatenate([o.locations, o.dimensions[:, [2, 0, 1]], o.rotations[:, None]], axis=1)
        for o in frames
    ]
    names = [name for o in frames for name in o.names]
    stacked = Stack(
        frames=np.repeat(np.arange(len(frames)), [len(o) for o in frames]),
        codes=np.array([_code(name) for name in names], dtype=np.int64),
        truncated=_join([o.truncated for o in frames]),
        occluded=np.concatenate([np.zeros(0, np.int64), *(o.occluded for o in frames)]),
        alpha=_join([o.alpha for o in frames]),
        boxes_2d=_join([o.boxes_2d for o in frames], 4),
        boxes_3d=_join(objects_3d, 7),
        scores=_join([o.scores if scored and o.scores is not None else np.zeros(len(o)) for o in frames]),
        count=len(frames),
    )
    numbers = [stacked.truncated[:, None], stacked.alpha[:, None], stacked.boxes_2d, stacked.boxes_3d]
    finite = np.isfinite(np.concatenate([*numbers, stacked.scores[:, None]], axis=1)).all(axis=1)
    if not finite.all():
        kind, frame = "predictions" if scored else "truths", stacked.frames[int(np.argmin(finite))]
        raise DataError(f"{kind} of frame {frame}: a number that is not finite, expected finite numbers only")
    return stacked


def canonical(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the classes as KITTI spells them; ConfigError for one that has no rules, or for none at all."""
    by_name = {name.lower(): name for name in CLASSES}
    unknown = [name for name in classes if name.lower() not in by_name]
    if unknown:
        expected = f"expected one of {', '.join(CLASSES)}"
        raise ConfigError([f"class '{name}': {expected}{nearest(name, CLASSES)}" for name in unknown])
    if not classes:
        raise ConfigError(f"classes: none given, expected at least one of {', '.join(CLASSES)}")
    return tuple(dict.fromkeys(by_name[name.lower()] for name in classes))


def minimum_overlaps(overlap: str) -> dict[str, dict[str, float]]:
    """Return kind of box -> class -> minimum overlap of a set; ConfigError for an unknown set."""
    overlap = str(overlap)  # YAML reads 0.5 as a number
    if overlap not in OVERLAPS:
        expected = ", ".join(f"'{name}'" for name in OVERLAPS)
        raise ConfigError(f"overlap: '{overlap}', expected one of {expected}{nearest(overlap, OVERLAPS)}")
    return OVERLAPS[overlap]


def relevant(truths: Stack, classes: Sequence[str]) -> NDArray[np.bool_]:
    """Return (N,) which objects are of one of the classes or of a neighbouring one."""
    wanted = {_CODES[name.lower()] for name in classes}
    wanted |= {_CODES[NEIGHBOURS[name].lower()] for name in classes if name in NEIGHBOURS}
    return np.isin(truths.codes, sorted(wanted))


def truth_roles(truths: Stack, name: str, difficulty: int) -> NDArray[np.int8]:
    """Return the role of each object (N,): it counts, may be found without credit (ignored), or plays no part.

    An object of the class that is too small, too occluded or too truncated for the difficulty is ignored, and so is
    every object of the neighbouring class.
    """
    height = truths.boxes_2d[:, 3] - truths.boxes_2d[:, 1]
    beyond = (
        (truths.occluded > MAX_OCCLUSION[difficulty])
        | (truths.truncated > MAX_TRUNCATION[difficulty])
        | (height <= MIN_HEIGHT[difficulty])
    )
    roles = np.where(truths.codes == _CODES[name.lower()], np.where(beyond, IGNORED, COUNTS), OTHER)
    if name in NEIGHBOURS:
        roles[truths.codes == _CODES[NEIGHBOURS[name].lower()]] = IGNORED
    return roles.astype(np.int8)


def found_roles(found: Stack, name: str, difficulty: int) -> NDArray[np.int8]:
    """Return the role of each detection (N,): one that is too small is ignored, whatever its class."""
    height = np.abs(found.boxes_2d[:, 3] - found.boxes_2d[:, 1])
    roles = np.where(found.codes == _CODES[name.lower()], COUNTS, OTHER)
    return np.where(height < MIN_HEIGHT[difficulty], IGNORED, roles).astype(np.int8)


def has_orientation(found: Stack) -> bool:
    """Say whether the detections have an observation angle: whether the first one's is not -10, as in OpenPCDet."""
    return len(found.alpha) == 0 or bool(found.alpha[0] != -10)


def _code(name: str) -> int:
    return _DONT_CARE if name == DONT_CARE else _CODES.get(name.lower(), _UNKNOWN)


def _join(parts: Sequence[NDArray[np.float64]], width: int = 0) -> NDArray[np.float64]:
    return np.concatenate([np.zeros((0, width) if width else 0), *parts])

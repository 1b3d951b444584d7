"""KITTI object files: reading and writing the lines of label_2 and of detections."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slr_det.data.reading import read_text
from slr_det.errors import DataError, StorageError

Floats = NDArray[np.float64]

#: The fields of a line, in order; the last only in files of detections.
COLUMNS: tuple[str, ...] = (
    "type",
    "truncated",
    "occluded",
    "alpha",
    "left",
    "top",
    "right",
    "bottom",
    "height",
    "width",
    "length",
    "x",
    "y",
    "z",
    "rotation_y",
    "score",
)

#: The type of a line that marks a region of the picture where nothing was labelled.
DONT_CARE = "DontCare"


@dataclass(frozen=True, eq=False)
class KittiObjects:
    """The N objects of one frame in the camera's terms, as the KITTI object development kit defines them.

    Anything array-like is taken; what is stored has the shapes and types given here.

    Attributes:
        names: Types as written in the file, N of them.
        truncated: (N,) float64, the part of the object outside the picture, 0 to 1; -1 where unknown.
        occluded: (N,) int64, 0 fully visible, 1 partly occluded, 2 largely occluded, 3 unknown; -1 for DontCare.
        alpha: (N,) float64, observation angle in radians; -10 where unknown.
        boxes_2d: (N, 4) float64, left, top, right, bottom in pixels.
        dimensions: (N, 3) float64, height, width, length in metres.
        locations: (N, 3) float64, centre of the box's bottom in the rectified camera frame (x right, y down, z
            forward), metres.
        rotations: (N,) float64, rotation_y, radians about the camera's y axis (which points down) from the x axis.
        scores: (N,) float64, or None for objects without scores.
    """

    names: tuple[str, ...]
    truncated: Floats
    occluded: NDArray[np.int64]
    alpha: Floats
    boxes_2d: Floats
    dimensions: Floats
    locations: Floats
    rotations: Floats
    scores: Floats | None = None

    def __post_init__(self) -> None:
        """Bring every field to its shape and type; DataError where the lengths disagree."""
        names = tuple(map(str, self.names))
        object.__setattr__(self, "names", names)
        object.__setattr__(
            self, "occluded", _shaped("occluded", self.occluded, len(names), 0).astype(np.int64)
        )
        for field, width in _WIDTHS.items():
            object.__setattr__(self, field, _shaped(field, getattr(self, field), len(names), width))
        if self.scores is not None:
            object.__setattr__(self, "scores", _shaped("scores", self.scores, len(names), 0))

    def __len__(self) -> int:
        """Return N."""
        return len(self.names)

    def take(self, which: ArrayLike) -> KittiObjects:
        """Return the objects that a boolean mask (N,) or an array of indices names, in that order."""
        index = np.asarray(which)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        index = index.astype(np.int64)
        return KittiObjects(
            tuple(self.names[i] for i in index),
            self.truncated[index],
            self.occluded[index],
            self.alpha[index],
            self.boxes_2d[index],
            self.dimensions[index],
            self.locations[index],
            self.rotations[index],
            None if self.scores is None else self.scores[index],
        )

    @classmethod
    def empty(cls, *, scored: bool = False) -> KittiObjects:
        """Return no objects; with an empty array of scores if ``scored``."""
        return _from_rows((), np.zeros((0, 15 if scored else 14)))


_WIDTHS = {"truncated": 0, "alpha": 0, "boxes_2d": 4, "dimensions": 3, "locations": 3, "rotations": 0}


def read_objects(path: str | Path, *, scored: bool | None = None) -> KittiObjects:
    """Read a KITTI label or detection file; lines without text are skipped, a file without lines has no objects.

    Args:
        path: Text, one object a line: the 15 fields of label_2, or these and a score.
        scored: Whether a line must have (True) or must not have (False) a score; None takes either, the same in
            every line of the file.

    Raises:
        DataError: the file is missing or no text, or a line has another number of fields, a field that is not a
            finite number, or an occlusion that is not a whole number; names the file and the line.
    """
    text = read_text(path)
    names: list[str] = []
    rows: list[list[float]] = []
    columns = {True: 16, False: 15, None: 0}[scored]
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != columns:
            if columns or len(words) not in (15, 16):
                raise DataError(_wrong_columns(f"{path}:{number}", len(words), columns, scored))
            columns = len(words)
        try:
            row = list(map(float, words[1:]))
        except ValueError:
            row = [math.nan]
        if not all(map(math.isfinite, row)) or row[1] != int(row[1]):
            raise DataError(_wrong_field(f"{path}:{number}", words))
        names.append(words[0])
        rows.append(row)
    return _from_rows(tuple(names), np.array(rows).reshape(len(rows), (columns or 15) - 1))


def write_objects(path: str | Path, objects: KittiObjects) -> Path:
    """Write objects in KITTI's text format, with their scores where they have some, and return the path.

    Angles, metres and pixels are written with 4 decimals, scores with 6. The folder must exist. The file is not
    written atomically: who writes a folder of thousands builds it under a temporary name.

    Raises:
        DataError: a number is not finite, or a type is empty or holds a space.
        StorageError: the file cannot be written.
    """
    rows = np.concatenate(
        [
            objects.truncated[:, None],
            objects.occluded[:, None],
            objects.alpha[:, None],
            objects.boxes_2d,
            objects.dimensions,
            objects.locations,
            objects.rotations[:, None],
            *([] if objects.scores is None else [objects.scores[:, None]]),
        ],
        axis=1,
    )
    form = "{} {:.4f} {:.0f}" + " {:.4f}" * 12 + (" {:.6f}" if objects.scores is not None else "") + "\n"
    lines = []
    for number, (name, row) in enumerate(zip(objects.names, rows.tolist(), strict=True), start=1):
        if len(name.split()) != 1 or name.split()[0] != name:
            raise DataError(f"{path}:{number}: type '{name}', expected one word")
        if not all(map(math.isfinite, row)):
            column = COLUMNS[1 + next(i for i, value in enumerate(row) if not math.isfinite(value))]
            raise DataError(f"{path}:{number}: {column} is not a finite number; nothing was written")
        lines.append(form.format(name, *row))
    try:
        Path(path).write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error})") from error
    return Path(path)


def _from_rows(names: tuple[str, ...], rows: Floats) -> KittiObjects:
    return KittiObjects(
        names,
        truncated=rows[:, 0],
        occluded=rows[:, 1].astype(np.int64),
        alpha=rows[:, 2],
        boxes_2d=rows[:, 3:7],
        dimensions=rows[:, 7:10],
        locations=rows[:, 10:13],
        rotations=rows[:, 13],
        scores=rows[:, 14] if rows.shape[1] == 15 else None,
    )


def _shaped(field: str, values: ArrayLike, count: int, width: int) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    shape = (count, width) if width else (count,)
    if array.size == 0 and count == 0:
        return array.reshape(shape)
    if array.shape != shape:
        raise DataError(f"objects: {field} has the shape {array.shape}, expected {shape} for {count} names")
    return array


def _wrong_columns(where: str, seen: int, columns: int, scored: bool | None) -> str:
    if scored is None:
        expected = f"{columns} as in the lines before it" if columns else "15 (a label) or 16 (a detection)"
    elif scored:
        expected = "16: a detection ends with its score"
    else:
        expected = "15: a label has no score"
    return f"{where}: {seen} fields, expected {expected} ({' '.join(COLUMNS[: columns or 16])})"


def _wrong_field(where: str, words: list[str]) -> str:
    for column, word in zip(COLUMNS[1:], words[1:], strict=False):
        try:
            value = float(word)
        except ValueError:
            return f"{where}: {column} is '{word}', expected a number"
        if not math.isfinite(value):
            return f"{where}: {column} is {word}, expected a finite number"
    return f"{where}: occluded is {words[2]}, expected a whole number from -1 to 3"

"""YOLO label files and boxes: reading, checking, and converting from and to COCO's pixels."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from slr_det.data.reading import read_text
from slr_det.errors import DataError

#: How far beyond the picture ultralytics lets a coordinate lie before it drops the picture.
TOLERANCE = 0.01

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Label:
    """One line of a YOLO label file.

    Attributes:
        index: Class index.
        box: Centre x, centre y, width, height as fractions of the picture.
        polygon: x1, y1, x2, y2, ... as fractions where the line is a polygon, else empty; ``box`` is its hull then.
    """

    index: int
    box: Box
    polygon: tuple[float, ...] = ()


def label_file(image: Path) -> Path:
    """Return where the labels of an image lie: the last ``images`` folder becomes ``labels``, the suffix ``.txt``."""
    head, found, tail = str(image).rpartition(f"{os.sep}images{os.sep}")
    return Path(f"{head}{os.sep}labels{os.sep}{tail}" if found else str(image)).with_suffix(".txt")


def read_labels(file: Path, classes: int | None = None) -> list[Label]:
    """Read a YOLO label file; repeated lines count once, as in the trainer.

    Args:
        file: Text of lines ``class x y width height`` or ``class x1 y1 x2 y2 x3 y3 ...``, fractions of the picture.
        classes: Number of classes, where known.

    Raises:
        DataError: naming the file and line: not a label line, a class beyond ``classes``, a coordinate outside the
            picture, boxes and polygons mixed.
    """
    labels: dict[Label, None] = {}
    kinds = set()
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{file}: line {number}"
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        kind = "box" if len(values) == 5 else "polygon" if len(values) >= 7 and len(values) % 2 == 1 else None
        if kind is None or not all(map(math.isfinite, values)):
            raise DataError(
                f"{where}: '{line:.60}', expected 'class x y width height' or a class and a polygon"
            )
        index = int(values[0])
        if index != values[0] or index < 0:
            raise DataError(f"{where}: class {words[0]}, expected a whole number from 0 on")
        if classes is not None and index >= classes:
            raise DataError(
                f"{where}: class {index}, but only {classes} classes are named (0 to {classes - 1})"
            )
        outside = [v for v in values[1:] if not -TOLERANCE <= v <= 1 + TOLERANCE]
        if outside:
            raise DataError(
                f"{where}: coordinate {outside[0]:g}, expected a fraction of the picture in [0, 1]"
            )
        kinds.add(kind)
        if len(kinds) > 1:
            raise DataError(f"{where}: boxes and polygons in one file; the trainer drops such a picture")
        labels[_label(index, values[1:])] = None
    return list(labels)


def _label(index: int, values: list[float]) -> Label:
    if len(values) == 4:
        x, y, width, height = values
        return Label(index, (x, y, width, height))
    xs, ys = values[0::2], values[1::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return Label(index, ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top), tuple(values))


def to_pixels(box: Box, width: int, height: int) -> Box:
    """Turn a YOLO box (centre, fractions) into a COCO box (left, top, width, height in pixels)."""
    x, y, w, h = box
    return (x - w / 2) * width, (y - h / 2) * height, w * width, h * height


def to_fractions(box: Box, width: int, height: int) -> Box | None:
    """Turn a COCO box into a YOLO box, clipped to the picture; None where no area is left inside."""
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    right, bottom = min(box[0] + box[2], float(width)), min(box[1] + box[3], float(height))
    if right <= left or bottom <= top:
        return None
    return (
        (left + right) / 2 / width,
        (top + bottom) / 2 / height,
        (right - left) / width,
        (bottom - top) / height,
    )


def label_line(index: int, box: Box) -> str:
    """Write one line of a YOLO label file, newline included."""
    return "{} {:.9f} {:.9f} {:.9f} {:.9f}\n".format(index, *box)

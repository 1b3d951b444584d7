"""A small folder in TuSimple's layout: four straight lanes, drawn into every picture in a colour of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from slr_det.data.tusimple.labels import NO_POINT, LaneRow, write_rows

HEIGHTS = np.arange(160, 720, 10)
#: x at the height 200 and the change of x with y, from the second lane to the left to the second to the right.
STRAIGHT = ((600, -2.0), (620, -0.7), (660, 0.8), (680, 1.9))
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))


def straight(start: float, slope: float, first: int = 200, last: int = 710) -> np.ndarray:  # type: ignore[type-arg]
    """x of a straight lane at HEIGHTS, between two heights and inside the picture."""
    x = np.rint(start + slope * (HEIGHTS - 200)).astype(np.int64)
    return np.where((first <= HEIGHTS) & (last >= HEIGHTS) & (x >= 0) & (x < 1280), x, NO_POINT)


def lanes() -> np.ndarray:  # type: ignore[type-arg]
    """(4, 56) x of the four lanes, in an order that is not that of their slots."""
    return np.stack([straight(*STRAIGHT[i]) for i in (2, 0, 3, 1)])


def row(name: str, where: str = "") -> LaneRow:
    """The label of a frame."""
    return LaneRow(name, lanes(), HEIGHTS, where=where)


def picture(size: tuple[int, int] = (1280, 720)) -> Image.Image:
    """The road, grey, with its lanes as lines 12 pixels wide in the picture of a label."""
    image = Image.new("RGB", (1280, 720), (90, 90, 90))
    pen = ImageDraw.Draw(image)
    for (start, slope), colour in zip(STRAIGHT, COLOURS, strict=True):
        pen.line([(start, 200), (start + slope * 520, 720)], fill=colour, width=12)
    return image if size == image.size else image.resize(size, Image.Resampling.BOX)


def save(root: Path, name: str, size: tuple[int, int] = (320, 180)) -> None:
    """Write the picture of a frame."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(size).save(path, quality=95)


def folder(root: Path, **files: int) -> Path:
    """Make a folder with label files of so many frames each, such as label_data_0313=3."""
    for stem, count in files.items():
        names = [f"clips/{stem}/{i}/20.jpg" for i in range(count)]
        for name in names:
            save(root, name)
        write_rows(root / f"{stem}.json", map(row, names))
    return root

"""Draws lanes into a picture of their numbers, and reads such pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from slr_det.errors import DataError

# OpenCV's lines of thickness 16, which upstream draws, reach 8 pixels to either side of the middle one.
_REACH = 8


def draw_marks(
    lanes: Sequence[tuple[int, NDArray[np.int64] | NDArray[np.float64]]], image_size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Draw lanes as lines 17 pixels wide with round ends; later ones lie over earlier ones.

    Args:
        lanes: The number to draw, 1 to 255, and the points, (P, 2) x and y in pixels, fractions dropped.
        image_size: Width and height in pixels.

    Returns:
        (height, width) uint8, 0 where there is no lane.
    """
    picture = Image.new("L", image_size)
    pen = ImageDraw.Draw(picture)
    for number, points in lanes:
        corners = [(int(x), int(y)) for x, y in points.tolist()]
        if len(corners) > 1:
            pen.line(corners, fill=number, width=2 * _REACH + 1)
            for x, y in corners:
                pen.ellipse((x - _REACH, y - _REACH, x + _REACH, y + _REACH), fill=number)
    return np.array(picture, dtype=np.uint8)


def read_marks(path: str | Path, largest: int) -> NDArray[np.uint8]:
    """Read a picture of marks, (height, width) uint8.

    Args:
        path: A picture with one channel, as upstream's conversion writes it.
        largest: The largest number that a pixel may have.

    Raises:
        DataError: the file is missing or cannot be decoded, has several channels, or larger numbers.
    """
    try:
        with Image.open(path) as picture:
            mode = picture.mode
            marks = np.array(picture)
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; expected the picture of the lanes that the list names"
        ) from error
    # ultralytics replaces Image.open by one that, for an unreadable image, imports a decoder that may be missing.
    except (OSError, SyntaxError, ValueError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be decoded ({reason}); convert the labels again") from error
    if mode not in ("L", "P"):
        raise DataError(f"{path}: a picture in {mode}, expected one channel with the numbers of the lanes")
    if marks.max(initial=0) > largest:
        raise DataError(
            f"{path}: a pixel is {marks.max()}, expected the numbers of the lanes, 0 to {largest}"
        )
    return marks.astype(np.uint8)

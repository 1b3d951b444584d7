"""Draws flat pieces of the world into a picture, with smooth edges."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from slr_det.data.lane_world.road import Road

#: Nothing nearer than this is drawn, metres.
NEAREST = 0.8
_SCALE = 2  # pieces are drawn this much larger, then averaged

#: A piece: places (N, 3) as x, height above the road and z, a colour, and an opacity.
Piece = tuple[npt.ArrayLike, Iterable[float], float]


def draw_pieces(image: Image.Image, road: Road, pieces: Iterable[Piece]) -> None:
    """Draw polygons over the picture, the later ones over the earlier.

    Args:
        image: RGB, changed.
        road: Whose camera sees them.
        pieces: Flat and convex as seen from the camera; what lies nearer than NEAREST is pressed onto that distance.
    """
    outlines = []
    for places, colour, opacity in pieces:
        x, above, z = np.asarray(places, np.float64).T
        points = np.stack(road.project(x, above, np.maximum(z, NEAREST)), axis=1)
        red, green, blue = (round(min(255.0, max(0.0, value))) for value in colour)
        outlines.append((points, (red, green, blue, round(255 * opacity))))
    if not outlines:
        return
    everything = np.concatenate([points for points, _ in outlines])
    low, high = everything.min(axis=0), everything.max(axis=0)
    left, top = (max(0, math.floor(value)) for value in low)
    right, bottom = (min(side, math.ceil(value)) for side, value in zip(image.size, high, strict=True))
    if left >= right or top >= bottom:
        return
    patch = image.crop((left, top, right, bottom))
    large = patch.resize((patch.width * _SCALE, patch.height * _SCALE), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(large, "RGBA")
    for points, fill in outlines:
        # A pixel's middle is at half a pixel for us and at whole ones for the pen.
        corners = (points - (left, top)) * _SCALE - 0.5
        pen.polygon([(float(u), float(v)) for u, v in np.clip(corners, -1e5, 1e5)], fill=fill)
    image.paste(large.resize(patch.size, Image.Resampling.BOX), (left, top))

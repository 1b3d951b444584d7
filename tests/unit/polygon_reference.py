"""Rotated overlaps by plain Python in double precision: one rectangle clipped by each side of the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]


def corners(box: Sequence[float]) -> list[Point]:
    """Counter-clockwise corners of a box x, y, z, dx, dy, dz, heading."""
    x, y, _, dx, dy, _, heading = box
    cos, sin = math.cos(heading), math.sin(heading)
    signs = ((0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5))
    return [(x + cos * i * dx - sin * j * dy, y + sin * i * dx + cos * j * dy) for i, j in signs]


def clipped(polygon: list[Point], begin: Point, end: Point) -> list[Point]:
    """The part of a polygon on the left of a line (Sutherland and Hodgman, 1974)."""

    def left(point: Point) -> float:
        return (end[0] - begin[0]) * (point[1] - begin[1]) - (end[1] - begin[1]) * (point[0] - begin[0])

    result = []
    for before, here in zip(polygon[-1:] + polygon[:-1], polygon, strict=True):
        a, b = left(before), left(here)
        if (a >= 0) != (b >= 0):
            t = a / (a - b)
            result.append((before[0] + t * (here[0] - before[0]), before[1] + t * (here[1] - before[1])))
        if b >= 0:
            result.append(here)
    return result


def area(polygon: list[Point]) -> float:
    """Area of a counter-clockwise polygon, taken from its first corner so that far away ones stay exact."""
    if not polygon:
        return 0.0
    x, y = polygon[0]
    near = [(p[0] - x, p[1] - y) for p in polygon]
    return sum(p[0] * q[1] - p[1] * q[0] for p, q in pairwise(near)) / 2


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """The area that two boxes share."""
    shift = [v - w for v, w in zip(b[:2], a[:2], strict=True)]
    polygon, other = corners([0.0, 0.0, *a[2:]]), corners([*shift, *b[2:]])
    for begin, end in zip(other, other[1:] + other[:1], strict=True):
        polygon = clipped(polygon, begin, end)
    return area(polygon)


def overlaps(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> list[list[float]]:
    """The areas that all pairs share."""
    return [[overlap(p, q) for q in b] for p in a]


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union, seen from above."""
    shared = overlap(a, b)
    union = a[3] * a[4] + b[3] * b[4] - shared
    return shared / union if union > 0 else 0.0


def suppress(
    boxes: Sequence[Sequence[float]], scores: Sequence[float], threshold: float, pre: int, post: int
) -> list[int]:
    """Greedy non-maximum suppression, one pair after the other."""
    order = sorted(range(len(boxes)), key=lambda index: (-scores[index], index))[:pre]
    kept: list[int] = []
    for index in order:
        if all(iou(boxes[other], boxes[index]) <= threshold for other in kept):
            kept.append(index)
    return kept[:post]

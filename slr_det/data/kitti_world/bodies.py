"""What stands in the generated world: cars, pedestrians and cyclists built of solids, and clutter that is neither."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from slr_det.data.kitti_world.solids import (
    BALL,
    BOX,
    COLUMN,
    WHEEL,
    Array,
    Material,
    Solid,
    Triple,
    solid,
    tapered,
)

CLASSES: tuple[str, ...] = ("Car", "Pedestrian", "Cyclist")

#: Mean and deviation of length, width and height in metres, near KITTI's anchors; draws stay within two deviations.
SIZES: dict[str, tuple[Triple, Triple]] = {
    "Car": ((3.9, 1.62, 1.55), (0.34, 0.09, 0.10)),
    "Pedestrian": ((0.8, 0.62, 1.74), (0.15, 0.08, 0.09)),
    "Cyclist": ((1.76, 0.6, 1.73), (0.09, 0.07, 0.08)),
}

_GLASS = Material(0.06, (58, 70, 84), dropout=0.55)
_RUBBER = Material(0.04, (28, 28, 30), dropout=0.15)
_SKIN = Material(0.35, (205, 160, 135))
_METAL = Material(0.45, (120, 124, 130), dropout=0.1)
_BARK = Material(0.25, (96, 76, 58), roughness=0.02)
_CAR_COLOURS = ((196, 200, 204), (40, 42, 46), (150, 30, 34), (34, 62, 120), (222, 222, 218), (92, 98, 104))
_CLOTHES = ((52, 60, 92), (140, 44, 50), (70, 104, 74), (190, 180, 160), (38, 38, 42), (212, 160, 52))


@dataclass(frozen=True, eq=False)
class Body:
    """One thing of the world.

    Attributes:
        name: Its class in the labels; empty for clutter.
        box: The box around its solids, (7,): centre, length, width, height in metres and heading in radians.
        solids: Its parts, in the frame of the lidar.
    """

    name: str
    box: Array
    solids: tuple[Solid, ...]


def stand(name: str, size: Triple, parts: tuple[Solid, ...], foot: Array, heading: float) -> Body:
    """Place parts around (0, 0, 0), the centre of the bottom of their box, at ``foot``, turned by ``heading``."""
    length, width, height = size
    box = np.array([foot[0], foot[1], foot[2] + height / 2, length, width, height, heading])
    return Body(name, box, tuple(part.placed(foot, heading) for part in parts))


def draw_size(rng: np.random.Generator, name: str) -> Triple:
    """Draw length, width and height in metres of an object of a class."""
    mean, deviation = np.array(SIZES[name])
    length, width, height = mean + deviation * np.clip(rng.standard_normal(3), -2, 2)
    return float(length), float(width), float(height)


def car(rng: np.random.Generator, size: Triple) -> tuple[Solid, ...]:
    """A body on four wheels, a cabin of glass and its roof: saloon, hatchback or estate by chance."""
    l, w, h = size
    paint = Material(float(rng.uniform(0.08, 0.75)), _CAR_COLOURS[rng.integers(len(_CAR_COLOURS))])
    clear, belt, roof = 0.13 * h, float(rng.uniform(0.54, 0.62)) * h, 0.94 * h
    front, rear = float(rng.uniform(0.16, 0.26)) * l, -float(rng.uniform(0.34, 0.485)) * l
    ends, sides = (float(rng.uniform(0.45, 0.65)), float(rng.uniform(0.65, 0.95))), 0.84
    middle, half = (front + rear) / 2, (front - rear) / 2
    parts = [
        solid((0, 0, (clear + belt) / 2), (l / 2, w / 2, (belt - clear) / 2), BOX, paint),
        solid(
            (middle, 0, (belt + roof) / 2), (half, 0.47 * w, (roof - belt) / 2), tapered(*ends, sides), _GLASS
        ),
        solid(
            (middle + half * (ends[0] - ends[1]) / 2, 0, (roof + h) / 2),
            (half * (ends[0] + ends[1]) / 2, 0.47 * sides * w, (h - roof) / 2),
            BOX,
            paint,
        ),
    ]
    radius = 0.2 * h
    for x in (-0.31 * l, 0.31 * l):
        for y in (-(w / 2 - 0.1), w / 2 - 0.1):
            parts.append(solid((x, y, radius), (radius, 0.1, radius), WHEEL, _RUBBER))
    return tuple(parts)


def pedestrian(rng: np.random.Generator, size: Triple) -> tuple[Solid, ...]:
    """Two legs in a stride, a trunk, swinging arms and a head."""
    l, w, h = size
    coat, trousers = (_cloth(rng) for _ in range(2))
    step, side = l / 2 - 0.11, float(rng.choice([-1.0, 1.0]))
    parts = [
        solid((0, 0, 0.66 * h), (0.15, 0.36 * w, 0.2 * h), COLUMN, coat),
        solid((0, 0, h - 0.12), (0.1, 0.09, 0.12), BALL, _SKIN),
    ]
    for sign in (-1.0, 1.0):
        parts += [
            solid((sign * step, side * sign * 0.09, 0.15 * h), (0.11, 0.08, 0.15 * h), COLUMN, trousers),
            solid((sign * step / 2, side * sign * 0.09, 0.38 * h), (0.12, 0.08, 0.11 * h), COLUMN, trousers),
            solid(
                (-sign * step / 2, side * sign * (w / 2 - 0.06), 0.6 * h),
                (0.08, 0.06, 0.18 * h),
                COLUMN,
                coat,
            ),
        ]
    return tuple(parts)


def cyclist(rng: np.random.Generator, size: Triple) -> tuple[Solid, ...]:
    """A bicycle of two wheels, a frame and a handlebar, and its rider leaning forward."""
    l, w, h = size
    coat, trousers = (_cloth(rng) for _ in range(2))
    radius = 0.33
    bar = 0.23 * l
    parts = [
        solid((x, 0, radius), (radius, 0.025, radius), WHEEL, _RUBBER)
        for x in (-(l / 2 - radius), l / 2 - radius)
    ]
    parts += [
        solid((-0.02 * l, 0, 0.33 * h), (0.26 * l, 0.03, 0.06 * h), BOX, _METAL),
        solid((bar, 0, 0.57 * h), (0.05, w / 2, 0.03 * h), BOX, _METAL),
        solid((-0.08 * l, 0, 0.62 * h), (0.17, 0.2, 0.12 * h), COLUMN, coat),
        solid((0.0, 0, 0.77 * h), (0.18, 0.21, 0.09 * h), COLUMN, coat),
        solid((0.06 * l, 0, h - 0.12), (0.11, 0.09, 0.12), BALL, _SKIN),
    ]
    for sign in (-1.0, 1.0):
        parts += [
            solid((0.02 * l, sign * 0.11, 0.37 * h), (0.13, 0.07, 0.17 * h), COLUMN, trousers),
            solid((0.15 * l, sign * (w / 2 - 0.07), 0.68 * h), (0.15, 0.06, 0.1 * h), BOX, coat),
        ]
    return tuple(parts)


MODELS: dict[str, Callable[[np.random.Generator, Triple], tuple[Solid, ...]]] = {
    "Car": car,
    "Pedestrian": pedestrian,
    "Cyclist": cyclist,
}


def clutter(rng: np.random.Generator, kind: str) -> tuple[Triple, tuple[Solid, ...]]:
    """Draw something that is no object.

    Args:
        rng: Source of every random choice.
        kind: ``wall``, ``hedge``, ``bush``, ``tree``, ``pole``, ``post``, ``sign`` or ``bin``.

    Returns:
        Length, width and height of its box in metres, and its parts.
    """
    u = rng.uniform
    leaves = Material(
        float(u(0.25, 0.5)), (58, float(u(92, 122)), 48), dropout=float(u(0.1, 0.3)), roughness=0.08
    )
    if kind == "wall":
        l, w, h = float(u(6, 18)), float(u(0.3, 4.0)), float(u(1.2, 6.5))
        tone = float(u(130, 190))
        return _block(l, w, h, Material(float(u(0.2, 0.5)), (tone, 0.94 * tone, 0.86 * tone)))
    if kind == "hedge":
        return _block(float(u(2.5, 6)), float(u(0.6, 1.4)), float(u(0.8, 1.6)), leaves)
    if kind == "bin":
        side = float(u(0.5, 1.3))
        return _block(side, float(u(0.5, 1.0)), float(u(0.8, 1.4)), Material(0.3, (66, 84, 78)))
    if kind == "bush":
        l, w, h = float(u(0.8, 3.2)), float(u(0.8, 2.2)), float(u(0.8, 1.9))
        return (l, w, h), (solid((0, 0, h / 2), (l / 2, w / 2, h / 2), BALL, leaves),)
    if kind == "tree":
        h, crown, r = float(u(4.5, 8)), float(u(1.4, 2.8)), float(u(0.12, 0.25))
        trunk = solid((0, 0, h / 4), (r, r, h / 4), COLUMN, _BARK)
        top = solid((0, 0, 0.7 * h), (crown, crown, 0.3 * h), BALL, leaves)
        return (2 * r, 2 * r, h), (trunk, top)
    r = float(u(0.05, 0.13))
    h = float(u(0.8, 1.6)) if kind == "post" else float(u(2.2, 2.8)) if kind == "sign" else float(u(4, 7))
    parts = [solid((0, 0, h / 2), (r, r, h / 2), COLUMN, _METAL)]
    if kind == "sign":
        plate = Material(0.95, (200, 60, 50))
        parts.append(solid((r + 0.02, 0, h - 0.35), (0.02, 0.35, 0.35), BOX, plate))
    return (2 * r, 2 * r, h), tuple(parts)


def _block(l: float, w: float, h: float, material: Material) -> tuple[Triple, tuple[Solid, ...]]:
    return (l, w, h), (solid((0, 0, h / 2), (l / 2, w / 2, h / 2), BOX, material),)


def _cloth(rng: np.random.Generator) -> Material:
    return Material(float(rng.uniform(0.1, 0.6)), _CLOTHES[rng.integers(len(_CLOTHES))], roughness=0.01)

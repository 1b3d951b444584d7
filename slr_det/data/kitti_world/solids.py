"""Convex solids: what the generated world is made of, and what its sensors' rays are tested against."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Triple = tuple[float, float, float]


class Material(NamedTuple):
    """How a surface answers a laser and a camera.

    Attributes:
        reflectance: Intensity of a return at normal incidence, 0 to 1.
        colour: Red, green and blue in full light, 0 to 255.
        dropout: Share of the rays that hit it and do not come back, as through glass and leaves.
        roughness: Deviation of the depth of its surface, in metres.
    """

    reflectance: float
    colour: Triple
    dropout: float = 0.0
    roughness: float = 0.0


@dataclass(frozen=True, eq=False)
class Solid:
    """The points x with ``normals @ x <= offsets``.

    Attributes:
        normals: Outward unit normals of its planes, (K, 3).
        offsets: Signed distances of the planes from the origin, (K,), metres.
        low: Least corner of an axis-aligned box that holds it, (3,).
        high: Greatest corner of that box, (3,).
        material: Of its whole surface.
    """

    normals: Array
    offsets: Array
    low: Array
    high: Array
    material: Material

    def placed(self, position: Array, heading: float) -> Solid:
        """Return the solid turned by ``heading`` (radians, counter-clockwise about z), then moved by ``position``."""
        c, s = math.cos(heading), math.sin(heading)
        turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        normals = self.normals @ turn.T
        corners = box_corners(self.low, self.high) @ turn.T + position
        return replace(
            self,
            normals=normals,
            offsets=self.offsets + normals @ position,
            low=corners.min(axis=0),
            high=corners.max(axis=0),
        )


def box_corners(low: Array, high: Array) -> Array:
    """Return the corners of an axis-aligned box, (8, 3)."""
    picks = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)], dtype=bool)
    return np.where(picks, high, low)


# Planes of shapes that touch all six faces of the cube from -1 to 1, as rows d with d . u <= 1.
BOX = np.concatenate([np.eye(3), -np.eye(3)])


def _octagon(axis: int) -> Array:
    """An octagonal prism along an axis."""
    angles = np.arange(8) * (math.pi / 4)
    sides = np.insert(np.stack([np.cos(angles), np.sin(angles)], axis=1), axis, 0.0, axis=1)
    ends = np.zeros((2, 3))
    ends[:, axis] = 1.0, -1.0
    return np.concatenate([sides, ends])


def _ball() -> Array:
    """The 26 planes that touch the unit sphere along the axes and the diagonals between them."""
    steps = np.array([-1.0, 0.0, 1.0])
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[np.abs(grid).sum(axis=1) > 0]
    return np.asarray(grid / np.linalg.norm(grid, axis=1, keepdims=True))


COLUMN = _octagon(2)
WHEEL = _octagon(1)
BALL = _ball()


def tapered(front: float, rear: float, sides: float) -> Array:
    """Return the planes of a cabin: its roof ends at these fractions of the half length and half width of its base."""
    planes = BOX.copy()
    for row, axis, share in ((0, 0, front), (3, 0, rear), (1, 1, sides), (4, 1, sides)):
        planes[row, axis] *= 2 / (1 + share)
        planes[row, 2] = (1 - share) / (1 + share)
    return planes


def solid(centre: Triple, half: Triple, planes: Array, material: Material) -> Solid:
    """Stretch a shape of the unit cube.

    Args:
        centre: Of the solid's box, metres.
        half: Half its length, width and height, metres.
        planes: ``BOX``, ``COLUMN`` (octagonal, upright), ``WHEEL`` (octagonal, along y), ``BALL`` or :func:`tapered`.
        material: Of its surface.
    """
    middle, size = np.array(centre), np.array(half)
    normals = planes / size
    scale = np.linalg.norm(normals, axis=1)
    offsets = (1.0 + normals @ middle) / scale
    return Solid(normals / scale[:, None], offsets, middle - size, middle + size, material)

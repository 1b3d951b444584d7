"""Casts the rays of a sensor into a scene: what each ray meets first, and what it would meet but for the rest.

A ray o + t d enters a convex solid at the largest t of the planes it faces and leaves it at the smallest of the
others (Kay and Kajiya's slabs); only the rays of the grid's window around a solid are tested against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slr_det.data.kitti_world.scene import Scene
from slr_det.data.kitti_world.solids import Array, Solid

#: In place of the index of a body: the ground, and nothing at all.
GROUND, NOTHING = -1, -2

Window = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Rays:
    """The rays of a sensor on a grid of R rows and C columns.

    Attributes:
        origin: Where all start, (3,).
        directions: (R, C, 3), unit length for a lidar, so that t is the range.
        window: Gives the rows and columns that may meet what lies in the axis-aligned box from ``low`` to ``high``.
    """

    origin: Array
    directions: Array
    window: Callable[[Array, Array], Window]


@dataclass(frozen=True, eq=False)
class Hits:
    """What the rays met first.

    Attributes:
        distance: t, (R, C); infinite where nothing was met.
        body: Index into the scene's bodies, or GROUND or NOTHING, (R, C) int64.
        part: Index into that body's solids, (R, C) int64; 0 for the ground and for nothing.
        cosine: Between the ray and the surface's normal, 0 to 1, (R, C).
        alone: For each body, the number of rays that would meet it if it stood alone, (bodies,) int64.
    """

    distance: Array
    body: npt.NDArray[np.int64]
    part: npt.NDArray[np.int64]
    cosine: Array
    alone: npt.NDArray[np.int64]


def cast(scene: Scene, rays: Rays) -> Hits:
    """Find what each ray meets first."""
    shape = rays.directions.shape[:2]
    planes = np.moveaxis(rays.directions, 2, 0).copy()
    distance, cosine = _meet_ground(scene, rays.origin, planes)
    body = np.where(np.isfinite(distance), GROUND, NOTHING)
    part = np.zeros(shape, dtype=np.int64)
    alone = np.zeros(len(scene.bodies), dtype=np.int64)
    own, own_cosine, own_part = np.full(shape, np.inf), np.zeros(shape), np.zeros(shape, dtype=np.int64)
    for index, thing in enumerate(scene.bodies):
        windows = [rays.window(solid.low, solid.high) for solid in thing.solids]
        for number, (solid, window) in enumerate(zip(thing.solids, windows, strict=True)):
            if planes[0][window].size:
                enter, facing = meet(solid, rays.origin, planes[(slice(None), *window)])
                nearer = enter < own[window]
                own[window][nearer] = enter[nearer]
                own_cosine[window][nearer] = facing[nearer]
                own_part[window][nearer] = number
        around = _union(windows)
        alone[index] = np.isfinite(own[around]).sum()
        first = own[around] < distance[around]
        distance[around][first] = own[around][first]
        cosine[around][first] = own_cosine[around][first]
        part[around][first] = own_part[around][first]
        body[around][first] = index
        own[around] = np.inf
    return Hits(distance, body, part, cosine, alone)


def meet(solid: Solid, origin: Array, directions: Array) -> tuple[Array, Array]:
    """Intersect rays with one solid.

    Args:
        solid: With K planes.
        origin: Of all rays, (3,).
        directions: (3, ...).

    Returns:
        t where each ray enters (infinite for a miss, and where the origin lies inside), and the cosine between the
        ray and the normal there; both of the shape of the directions' trailing axes.
    """
    shape = directions.shape[1:]
    x, y, z = directions.reshape(3, 1, -1)
    n = solid.normals[:, :, None]
    closing = n[:, 0] * x + n[:, 1] * y + n[:, 2] * z
    closing[closing == 0] = 1e-300  # along a plane: outside of it never enters, inside of it never leaves
    with np.errstate(over="ignore"):
        t = (solid.offsets - solid.normals @ origin)[:, None] / closing
    entering = np.where(closing < 0, t, -np.inf)
    leaves = np.where(closing > 0, t, np.inf).min(axis=0)
    face = entering.argmax(axis=0)
    rays = np.arange(face.size)
    enters = entering[face, rays]
    hit = (enters <= leaves) & (enters > 0)
    cosine = -closing[face, rays] / np.sqrt(x * x + y * y + z * z)[0]
    return np.where(hit, enters, np.inf).reshape(shape), cosine.reshape(shape)


def _meet_ground(scene: Scene, origin: Array, planes: Array) -> tuple[Array, Array]:
    along, across = scene.ground.slope
    x, y, z = planes
    closing = z - along * x - across * y
    with np.errstate(divide="ignore"):
        t = (scene.ground.height(float(origin[0]), float(origin[1])) - origin[2]) / closing
    length = np.sqrt((x * x + y * y + z * z) * (1 + along * along + across * across))
    return np.where(closing < 0, t, np.inf), np.abs(closing) / length


def _union(windows: list[Window]) -> Window:
    rows, columns = (
        slice(min(w[axis].start for w in windows), max(w[axis].stop for w in windows)) for axis in (0, 1)
    )
    return rows, columns

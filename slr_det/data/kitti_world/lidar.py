"""The 64-beam scanner of the generated world, after KITTI's HDL-64E: its rays, its noise, its intensities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from slr_det.data.kitti_world.cast import GROUND, Rays, Window, cast
from slr_det.data.kitti_world.scene import COVERINGS, Scene
from slr_det.data.kitti_world.solids import Array

#: Elevations of the beams in degrees, from the top: 32 that are a third of a degree apart, 32 that are half a degree.
BEAMS = np.concatenate([2 - np.arange(32) / 3, np.linspace(-8.83, -24.8, 32)])
#: Degrees between two firings, and how far they reach to both sides: the camera's view and a little more.
AZIMUTH_STEP, AZIMUTH_REACH = 0.18, 43.0
MAX_RANGE = 75.0
#: Deviation of a range in metres.
RANGE_NOISE = 0.02

_DROPOUT = 0.02
_FADE = 0.35  # share of the returns of a black surface that are lost at the greatest range
_SPECKLE = 0.12  # relative deviation of an intensity


@dataclass(frozen=True, eq=False)
class Scan:
    """What came back of one turn.

    Attributes:
        points: (P, 4) float32: x, y, z in metres and intensity, 0 to 0.99 in steps of 0.01.
        body: Index into the scene's bodies, or GROUND, of each point, (P,) int64.
        alone: For each body, the number of rays that would meet it if it stood alone, (bodies,) int64.
        seen: For each body, the number of rays that meet it, lost returns counted too, (bodies,) int64.
    """

    points: npt.NDArray[np.float32]
    body: npt.NDArray[np.int64]
    alone: npt.NDArray[np.int64]
    seen: npt.NDArray[np.int64]


@cache
def beams() -> Rays:
    """Return the rays of the scanner; rows from the top beam down, columns from left to right."""
    azimuths = np.radians(np.arange(AZIMUTH_REACH, -AZIMUTH_REACH - 1e-9, -AZIMUTH_STEP))
    elevations = np.radians(BEAMS)
    level = np.cos(elevations)[:, None]
    directions = np.stack(
        [
            level * np.cos(azimuths),
            level * np.sin(azimuths),
            np.broadcast_to(np.sin(elevations)[:, None], (len(elevations), len(azimuths))),
        ],
        axis=2,
    )

    def window(low: Array, high: Array) -> Window:
        x, y = (np.array([low[axis], high[axis]]) for axis in (0, 1))
        if low[0] <= 0:
            return slice(0, len(elevations)), slice(0, len(azimuths))
        turns = np.arctan2(y[:, None], x[None, :])
        left, right = np.searchsorted(-azimuths, [-turns.max(), -turns.min()])
        near = np.hypot(low[0], max(low[1], -high[1], 0.0))
        far = np.hypot(high[0], np.abs(y).max())
        top = np.arctan2(high[2], near if high[2] > 0 else far)
        bottom = np.arctan2(low[2], far if low[2] > 0 else near)
        first, last = np.searchsorted(-elevations, [-top, -bottom])
        return slice(int(first), int(last)), slice(int(left), int(right))

    return Rays(np.zeros(3), directions, window)


def scan(scene: Scene, rng: np.random.Generator) -> Scan:
    """Take one scan.

    The range gets Gaussian noise of RANGE_NOISE and of the surface's roughness. The intensity is the reflectance,
    times 0.3 + 0.7 of the cosine of incidence, with speckle. Returns are lost at random, at a surface (glass, leaves)
    by its dropout, and more often the darker and the farther it is.

    Args:
        scene: With the sensor at its origin.
        rng: Source of the noise.
    """
    rays = beams()
    hits = cast(scene, rays)
    inside = hits.distance <= MAX_RANGE
    distance, body, part = hits.distance[inside], hits.body[inside], hits.part[inside]
    directions, cosine = rays.directions[inside], hits.cosine[inside]

    reflectance, dropout, roughness = _surface(scene, distance, directions, body, part)
    # Roughness lies along the normal; a grazing ray would turn it into metres.
    spread = np.hypot(RANGE_NOISE, roughness / np.maximum(cosine, 0.1))
    measured = distance + spread * rng.standard_normal(distance.shape)
    intensity = reflectance * (0.3 + 0.7 * cosine) * (1 + _SPECKLE * rng.standard_normal(distance.shape))
    intensity = np.clip(intensity, 0, 0.99).round(2)
    lost = dropout + _DROPOUT + _FADE * (distance / MAX_RANGE) ** 2 * (1 - intensity)
    back = rng.random(distance.shape) >= lost

    points = np.column_stack([directions * measured[:, None], intensity])[back].astype(np.float32)
    seen = np.bincount(hits.body[hits.body >= 0], minlength=len(scene.bodies))
    return Scan(points, body[back], hits.alone, seen)


def _surface(
    scene: Scene, distance: Array, directions: Array, body: npt.NDArray[np.int64], part: npt.NDArray[np.int64]
) -> tuple[Array, Array, Array]:
    """Reflectance, dropout and roughness where each ray ends, each (P,)."""
    materials = [solid.material for thing in scene.bodies for solid in thing.solids]
    starts = np.cumsum([0, *(len(thing.solids) for thing in scene.bodies)])
    table = np.array([(m.reflectance, m.dropout, m.roughness) for m in [*COVERINGS, *materials]])
    index = len(COVERINGS) + starts[np.maximum(body, 0)] + part
    low = body == GROUND
    at = directions[low] * distance[low, None]
    index[low] = scene.ground.covering(at[:, 0], at[:, 1])
    reflectance, dropout, roughness = table[index].T
    return reflectance, dropout, roughness

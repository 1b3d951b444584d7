"""Where the generated road lies and how the camera sees it.

Coordinates: x to the right and z ahead of the camera, heights above the road, all in metres; u to the right and v down
in the picture, in pixels. A place on the road is given by its distance ``s`` to the right of the middle of the
camera's own lane, and z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Height and width of the pictures, pixels.
IMAGE_SHAPE = (720, 1280)
#: The heights at which TuSimple gives a lane's x.
H_SAMPLES: npt.NDArray[np.int64] = np.arange(160, 720, 10)
#: Lines are labelled up to this distance; beyond it the road is straight.
FAR = 100.0
#: A line with fewer points in the picture than this has no label.
MIN_POINTS = 8
#: A line nearer to the camera's middle than this, metres, is being crossed: it counts for neither side.
CROSSING = 0.9


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along the z axis; its pitch is a shift of the picture, exact for small angles.

    Attributes:
        focal: Focal length, pixels.
        height: Above the road, metres.
        horizon: v of the horizon of a flat road, pixels.
        centre: u of the z axis, pixels.
    """

    focal: float
    height: float
    horizon: float
    centre: float = IMAGE_SHAPE[1] / 2


@dataclass(frozen=True)
class Road:
    """A clothoid in plan and a parabola in elevation, with lines along it.

    Attributes:
        camera: Above it.
        offset: x of the middle of the own lane beside the camera, metres.
        heading: Slope dx/dz of the road there.
        curvature: Second derivative of x there, 1/m.
        bend: Third derivative, 1/m^2.
        rise: Second derivative of the road's height, 1/m; negative for a crest, behind which the road is hidden.
        lines: s of each line between or beside lanes, from the left to the right, metres.
    """

    camera: Camera
    offset: float
    heading: float
    curvature: float
    bend: float
    rise: float
    lines: tuple[float, ...]

    def middle(self, z: npt.ArrayLike) -> Array:
        """Return x of the own lane's middle at distances."""
        z = np.asarray(z, np.float64)
        near = np.minimum(z, FAR)
        curve = self.offset + near * (self.heading + near * (self.curvature / 2 + near * self.bend / 6))
        return np.asarray(curve + (z - near) * self.slope(FAR))

    def slope(self, z: npt.ArrayLike) -> Array:
        """Return dx/dz of the own lane's middle at distances."""
        near = np.minimum(np.asarray(z, np.float64), FAR)
        return np.asarray(self.heading + near * (self.curvature + near * self.bend / 2))

    def project(self, x: npt.ArrayLike, above: npt.ArrayLike, z: npt.ArrayLike) -> tuple[Array, Array]:
        """Return u and v of places at x, ``above`` the road, and z > 0."""
        z = np.asarray(z, np.float64)
        camera = self.camera
        drop = camera.height - np.asarray(above, np.float64) - self.rise * z**2 / 2
        return (
            np.asarray(camera.centre + camera.focal * np.asarray(x, np.float64) / z),
            np.asarray(camera.horizon + camera.focal * drop / z),
        )

    def depth(self, v: npt.ArrayLike) -> Array:
        """Return z of the nearest ground that the camera sees in rows, NaN where it sees none."""
        q = (np.asarray(v, np.float64) - self.camera.horizon) / self.camera.focal
        # From q = h / z - rise z / 2, the nearer root in the form without cancellation.
        inside = q**2 + 2 * self.rise * self.camera.height
        with np.errstate(invalid="ignore", divide="ignore"):
            z = 2 * self.camera.height / (q + np.sqrt(inside))
        return np.asarray(np.where((inside >= 0) & (z > 0) & np.isfinite(z), z, np.nan))

    def column(self, s: npt.ArrayLike, z: Array) -> Array:
        """Return u of places on the road, for z as :meth:`depth` gives it."""
        return self.project(self.middle(z) + np.asarray(s, np.float64), 0.0, z)[0]


def marked(road: Road) -> list[float]:
    """Return s of the lines to label: two to the left and two to the right of the camera at most, nearest first kept.

    A line that the camera is crossing comes on top of these, as TuSimple's frames of lane changes have five.
    """
    beside = {s: s + road.offset for s in road.lines}
    crossed = [s for s, x in beside.items() if abs(x) < CROSSING]
    left = [s for s, x in beside.items() if x <= -CROSSING]
    right = [s for s, x in beside.items() if x >= CROSSING]
    return [*left[-2:], *crossed, *right[:2]]


def label(road: Road) -> npt.NDArray[np.int64]:
    """Return the lanes as TuSimple labels them, (L, 56) whole pixels: x at each of H_SAMPLES, -2 for no point.

    A lane goes on under whatever hides it, and between its dashes. It has no point outside of the picture, beyond FAR
    and behind a crest.
    """
    z = road.depth(H_SAMPLES + 0.5)  # through the middle of the row's pixels
    seen = np.nan_to_num(z, nan=np.inf) <= FAR
    lanes = []
    for s in marked(road):
        u = road.column(s, np.where(seen, z, FAR))
        x = np.floor(u)
        inside = seen & (x >= 0) & (x < IMAGE_SHAPE[1])
        if inside.sum() >= MIN_POINTS:
            lanes.append(np.where(inside, x, -2))
    return np.array(lanes, np.int64).reshape(-1, len(H_SAMPLES))

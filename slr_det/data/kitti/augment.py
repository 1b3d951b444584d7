"""How a training frame is varied: mirrored, turned and scaled about the scanner, after OpenPCDet's KITTI recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from slr_det.errors import ConfigError

#: SAMPLE_GROUPS of OpenPCDet's pointpillar.yaml.
USUAL_OBJECTS: Mapping[str, int] = MappingProxyType({"Car": 15, "Pedestrian": 15, "Cyclist": 15})


@dataclass(frozen=True)
class Augmentation:
    """What is done to training frames, in this order; the defaults are those of OpenPCDet's pointpillar.yaml.

    Balancing the classes is the business of ``objects``: a frame has cars by the dozen and cyclists hardly ever, and
    pasting the same number of each evens that out. On KITTI OpenPCDet does nothing else about it (it repeats frames of
    rare classes for nuScenes only), and so neither do we.

    Attributes:
        objects: How many objects of each class are taken from the database and pasted into a frame, less those that
            would overlap another; classes that the model does not have are passed over. Empty: none.
        fill: Count the objects that a frame has already, so that ``objects`` is what it is filled up to
            (LIMIT_WHOLE_SCENE).
        min_points: Least number of points of an object that is pasted.
        dropped_levels: Levels of difficulty of which no objects are pasted; -1 is harder than KITTI evaluates.
        clearance: Metres added to the length, width and height of a pasted box before the frame's own points inside
            it are removed.
        road_planes: Put pasted objects on the ground where a frame's plane is known (``planes/``).
        flips: Axes along which half of the frames are mirrored: ``x`` changes the sign of y, ``y`` that of x.
        rotation: Lowest and highest angle about the z axis, radians, uniform.
        scaling: Lowest and highest factor of all coordinates and sizes, uniform.
    """

    objects: Mapping[str, int] = field(default_factory=lambda: dict(USUAL_OBJECTS))
    fill: bool = False
    min_points: int = 5
    dropped_levels: tuple[int, ...] = (-1,)
    clearance: tuple[float, float, float] = (0.0, 0.0, 0.0)
    road_planes: bool = True
    flips: tuple[str, ...] = ("x",)
    rotation: tuple[float, float] = (-math.pi / 4, math.pi / 4)
    scaling: tuple[float, float] = (0.95, 1.05)

    def __post_init__(self) -> None:
        """Check the numbers; ConfigError names every field that is wrong."""
        problems = [
            f"objects: {count} of {name}, expected 0 or more"
            for name, count in self.objects.items()
            if count < 0
        ]
        problems += [f"flips: '{axis}', expected x or y" for axis in self.flips if axis not in ("x", "y")]
        if self.min_points < 1:
            problems.append(f"min_points: {self.min_points}, expected 1 or more")
        if not all(math.isfinite(side) and side >= 0 for side in self.clearance):
            problems.append(f"clearance: {self.clearance}, expected metres of 0 or more")
        if not all(map(math.isfinite, self.rotation)) or self.rotation[0] > self.rotation[1]:
            problems.append(f"rotation: {self.rotation}, expected a lower and a higher angle in radians")
        if not 0 < self.scaling[0] <= self.scaling[1] < math.inf:
            problems.append(f"scaling: {self.scaling}, expected a lower and a higher factor above 0")
        if problems:
            raise ConfigError([f"augmentation: {problem}" for problem in problems])


@dataclass(frozen=True, eq=False)
class Scene:
    """A frame while it is prepared.

    Attributes:
        points: (P, 4) float32, x, y, z in metres (lidar frame) and reflectance.
        boxes: (N, 7) float32, boxes of the lidar frame.
        names: (N,) str, KITTI types.
    """

    points: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32]
    names: npt.NDArray[np.str_]


def vary(scene: Scene, settings: Augmentation, generator: np.random.Generator) -> Scene:
    """Mirror, turn and scale a scene at random.

    Drawn from ``generator`` are, in this order, a coin per axis of ``flips``, the angle and the factor.
    """
    for axis in settings.flips:
        if generator.random() < 0.5:
            scene = flip(scene, axis)
    scene = rotate(scene, generator.uniform(*settings.rotation))
    return scale(scene, generator.uniform(*settings.scaling))


def flip(scene: Scene, axis: str) -> Scene:
    """Mirror a scene along the ``x`` axis (y changes its sign) or along the ``y`` axis (x does)."""
    column = 1 if axis == "x" else 0
    points, boxes = scene.points.copy(), scene.boxes.copy()
    points[:, column] *= -1
    boxes[:, column] *= -1
    boxes[:, 6] = -boxes[:, 6] if axis == "x" else np.pi - boxes[:, 6]
    return Scene(points, boxes, scene.names)


def rotate(scene: Scene, angle: float) -> Scene:
    """Turn a scene about the z axis of the scanner by radians, counter-clockwise as seen from above."""
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]], np.float32)
    points, boxes = scene.points.copy(), scene.boxes.copy()
    points[:, :2] = points[:, :2] @ turn
    boxes[:, :2] = boxes[:, :2] @ turn
    boxes[:, 6] += np.float32(angle)
    return Scene(points, boxes, scene.names)


def scale(scene: Scene, factor: float) -> Scene:
    """Multiply the coordinates of points and the centres and sizes of boxes."""
    points, boxes = scene.points.copy(), scene.boxes.copy()
    points[:, :3] *= np.float32(factor)
    boxes[:, :6] *= np.float32(factor)
    return Scene(points, boxes, scene.names)

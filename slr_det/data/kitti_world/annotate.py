"""Labels of a generated frame, in KITTI's terms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from slr_det.data.kitti.boxes import camera_corners, to_objects
from slr_det.data.kitti.labels import DONT_CARE, KittiObjects
from slr_det.data.kitti_world.bodies import CLASSES
from slr_det.data.kitti_world.lidar import Scan
from slr_det.data.kitti_world.rig import CALIBRATION, IMAGE_SHAPE
from slr_det.data.kitti_world.scene import Scene
from slr_det.data.kitti_world.solids import Array

#: Most that may be hidden of an object whose occlusion is 0 and 1: the share of the rays that would meet it if it
#: stood alone and meet something else first. What is hidden more is 2.
HIDDEN = (0.15, 0.5)
#: An object with fewer points than this in the camera's view has the occlusion 3 (unknown), which no difficulty counts.
MIN_POINTS = 5
#: An object of which less than this is in the picture in either direction has no label, pixels.
MIN_SIDE = 2.0


def label(scene: Scene, scan: Scan) -> KittiObjects:
    """Return the labels of a frame.

    Truncation is the part of the projected box that lies outside the picture. Occlusion comes from the scan, see
    HIDDEN and MIN_POINTS. An object in the picture without any point in it becomes a DontCare region, as nothing could
    find it; one outside the picture has no label.

    Args:
        scene: What was scanned.
        scan: Of that scene.

    Returns:
        Objects in the order of the scene's bodies, then DontCare regions.
    """
    indices = np.array([i for i, body in enumerate(scene.bodies) if body.name in CLASSES], dtype=np.int64)
    if len(indices) == 0:
        return KittiObjects.empty()
    names = [scene.bodies[i].name for i in indices]
    boxes = np.array([scene.bodies[i].box for i in indices])
    objects = to_objects(boxes, np.zeros(len(boxes)), names, CALIBRATION, IMAGE_SHAPE)
    width, height = np.ptp(objects.boxes_2d.reshape(-1, 2, 2), axis=1).T
    shown = (width >= MIN_SIDE) & (height >= MIN_SIDE)
    in_view = scan.body[CALIBRATION.in_view(scan.points, IMAGE_SHAPE)]
    counts = np.bincount(in_view[in_view >= 0], minlength=len(scene.bodies))[indices]
    truncated = np.clip(1 - width * height / _areas(objects), 0, 1)
    occluded = occlusion(scan.alone[indices], scan.seen[indices], counts)
    found = shown & (counts > 0)
    lost = shown & (counts == 0)
    return _joined(objects, truncated, occluded, np.flatnonzero(found), np.flatnonzero(lost))


def occlusion(
    alone: npt.NDArray[np.int64], seen: npt.NDArray[np.int64], points: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return KITTI's levels of occlusion, (N,): 0 visible, 1 partly, 2 largely occluded, 3 unknown.

    Args:
        alone: Rays that would meet each object if it stood alone, (N,).
        seen: Rays that meet it, (N,).
        points: Its points in the camera's view, (N,).
    """
    hidden = 1 - seen / np.maximum(alone, 1)
    level = np.digitize(hidden, HIDDEN, right=True)
    return np.where(points < MIN_POINTS, 3, level).astype(np.int64)


def _areas(objects: KittiObjects) -> Array:
    """Areas of the projected boxes, not clipped; every corner lies in front of the camera."""
    corners = camera_corners(objects.locations, objects.dimensions, objects.rotations)
    pixels, _ = CALIBRATION.rect_to_image(corners.reshape(-1, 3))
    return np.asarray(np.ptp(pixels.reshape(-1, 8, 2), axis=1).prod(axis=1))


def _joined(
    objects: KittiObjects,
    truncated: Array,
    occluded: npt.NDArray[np.int64],
    found: npt.NDArray[np.int64],
    lost: npt.NDArray[np.int64],
) -> KittiObjects:
    none, unknown = len(lost), np.full(len(lost), -1)
    return KittiObjects(
        names=(*(objects.names[i] for i in found), *[DONT_CARE] * none),
        truncated=np.concatenate([truncated[found], unknown]),
        occluded=np.concatenate([occluded[found], unknown]),
        alpha=np.concatenate([objects.alpha[found], np.full(none, -10)]),
        boxes_2d=objects.boxes_2d[np.concatenate([found, lost])],
        dimensions=np.concatenate([objects.dimensions[found], np.full((none, 3), -1)]),
        locations=np.concatenate([objects.locations[found], np.full((none, 3), -1000)]),
        rotations=np.concatenate([objects.rotations[found], np.full(none, -10)]),
    )

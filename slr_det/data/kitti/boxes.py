"""KITTI's camera boxes and the lidar boxes of the networks, converted into each other as OpenPCDet does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from slr_det.data.kitti.calibration import Calibration
from slr_det.data.kitti.labels import KittiObjects

#: Corners nearer to the camera than this, or behind it, are projected as if they were here (metres): a box beside the
#: car then reaches the border of the picture instead of the far side of it.
NEAREST = 0.1


def lidar_boxes(objects: KittiObjects, calibration: Calibration) -> npt.NDArray[np.float32]:
    """Convert labelled objects to boxes of the lidar frame.

    The location (centre of the bottom) is mapped from the rectified camera frame and raised by half the height along
    the lidar's z; the heading is -(rotation_y + π/2). The small tilt between the two frames is left out of the angles.

    Args:
        objects: N objects. Rows without a 3D box (DontCare) give boxes that mean nothing; leave them out.
        calibration: Of the same frame.

    Returns:
        (N, 7): x, y, z of the centre, length, width, height in metres, heading in radians (in [-3π/2, π/2] where
        rotation_y is in [-π, π]).
    """
    height, width, length = objects.dimensions.T
    centre = calibration.rect_to_lidar(objects.locations)
    centre[:, 2] += height / 2
    heading = -(objects.rotations + np.pi / 2)
    return np.column_stack((centre, length, width, height, heading)).astype(np.float32)


def to_objects(
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    names: Sequence[str],
    calibration: Calibration,
    image_shape: tuple[int, int],
) -> KittiObjects:
    """Convert detections to what KITTI's result files hold; the inverse of :func:`lidar_boxes`.

    rotation_y = -heading - π/2, alpha = rotation_y - arctan2(-y, x) with x and y of the lidar frame, both wrapped to
    [-π, π) as the format wants (OpenPCDet leaves them as they come, which no evaluator can tell). The 2D box is the
    hull of the eight projected corners, clipped to the picture.

    Args:
        boxes: (N, 7) boxes of the lidar frame; arrays and tensors on the CPU.
        scores: (N,).
        names: N class names.
        calibration: Of the frame.
        image_shape: Height and width of the frame's picture in pixels.

    Returns:
        N objects in the same order, truncation and occlusion -1 (unknown).
    """
    rows = np.asarray(boxes, np.float64).reshape(-1, 7)
    bottom = rows[:, :3].copy()
    bottom[:, 2] -= rows[:, 5] / 2
    locations = calibration.lidar_to_rect(bottom)
    rotations = -rows[:, 6] - np.pi / 2
    dimensions = rows[:, [5, 4, 3]]
    count = len(rows)
    return KittiObjects(
        names=tuple(names),
        truncated=np.full(count, -1.0),
        occluded=np.full(count, -1),
        alpha=_wrap(rotations - np.arctan2(-rows[:, 1], rows[:, 0])),
        boxes_2d=_image_boxes(locations, dimensions, rotations, calibration, image_shape),
        dimensions=dimensions,
        locations=locations,
        rotations=_wrap(rotations),
        scores=np.asarray(scores, np.float64).reshape(-1),
    )


def camera_corners(
    locations: npt.NDArray[np.float64],
    dimensions: npt.NDArray[np.float64],
    rotations: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return the corners (N, 8, 3) of camera boxes in the rectified camera frame, the bottom four first.

    Args:
        locations: (N, 3), centre of the bottom.
        dimensions: (N, 3), height, width, length.
        rotations: (N,), about the y axis, which points down; 0 turns the length along x.
    """
    height, width, length = (side[:, None] for side in dimensions.T)
    along = length / 2 * np.array([1, 1, -1, -1, 1, 1, -1, -1])
    across = width / 2 * np.array([1, -1, -1, 1, 1, -1, -1, 1])
    up = height * np.array([0, 0, 0, 0, -1, -1, -1, -1])
    cos, sin = np.cos(rotations)[:, None], np.sin(rotations)[:, None]
    corners = np.stack((along * cos + across * sin, up, across * cos - along * sin), axis=2)
    return np.asarray(corners + locations[:, None])


def _image_boxes(
    locations: npt.NDArray[np.float64],
    dimensions: npt.NDArray[np.float64],
    rotations: npt.NDArray[np.float64],
    calibration: Calibration,
    image_shape: tuple[int, int],
) -> npt.NDArray[np.float64]:
    """Return left, top, right, bottom in pixels, (N, 4), clipped to the pixels of the picture."""
    corners = camera_corners(locations, dimensions, rotations)
    corners[..., 2] = np.maximum(corners[..., 2], NEAREST)
    pixels = calibration.rect_to_image(corners.reshape(-1, 3))[0].reshape(-1, 8, 2)
    height, width = image_shape
    hull = np.concatenate((pixels.min(axis=1), pixels.max(axis=1)), axis=1)
    return np.asarray(np.clip(hull, 0, [width - 1, height - 1, width - 1, height - 1]))


def _wrap(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return (angles + np.pi) % (2 * np.pi) - np.pi

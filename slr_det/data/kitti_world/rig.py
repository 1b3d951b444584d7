"""The cameras of the generated world: their calibration, with values like those of KITTI's car, and their view."""

from __future__ import annotations

import numpy as np
from PIL import Image

from slr_det.data.kitti.calibration import Calibration
from slr_det.data.kitti_world.cast import GROUND, Rays, Window, cast
from slr_det.data.kitti_world.scene import COVERINGS, Ground, Scene
from slr_det.data.kitti_world.solids import Array, box_corners

#: Height and width of the pictures in pixels.
IMAGE_SHAPE = (375, 1242)

_FOCAL, _CENTRE = 721.54, (609.56, 172.85)
#: Fourth columns of P0 to P3: the baselines of the cameras times the focal length.
_BASELINES = ((0.0, 0.0, 0.0), (-387.57, 0.0, 0.0), (44.86, 0.22, 0.0027), (-339.52, 2.2, 0.0027))
_CELL = 3  # pixels of a picture to a ray
_SKY = (np.array([150.0, 184.0, 222.0]), np.array([218.0, 226.0, 232.0]))


def _turn(roll: float, pitch: float, yaw: float) -> Array:
    """Rotation about z, then y, then x, radians."""
    (a, b, c), (d, e, f) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    x = np.array([[1, 0, 0], [0, a, -d], [0, d, a]])
    y = np.array([[b, 0, e], [0, 1, 0], [-e, 0, b]])
    z = np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]])
    return np.asarray(x @ y @ z)


_AXES = np.array(
    [[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]]
)  # forward, left, up to right, down, forward
_INTRINSIC = np.array([[_FOCAL, 0.0, _CENTRE[0]], [0.0, _FOCAL, _CENTRE[1]], [0.0, 0.0, 1.0]])
_PROJECTIONS = [np.column_stack([_INTRINSIC, baseline]) for baseline in _BASELINES]
_RECTIFY = _turn(-0.0042, -0.0084, 0.0098)
_LIDAR_TO_CAMERA = np.column_stack([_turn(0.0012, 0.0076, -0.0075) @ _AXES, [-0.004, -0.076, -0.272]])
_IMU_TO_LIDAR = np.column_stack([_turn(0.0148, 0.002, 0.0008), [-0.809, 0.32, -0.8]])

CALIBRATION = Calibration(_PROJECTIONS[2], _RECTIFY, _LIDAR_TO_CAMERA)


def calibration_text() -> str:
    """Return the calib file, which is the same for every frame."""
    matrices = {f"P{i}": matrix for i, matrix in enumerate(_PROJECTIONS)}
    matrices |= {"R0_rect": _RECTIFY, "Tr_velo_to_cam": _LIDAR_TO_CAMERA, "Tr_imu_to_velo": _IMU_TO_LIDAR}
    return "".join(
        f"{name}: {' '.join(f'{value:.12e}' for value in matrix.ravel())}\n"
        for name, matrix in matrices.items()
    )


def plane_text(ground: Ground) -> str:
    """Return the file of the ground plane as planes/ of the KITTI packs has it: a, b, c, d in its fourth line.

    Points (x, y, z) of the rectified camera frame with a x + b y + c z + d = 0 lie on the ground; b < 0.
    """
    up = np.array([-ground.slope[0], -ground.slope[1], 1.0])
    up /= np.linalg.norm(up)
    foot = CALIBRATION.lidar_to_rect(np.array([[0.0, 0.0, ground.height(0.0, 0.0)]]))[0]
    normal = CALIBRATION.to_rect[:3, :3] @ up
    numbers = " ".join(f"{value:.6e}" for value in (*normal, -normal @ foot))
    return f"# Plane\nWidth 4\nHeight 1\n{numbers}\n"


def _view() -> Rays:
    """The camera's rays, one through the middle of each cell, with t the depth."""
    height, width = (side // _CELL for side in IMAGE_SHAPE)
    u, v = np.meshgrid((np.arange(width) + 0.5) * _CELL, (np.arange(height) + 0.5) * _CELL)
    # u = (f x + cx z + b) / z in the rectified frame: a pinhole at (-b / f, ...).
    eye = np.array([-_BASELINES[2][0] / _FOCAL, -_BASELINES[2][1] / _FOCAL, 0.0])
    rect = np.stack([(u - _CENTRE[0]) / _FOCAL, (v - _CENTRE[1]) / _FOCAL, np.ones_like(u)], axis=2)
    directions = rect @ CALIBRATION.to_lidar[:3, :3].T

    def window(low: Array, high: Array) -> Window:
        pixels, depth = CALIBRATION.rect_to_image(CALIBRATION.lidar_to_rect(box_corners(low, high)))
        if depth.min() < 0.1:
            return slice(0, height), slice(0, width)
        first = np.floor(pixels.min(axis=0) / _CELL - 0.5).astype(int)
        last = np.ceil(pixels.max(axis=0) / _CELL + 0.5).astype(int)
        (left, top), (right, bottom) = (np.clip(p, 0, [width, height]) for p in (first, last))
        return slice(int(top), int(bottom)), slice(int(left), int(right))

    return Rays(CALIBRATION.rect_to_lidar(eye[None])[0], directions, window)


VIEW = _view()


def render(scene: Scene) -> Image.Image:
    """Return the left colour camera's picture of a scene, flat-shaded, one colour to 3 x 3 pixels, RGB."""
    hits = cast(scene, VIEW)
    height, width = hits.body.shape
    fade = np.linspace(0, 1, height)[:, None, None] ** 0.5
    pixels = np.broadcast_to(_SKY[0] + (_SKY[1] - _SKY[0]) * fade, (height, width, 3)).copy()
    low = hits.body == GROUND
    at = VIEW.origin + hits.distance[low, None] * VIEW.directions[low]
    colours = np.array([material.colour for material in COVERINGS])
    pixels[low] = colours[scene.ground.covering(at[:, 0], at[:, 1])]
    for index in np.unique(hits.body[hits.body >= 0]):
        mine = hits.body == index
        palette = np.array([solid.material.colour for solid in scene.bodies[index].solids])
        pixels[mine] = palette[hits.part[mine]] * (0.45 + 0.55 * hits.cosine[mine, None])
    # Distant things fade into the haze; colours in steps keep the file small.
    solid = np.isfinite(hits.distance)
    haze = 1 - np.exp(-np.minimum(hits.distance[solid], 300) / 160)
    pixels[solid] += (_SKY[1] - pixels[solid]) * haze[:, None]
    image = Image.fromarray((np.clip(pixels, 0, 255) // 8 * 8).astype(np.uint8))
    return image.resize((IMAGE_SHAPE[1], IMAGE_SHAPE[0]), Image.Resampling.NEAREST)

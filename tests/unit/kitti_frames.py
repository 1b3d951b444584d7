"""Small folders in KITTI's layout, with scenes whose numbers are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from slr_det.data.kitti.calibration import Calibration

WIDTH, HEIGHT = 400, 200
#: The camera is the scanner: x right = -y, y down = -z, z forward = x; focal length 200 pixels, no offsets.
SIMPLE = """P0: 1 2 3
P2: 200 0 200 0 0 200 100 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0

Tr_imu_to_velo: nothing of ours
"""


def simple() -> Calibration:
    return Calibration(
        np.array([[200.0, 0, 200, 0], [0, 200, 100, 0], [0, 0, 1, 0]]),
        np.eye(3),
        np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]),
    )


def label(
    name: str,
    box: Sequence[float],
    *,
    height_2d: float = 50,
    truncated: float = 0,
    occluded: int = 0,
) -> str:
    """A line of label_2 for a lidar box under the simple calibration."""
    x, y, z, dx, dy, dz, heading = box
    bottom = z - dz / 2
    ry = -heading - np.pi / 2
    return f"{name} {truncated} {occluded} 0 100 100 150 {100 + height_2d} {dz} {dy} {dx} {-y} {-bottom} {x} {ry}"


DONT_CARE = "DontCare -1 -1 -10 5 6 7 8 -1 -1 -1 -1000 -1000 -1000 -10"


def add_frame(
    root: Path,
    frame: str,
    points: np.ndarray | Sequence[Sequence[float]] = (),
    labels: Sequence[str] = (),
    *,
    picture: bool = True,
) -> None:
    """Write one frame under root/training."""
    for part in ("velodyne", "calib", "label_2", *(["image_2"] if picture else [])):
        (root / "training" / part).mkdir(parents=True, exist_ok=True)
    training = root / "training"
    np.asarray(points, np.float32).reshape(-1, 4).tofile(training / "velodyne" / f"{frame}.bin")
    (training / "calib" / f"{frame}.txt").write_text(SIMPLE)
    (training / "label_2" / f"{frame}.txt").write_text("".join(f"{line}\n" for line in labels))
    if picture:
        Image.new("L", (WIDTH, HEIGHT)).save(training / "image_2" / f"{frame}.png")


def add_split(root: Path, name: str, text: str) -> Path:
    (root / "ImageSets").mkdir(exist_ok=True)
    file = root / "ImageSets" / f"{name}.txt"
    file.write_text(text)
    return file


def grid(box: Sequence[float], count: int, reflectance: float = 0.5) -> np.ndarray:
    """count**3 points spread through the inner 90 % of a box."""
    x, y, z, dx, dy, dz, heading = box
    steps = np.linspace(-0.45, 0.45, count)
    a, b, c = (side.ravel() for side in np.meshgrid(steps * dx, steps * dy, steps * dz, indexing="ij"))
    cos, sin = np.cos(heading), np.sin(heading)
    xyz = np.stack([x + a * cos - b * sin, y + a * sin + b * cos, z + c], axis=1)
    return np.column_stack([xyz, np.full(len(xyz), reflectance)]).astype(np.float32)

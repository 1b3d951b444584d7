"""Calibration files: the matrices in them, what they map to what, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kitti_frames import SIMPLE, simple

from slr_det.data.kitti.calibration import Calibration
from slr_det.errors import DataError


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "000007.txt"
    file.write_text(text)
    return file


def tilted() -> Calibration:
    """A camera with every entry in use: rotations about all axes, offsets, a third row of P2."""

    def turn(axis: int, angle: float) -> np.ndarray:
        matrix = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        matrix[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        return matrix

    rotation = turn(0, 0.03) @ turn(2, -0.02) @ simple().V2C[:, :3]
    return Calibration(
        np.array([[707.0, 0, 604, 45.7], [0, 707, 180, -0.35], [0, 0, 1, 0.005]]),
        turn(1, 0.01) @ turn(0, -0.004),
        np.column_stack([rotation, [-0.02, -0.06, -0.33]]),
    )


def test_a_file_gives_the_three_matrices_whatever_else_it_holds(tmp_path: Path) -> None:
    read = Calibration.read(written(tmp_path, SIMPLE))
    for name in ("P2", "R0", "V2C"):
        np.testing.assert_array_equal(getattr(read, name), getattr(simple(), name))


def test_a_point_in_front_is_where_a_pinhole_camera_sees_it() -> None:
    calibration = simple()
    rect = calibration.lidar_to_rect([[10.0, 2.0, -1.0]])
    np.testing.assert_allclose(rect, [[-2, 1, 10]])
    pixels, depths = calibration.rect_to_image(rect)
    np.testing.assert_allclose(pixels, [[200 - 200 * 2 / 10, 100 + 200 * 1 / 10]])
    np.testing.assert_allclose(depths, [10])


def test_the_maps_follow_their_definition_and_invert_each_other() -> None:
    calibration = tilted()
    xyz = np.random.default_rng(0).uniform(-50, 50, (40, 3))
    rect = calibration.lidar_to_rect(xyz)
    for point, mapped in zip(xyz, rect, strict=True):
        camera = calibration.V2C @ [*point, 1]
        np.testing.assert_allclose(mapped, calibration.R0 @ camera, atol=1e-12)
    np.testing.assert_allclose(calibration.rect_to_lidar(rect), xyz, atol=1e-12)


def test_points_in_view_are_those_whose_pixel_lies_in_the_picture() -> None:
    calibration = tilted()
    xyz = np.random.default_rng(1).uniform((-40, -40, -3), (70, 40, 3), (5000, 3)).astype(np.float32)
    pixels, depths = calibration.rect_to_image(calibration.lidar_to_rect(xyz))
    expected = [
        bool(0 <= u < 1242 and 0 <= v < 375 and depth >= 0)
        for (u, v), depth in zip(pixels, depths, strict=True)
    ]
    seen = calibration.in_view(xyz, (375, 1242))
    assert 200 < sum(expected) < 4000
    assert seen.tolist() == expected


def test_the_border_of_the_picture_belongs_to_it_at_the_left_and_the_top_only() -> None:
    depth = 8.0
    for u, v, inside in (
        (0, 0, True),
        (399.9, 199.9, True),
        (400, 100, False),
        (100, 200, False),
        (-0.1, 9, False),
    ):
        y, z = -(u - 200) / 200 * depth, -(v - 100) / 200 * depth
        assert simple().in_view(np.array([[depth, y, z]], np.float32), (200, 400)).tolist() == [inside]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Tr_velo_to_cam", "Tr_other", "000007.txt: no line 'Tr_velo_to_cam:'"),
        ("P2:", "P9:", "000007.txt: no line 'P2:'"),
        ("R0_rect:", "R0_rect", "000007.txt: no line 'R0_rect:'"),
        ("R0_rect: 1 0", "R0_rect: 1", "000007.txt:3: R0_rect has 8 values"),
        ("P2: 200", "P2: two", "000007.txt:2: P2 has 12 values ('two 0 200"),
        ("P2: 200", "P2: nan", "expected 12 finite numbers"),
        ("R0_rect: 1 0 0 0 1", "R0_rect: 1 0 0 1 0", "cannot be inverted"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        Calibration.read(written(tmp_path, SIMPLE.replace(old, new)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="000009.txt: no such file"):
        Calibration.read(tmp_path / "000009.txt")

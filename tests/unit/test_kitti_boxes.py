"""Boxes of the camera and of the lidar: closed forms, round trips, and what the camera sees of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from kitti_frames import HEIGHT, WIDTH, label, simple

from slr_det.data.kitti.boxes import camera_corners, lidar_boxes, to_objects
from slr_det.data.kitti.frames import KittiFolder
from slr_det.data.kitti.labels import DONT_CARE, read_objects, write_objects

SHAPE = (HEIGHT, WIDTH)


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of the upright boxes of each row."""
    sides = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0)
    shared = sides.prod(1)
    return np.asarray(shared / ((a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared))


def test_a_car_ahead_is_the_box_that_its_label_describes(tmp_path: Path) -> None:
    file = tmp_path / "000000.txt"
    # 10 m ahead, 2 m to the right, its bottom 1.5 m below the camera; facing right (0), then straight ahead (-π/2).
    file.write_text(
        "Car 0 0 0 1 2 3 4 1.6 1.8 4.0 2 1.5 10 0\nVan 0 0 0 1 2 3 4 2.0 1.9 5.0 2 1.5 10 -1.5707963\n"
    )
    boxes = lidar_boxes(read_objects(file), simple())
    expected = [[10, -2, -0.7, 4.0, 1.8, 1.6, -math.pi / 2], [10, -2, -0.5, 5.0, 1.9, 2.0, 0]]
    np.testing.assert_allclose(boxes, expected, atol=1e-6)
    assert boxes.dtype == np.float32


def test_a_detection_ahead_has_the_hull_of_its_projected_corners() -> None:
    # Faces of a cube of 2 m, 9 and 11 m ahead: the near one is the larger picture.
    objects = to_objects([[10, 0, 0, 2, 2, 2, 0.0]], [0.75], ["Car"], simple(), SHAPE)
    half = 200 * 1 / 9
    np.testing.assert_allclose(objects.boxes_2d, [[200 - half, 100 - half, 200 + half, 100 + half]])
    np.testing.assert_allclose(objects.locations, [[0, 1, 10]])
    np.testing.assert_allclose(objects.dimensions, [[2, 2, 2]])
    np.testing.assert_allclose(objects.rotations, [-math.pi / 2])
    np.testing.assert_allclose(objects.alpha, [-math.pi / 2])
    assert objects.scores is not None and objects.scores.tolist() == [0.75]
    assert objects.names == ("Car",)
    assert objects.truncated.tolist() == [-1] and objects.occluded.tolist() == [-1]


def test_alpha_is_the_heading_as_seen_along_the_ray_to_the_object() -> None:
    # Heading along the ray: always seen from behind, alpha -π/2, wherever the object is.
    for x, y in ((10, 0), (10, 5), (20, -8), (5, 4.9)):
        objects = to_objects([[x, y, 0, 4, 2, 1.5, math.atan2(y, x)]], [1], ["Car"], simple(), SHAPE)
        assert objects.alpha[0] == pytest.approx(-math.pi / 2)


@pytest.mark.parametrize("turns", [-2, -1, 1, 2])
def test_whole_turns_of_the_heading_change_nothing(turns: int) -> None:
    rng = np.random.default_rng(3)
    boxes = np.column_stack(
        [
            rng.uniform(5, 40, 20),
            rng.uniform(-9, 9, (20, 2)),
            rng.uniform(1, 4, (20, 3)),
            rng.uniform(-3, 3, 20),
        ]
    )
    turned = boxes.copy()
    turned[:, 6] += turns * 2 * math.pi
    once, again = (to_objects(b, np.ones(20), ["Car"] * 20, simple(), SHAPE) for b in (boxes, turned))
    for field in ("rotations", "alpha", "boxes_2d", "locations"):
        np.testing.assert_allclose(getattr(once, field), getattr(again, field), atol=1e-9)
    assert (np.abs(once.rotations) <= math.pi).all() and (np.abs(once.alpha) <= math.pi).all()


def test_the_picture_clips_and_what_is_behind_the_camera_reaches_its_border() -> None:
    boxes = [[1.5, 4, 0, 6, 2, 2, 0.0], [30, 60, 0, 4, 2, 2, 0.0]]
    objects = to_objects(boxes, [1, 1], ["Car", "Car"], simple(), SHAPE)
    left, top, right, bottom = objects.boxes_2d[0]
    # It stretches from 1.5 m behind the camera to 4.5 m before it, 3 to 5 m to the left: from u = 200 - 200 * 3 / 4.5
    # out of the picture at the left, nothing of it at the right.
    assert (left, top, bottom) == (0, 0, HEIGHT - 1)
    assert right == pytest.approx(200 - 200 * 3 / 4.5)
    np.testing.assert_allclose(objects.boxes_2d[1, [0, 2]], 0)


def test_corners_are_those_of_a_box_turned_about_the_vertical() -> None:
    rng = np.random.default_rng(5)
    locations, dimensions, turns = rng.normal(size=(6, 3)), rng.uniform(1, 4, (6, 3)), rng.uniform(-4, 4, 6)
    corners = camera_corners(locations, dimensions, turns)
    for place, (h, w, l), turn, found in zip(locations, dimensions, turns, corners, strict=True):
        rotation = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
        expected = {
            tuple(np.round(place + rotation @ [a * l / 2, -up * h, b * w / 2], 9))
            for a in (-1, 1)
            for b in (-1, 1)
            for up in (0, 1)
        }
        assert {tuple(corner) for corner in np.round(found, 9)} == expected
        assert np.allclose(found[:4, 1], place[1])


def test_tensors_and_no_boxes_are_taken() -> None:
    box = [[10.0, 0, 0, 2, 2, 2, 0.3]]
    of_tensor = to_objects(torch.tensor(box), torch.tensor([0.5]), ["Car"], simple(), SHAPE)
    np.testing.assert_allclose(of_tensor.rotations, [-0.3 - math.pi / 2], atol=1e-6)
    none = to_objects(torch.zeros(0, 7), torch.zeros(0), [], simple(), SHAPE)
    assert len(none) == 0 and none.boxes_2d.shape == (0, 4)
    assert lidar_boxes(none, simple()).shape == (0, 7)


def test_a_label_survives_the_way_to_the_lidar_and_back(tmp_path: Path) -> None:
    box = (12.5, -3.25, -0.75, 4.25, 1.75, 1.5, -2.0)
    file = tmp_path / "000000.txt"
    file.write_text(label("Cyclist", box))
    objects = read_objects(file)
    found = lidar_boxes(objects, simple())
    np.testing.assert_allclose(found, [box], atol=1e-5)
    back = to_objects(found, [1.0], objects.names, simple(), SHAPE)
    np.testing.assert_allclose(back.locations, objects.locations, atol=1e-5)
    np.testing.assert_allclose(back.rotations, objects.rotations, atol=1e-5)


@pytest.mark.samples
def test_real_labels_survive_the_way_to_the_lidar_and_back(samples: Path, tmp_path: Path) -> None:
    folder = KittiFolder.open(samples / "kitti")
    seen = 0
    for frame in folder.split("train"):
        objects = folder.objects(frame)
        objects = objects.take([name != DONT_CARE for name in objects.names])
        calibration, shape = folder.calibration(frame), folder.image_shape(frame)
        boxes = lidar_boxes(objects, calibration)
        back = to_objects(boxes, np.ones(len(boxes)), objects.names, calibration, shape)
        for field in ("locations", "dimensions", "rotations"):
            np.testing.assert_allclose(getattr(back, field), getattr(objects, field), atol=1e-4)
        # Labels give alpha with two decimals, as seen from the camera instead of the scanner (0.3 m apart).
        angle = np.abs((back.alpha - objects.alpha + np.pi) % (2 * np.pi) - np.pi)
        assert (angle < 0.05).all()
        # Annotators drew the 2D boxes around what they saw, which a box in space holds with some room.
        assert (overlaps(back.boxes_2d, objects.boxes_2d) > 0.8).all()
        again = read_objects(write_objects(tmp_path / f"{frame}.txt", back), scored=True)
        np.testing.assert_allclose(again.locations, objects.locations, atol=2e-4)
        seen += len(objects)
    assert seen >= 10

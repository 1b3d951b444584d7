"""Varying a scene: what each step does to points and boxes, and which objects are pasted where."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from kitti_frames import grid, simple

from slr_det.data.kitti.augment import Augmentation, Scene, flip, rotate, scale, vary
from slr_det.data.kitti.database import ObjectDatabase
from slr_det.data.kitti.sampling import Ground, ObjectSampler
from slr_det.errors import ConfigError
from slr_det.pointcloud.boxes import points_in_boxes

BOXES = np.array([[20, 3, -0.5, 4, 1.6, 1.5, 0.7], [12, -4, 0.25, 0.8, 0.6, 1.7, -2.9]], np.float32)


def scene(boxes: np.ndarray = BOXES, name: str = "Car") -> Scene:
    points = np.concatenate([np.zeros((0, 4), np.float32), *(grid(box, 3) for box in boxes)])
    return Scene(points, np.asarray(boxes, np.float32).reshape(-1, 7), np.array([name] * len(boxes), np.str_))


def inside(seen: Scene) -> np.ndarray:
    return points_in_boxes(torch.from_numpy(seen.points), torch.from_numpy(seen.boxes), margin=0.0).numpy()


def heading_vectors(boxes: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], axis=1)


@pytest.mark.parametrize(
    "change",
    [lambda s: flip(s, "x"), lambda s: flip(s, "y"), lambda s: rotate(s, 1.1), lambda s: scale(s, 1.05)],
    ids=["flip x", "flip y", "rotate", "scale"],
)
def test_points_stay_in_their_boxes_and_the_scene_given_is_not_changed(
    change: Callable[[Scene], Scene],
) -> None:
    before = scene()
    copies = before.points.copy(), before.boxes.copy()
    after = change(before)
    assert inside(before).sum(1).tolist() == [27, 27]
    np.testing.assert_array_equal(inside(after), inside(before))
    np.testing.assert_array_equal(before.points, copies[0])
    np.testing.assert_array_equal(before.boxes, copies[1])
    assert after.points.dtype == after.boxes.dtype == np.float32
    np.testing.assert_array_equal(after.points[:, 3], before.points[:, 3])
    assert not np.array_equal(after.points, before.points)


def test_flips_mirror_places_and_headings() -> None:
    for axis, signs in (("x", [1, -1]), ("y", [-1, 1])):
        after = flip(scene(), axis)
        np.testing.assert_allclose(after.points[:, :2], scene().points[:, :2] * signs)
        np.testing.assert_allclose(after.boxes[:, :2], BOXES[:, :2] * signs)
        np.testing.assert_allclose(heading_vectors(after.boxes), heading_vectors(BOXES) * signs, atol=1e-6)
        np.testing.assert_array_equal(after.boxes[:, 2:6], BOXES[:, 2:6])


def test_a_quarter_turn_brings_what_is_ahead_to_the_left() -> None:
    ahead = Scene(
        np.array([[5, 0, 1, 0.5]], np.float32),
        np.array([[10, 0, 0, 4, 2, 1, 0]], np.float32),
        np.array(["Car"]),
    )
    after = rotate(ahead, math.pi / 2)
    np.testing.assert_allclose(after.points, [[0, 5, 1, 0.5]], atol=1e-6)
    np.testing.assert_allclose(after.boxes, [[0, 10, 0, 4, 2, 1, math.pi / 2]], atol=1e-6)


def test_scaling_multiplies_places_and_sizes_but_no_angle_or_reflectance() -> None:
    after = scale(scene(), 2.0)
    np.testing.assert_allclose(after.boxes, BOXES * [2, 2, 2, 2, 2, 2, 1])
    np.testing.assert_allclose(after.points, scene().points * [2, 2, 2, 1])


def test_variations_fill_their_ranges_and_mirror_half_of_the_scenes() -> None:
    generator = np.random.default_rng(0)
    settings = Augmentation(rotation=(-0.5, 0.25), scaling=(0.9, 1.2))
    one = Scene(
        np.zeros((0, 4), np.float32), np.array([[10, 0, 0, 4, 2, 1, 0.1]], np.float32), np.array(["Car"])
    )
    after = np.array([vary(one, settings, generator).boxes[0] for _ in range(2000)])
    factors, turned = after[:, 3] / 4, np.arctan2(after[:, 1], after[:, 0])
    assert 0.9 <= factors.min() < 0.905 and 1.195 < factors.max() <= 1.2
    assert abs(factors.mean() - 1.05) < 0.01
    assert -0.5 <= turned.min() < -0.49 and 0.24 < turned.max() <= 0.2501
    # The heading relative to the place is 0.1, and -0.1 in a mirrored scene.
    mirrored = after[:, 6] - turned < 0
    assert 900 < mirrored.sum() < 1100
    assert abs(np.corrcoef(mirrored, turned)[0, 1]) < 0.1


def test_nothing_to_vary_leaves_the_scene_as_it_is() -> None:
    still = Augmentation(flips=(), rotation=(0, 0), scaling=(1, 1))
    after = vary(scene(), still, np.random.default_rng(0))
    np.testing.assert_array_equal(after.points, scene().points)
    np.testing.assert_array_equal(after.boxes, scene().boxes)


def test_settings_out_of_range_are_all_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Augmentation(
            objects={"Car": -1},
            min_points=0,
            flips=("z",),
            rotation=(1, -1),
            scaling=(0, 1),
            clearance=(0, -1, 0),
        )
    for word in (
        "objects: -1 of Car",
        "min_points: 0",
        "flips: 'z'",
        "rotation: ",
        "scaling: ",
        "clearance: ",
    ):
        assert word in str(caught.value)
    assert len(caught.value.problems) == 6


def database(boxes: np.ndarray, names: list[str], levels: list[int] | None = None) -> ObjectDatabase:
    """Objects of 8 points each, with a reflectance that numbers them."""
    clouds = [grid(box, 2, reflectance=i) for i, box in enumerate(boxes)]
    for cloud, box in zip(clouds, boxes, strict=True):
        cloud[:, :3] -= box[:3]
    return ObjectDatabase(
        names=np.array(names),
        frames=np.array(["000000"] * len(names)),
        boxes=np.asarray(boxes, np.float32),
        difficulties=np.array(levels or [0] * len(names), np.int8),
        points=np.concatenate(clouds),
        offsets=np.arange(len(names) + 1) * 8,
    )


def row_of_cars(count: int, x: float = 10) -> np.ndarray:
    """Cars beside each other, 3 m apart."""
    return np.array([[x, 3.0 * i, 0, 4, 2, 1.5, 0] for i in range(count)], np.float32)


def only(count: int, **settings: object) -> Augmentation:
    return Augmentation(objects={"Car": count}, **settings)  # type: ignore[arg-type]


EMPTY = Scene(np.zeros((0, 4), np.float32), np.zeros((0, 7), np.float32), np.zeros(0, np.str_))


def test_pasted_objects_bring_their_points_and_their_names() -> None:
    cars = row_of_cars(4)
    sampler = ObjectSampler(database(cars, ["Car"] * 4), ["Car"], only(4), 0)
    after = sampler.paste(scene(BOXES[1:], "Pedestrian"), 0, 0)
    assert after.names.tolist() == ["Pedestrian"] + ["Car"] * 4
    assert after.names.dtype.kind == "U"
    np.testing.assert_allclose(after.boxes[0], BOXES[1])
    order = after.boxes[1:, 1].argsort()
    np.testing.assert_allclose(after.boxes[1:][order], cars)
    assert inside(after).sum(1).tolist() == [27, 8, 8, 8, 8]
    assert sorted(after.points[:32, 3].tolist()) == [float(i) for i in range(4) for _ in range(8)]
    assert (after.points[32:, 3] == 0.5).all()


def test_points_of_the_frame_inside_a_pasted_box_give_way_with_some_clearance() -> None:
    car = row_of_cars(1)
    stray = np.array([[10, 0, 0, 0.9], [12.1, 0, 0, 0.9], [10, 0, 0.8, 0.9], [30, 0, 0, 0.9]], np.float32)
    before = Scene(stray, EMPTY.boxes, EMPTY.names)
    for clearance, left in (((0, 0, 0), [1, 2, 3]), ((0.4, 0, 0), [2, 3]), ((0, 0, 0.4), [1, 3])):
        sampler = ObjectSampler(database(car, ["Car"]), ["Car"], only(1, clearance=clearance), 0)
        after = sampler.paste(before, 0, 0)
        np.testing.assert_array_equal(after.points[8:], stray[left])
        np.testing.assert_array_equal(after.boxes, car)


def test_no_object_is_put_where_it_overlaps_a_box_of_any_class() -> None:
    cars = row_of_cars(3)
    taken = np.array([[11.5, 3, 0, 1.5, 1, 1, 0.4]], np.float32)
    before = Scene(np.zeros((0, 4), np.float32), taken, np.array(["Van"]))
    after = ObjectSampler(database(cars, ["Car"] * 3), ["Car"], only(3), 0).paste(before, 0, 0)
    assert sorted(after.boxes[1:, 1].tolist()) == [0, 6]


def test_overlapping_objects_of_one_draw_are_both_left_out() -> None:
    cars = row_of_cars(3)
    cars[1, 1] = 1  # overlaps the first; the third is apart
    after = ObjectSampler(database(cars, ["Car"] * 3), ["Car"], only(3), 0).paste(EMPTY, 0, 0)
    assert after.boxes[:, 1].tolist() == [6]


def test_a_later_class_gives_way_to_an_earlier_one() -> None:
    boxes = np.concatenate([row_of_cars(1), row_of_cars(2)])
    everything = database(boxes, ["Car", "Cyclist", "Cyclist"])
    settings = Augmentation(objects={"Car": 5, "Cyclist": 5})
    after = ObjectSampler(everything, ["Car", "Cyclist"], settings, 0).paste(EMPTY, 0, 0)
    assert after.names.tolist() == ["Car", "Cyclist"]
    assert after.boxes[:, 1].tolist() == [0, 3]


def test_boxes_that_touch_do_not_overlap() -> None:
    cars = row_of_cars(6, x=63.7)
    cars[:, 1] = np.arange(6) * 2.0  # side by side without a gap
    after = ObjectSampler(database(cars, ["Car"] * 6), ["Car"], only(6), 0).paste(EMPTY, 0, 0)
    assert len(after.boxes) == 6


def test_filling_up_counts_what_the_frame_has() -> None:
    cars = row_of_cars(10)
    for have, fill, pasted in ((0, True, 4), (3, True, 1), (4, True, 0), (6, True, 0), (3, False, 4)):
        before = scene(row_of_cars(have, x=40))
        sampler = ObjectSampler(database(cars, ["Car"] * 10), ["Car"], only(4, fill=fill), 0)
        after = sampler.paste(before, 0, 0)
        assert len(after.boxes) == have + pasted, (have, fill)


def test_objects_are_taken_by_class_points_and_level() -> None:
    cars = row_of_cars(4)
    everything = database(cars, ["Car", "Car", "Van", "Pedestrian"], [0, -1, 0, 0])
    settings = Augmentation(objects={"Car": 9, "Van": 9, "Pedestrian": 9})
    after = ObjectSampler(everything, ["Car", "Pedestrian"], settings, 0).paste(EMPTY, 0, 0)
    assert after.boxes[:, 1].tolist() == [0, 9]
    for min_points, count in ((8, 2), (9, 0)):
        settings = Augmentation(objects={"Car": 9, "Pedestrian": 9}, min_points=min_points)
        after = ObjectSampler(everything, ["Car", "Pedestrian"], settings, 0).paste(EMPTY, 0, 0)
        assert len(after.boxes) == count


def test_in_every_epoch_the_frames_share_the_objects_evenly() -> None:
    count, frames, each = 23, 46, 5
    sampler = ObjectSampler(database(row_of_cars(count), ["Car"] * count), ["Car"], only(each), 7)
    orders = []
    for epoch in range(3):
        draws = [sampler.draw("Car", each, epoch, i) for i in range(frames)]
        assert all(len(set(draw.tolist())) == each for draw in draws)
        assert (
            np.bincount(np.concatenate(draws), minlength=count).tolist() == [frames * each // count] * count
        )
        orders.append(np.concatenate(draws[:4]).tolist())
    assert orders[0] != orders[1] != orders[2]
    again = ObjectSampler(sampler.database, ["Car"], only(each), 7)
    assert again.draw("Car", each, 2, 3).tolist() == draws[3].tolist()
    assert again.draw("Car", each, 0, 0).tolist() == orders[0][:each]
    other = ObjectSampler(sampler.database, ["Car"], only(each), 8)
    assert other.draw("Car", each, 0, 0).tolist() != orders[0][:each]


def test_a_class_without_objects_is_passed_over() -> None:
    sampler = ObjectSampler(database(row_of_cars(1), ["Van"]), ["Car"], only(3), 0)
    assert sampler.paste(EMPTY, 0, 0) is EMPTY


def test_objects_are_put_on_the_road_where_it_is_known() -> None:
    # y (down) = 2 + 0.1 z (forward) - 0.05 x (right), so in the lidar frame z = -2 - 0.1 x - 0.05 y.
    plane = np.array([-0.05, -1.0, 0.1, 2.0])
    cars = row_of_cars(3)
    sampler = ObjectSampler(database(cars, ["Car"] * 3), ["Car"], only(3), 0)
    after = sampler.paste(EMPTY, 0, 0, Ground(plane, simple()))
    for box in after.boxes:
        x, y, z, _, _, dz, _ = box
        # Camera x = -y, so the plane at (x, y) is y_camera = 2 + 0.1 x + 0.05 y.
        assert z - dz / 2 == pytest.approx(-(2 + 0.1 * x + 0.05 * y), abs=1e-5)
    assert inside(after).sum(1).tolist() == [8, 8, 8]
    off = ObjectSampler(database(cars, ["Car"] * 3), ["Car"], only(3, road_planes=False), 0)
    assert (off.paste(EMPTY, 0, 0, Ground(plane, simple())).boxes[:, 2] == 0).all()

"""Frames as a network gets them: cropped, labelled, varied the same way whoever loads them."""

from __future__ import annotations

import copy
import math
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from kitti_frames import DONT_CARE, add_frame, add_split, grid, label

from slr_det.data.kitti import (
    Augmentation,
    Frame,
    KittiDataset,
    KittiFolder,
    collate,
    object_database,
)
from slr_det.data.loading import FrameLoader
from slr_det.errors import ConfigError, DataError
from slr_det.pointcloud.boxes import points_in_boxes

CLASSES = ("Car", "Pedestrian")
RANGE = (0, -20, -3, 40, 20, 1)
CAR = (20, 3, -0.5, 4, 1.6, 1.5, 0.7)
WALKER = (12, -4, -0.25, 0.8, 0.6, 1.7, -1.2)
FAR = (60, 1, -0.5, 4, 1.6, 1.5, 0)
#: Not in front of the camera; to its side, out of the picture; behind the range; above it.
UNSEEN = [[-5, 0, 0, 0.1], [5, 19, 0, 0.1], [45, 0, 0, 0.1], [30, 0, 2, 0.1]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    labels = [
        label("Truck", FAR),
        label("Pedestrian", WALKER),
        DONT_CARE,
        label("Car", CAR),
        label("Car", FAR),
    ]
    add_frame(root, "000001", np.vstack([UNSEEN, grid(CAR, 3), grid(WALKER, 2, 0.25)]), labels)
    add_frame(root, "000002", UNSEEN, [])
    add_frame(root, "000004", grid(CAR, 3), [label("Car", CAR)])
    add_split(root, "train", "000004\n000001\n000002\n")
    add_split(root, "val", "000001\n000002\n")
    return root


def training(root: Path, cache: Path, **settings: object) -> KittiDataset:
    folder = KittiFolder.open(root)
    return KittiDataset(
        folder,
        "train",
        CLASSES,
        RANGE,
        training=True,
        augmentation=Augmentation(rotation=(-0.2, 0.2)),
        database=object_database(folder, "train", cache, progress=False),
        **settings,  # type: ignore[arg-type]
    )


def same(a: Frame, b: Frame) -> bool:
    return a.frame_id == b.frame_id and torch.equal(a.points, b.points) and torch.equal(a.boxes, b.boxes)


def test_a_validation_frame_is_cropped_and_labelled_and_nothing_else(root: Path) -> None:
    data = KittiDataset(KittiFolder.open(root), "val", CLASSES, RANGE)
    assert len(data) == 2
    frame = data[0]
    assert frame.frame_id == "000001"
    assert frame.points.dtype == frame.boxes.dtype == torch.float32
    np.testing.assert_array_equal(frame.points, np.vstack([grid(CAR, 3), grid(WALKER, 2, 0.25)]))
    # Boxes of other classes go, those out of range stay for the evaluation to count.
    assert frame.boxes[:, 7].tolist() == [2, 1, 1]
    np.testing.assert_allclose(frame.boxes[:, :7], [WALKER, CAR, FAR], atol=1e-5)
    inside = points_in_boxes(frame.points, frame.boxes[:, :7])
    assert inside.sum(1).tolist() == [8, 27, 0]
    assert same(data[0], frame)


def test_the_crop_to_the_camera_can_be_left_out(root: Path) -> None:
    data = KittiDataset(KittiFolder.open(root), "val", CLASSES, RANGE, camera_only=False)
    assert len(data[0].points) == 27 + 8 + 1
    np.testing.assert_array_equal(data[1].points, np.array(UNSEEN[1:2], np.float32))


def test_a_frame_without_points_in_range_and_without_objects_loads(root: Path, tmp_path: Path) -> None:
    frame = KittiDataset(KittiFolder.open(root), "val", CLASSES, RANGE)[1]
    assert frame.points.shape == (0, 4) and frame.boxes.shape == (0, 8)
    folder = KittiFolder.open(root)
    plain = KittiDataset(folder, "train", CLASSES, RANGE, training=True, augmentation=Augmentation())
    assert plain[2].points.shape == (0, 4) and plain[2].boxes.shape == (0, 8)
    assert len(training(root, tmp_path)[2].boxes) > 0  # objects are pasted into it


def test_training_without_variations_shuffles_and_leaves_out_boxes_out_of_range(root: Path) -> None:
    data = KittiDataset(KittiFolder.open(root), "train", CLASSES, RANGE, training=True)
    plain = KittiDataset(KittiFolder.open(root), "train", CLASSES, RANGE)
    for epoch in range(2):
        data.set_epoch(epoch)
        frame, still = data[1], plain[1]
        assert not torch.equal(frame.points, still.points)
        assert sorted(frame.points.tolist()) == sorted(still.points.tolist())
        np.testing.assert_array_equal(frame.boxes, still.boxes[:2])
    first = data[1].points
    data.set_epoch(0)
    assert not torch.equal(data[1].points, first)


def test_a_varied_frame_has_its_points_inside_its_boxes(root: Path, tmp_path: Path) -> None:
    data = training(root, tmp_path)
    seen = set()
    for epoch in range(20):
        data.set_epoch(epoch)
        frame = data[0]
        assert (frame.boxes[:, 6] >= -math.pi).all() and (frame.boxes[:, 6] < math.pi).all()
        assert (
            (frame.points[:, :3] >= torch.tensor(RANGE[:3]))
            & (frame.points[:, :3] <= torch.tensor(RANGE[3:]))
        ).all()
        inside = points_in_boxes(frame.points, frame.boxes[:, :7])
        # The frame's own car, and the walker of the other frame; its car would overlap.
        counts = dict(zip(frame.boxes[:, 7].tolist(), inside.sum(1).tolist(), strict=True))
        assert counts == {1.0: 27, 2.0: 8}
        assert inside.sum() == len(frame.points) == 35
        seen.add(round(float(frame.boxes[0, 0]), 4))
    assert len(seen) == 20


def test_variations_depend_on_seed_epoch_and_index_alone(root: Path, tmp_path: Path) -> None:
    data = training(root, tmp_path, seed=3)
    data.set_epoch(5)
    first = [data[i] for i in range(3)]
    np.random.seed(0)
    torch.manual_seed(0)
    again = training(root, tmp_path, seed=3)
    again.set_epoch(4)
    again[1]
    again.set_epoch(5)
    assert all(same(again[i], first[i]) for i in (2, 0, 1))
    assert same(again[-1], first[2])
    other = training(root, tmp_path, seed=4)
    other.set_epoch(5)
    assert not same(other[0], first[0])
    again.set_epoch(6)
    assert not same(again[0], first[0])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))])
def test_a_copy_gives_the_same_frames(root: Path, tmp_path: Path, copied: object) -> None:
    data = training(root, tmp_path)
    data.set_epoch(2)
    assert same(copied(data)[1], data[1])  # type: ignore[operator]


def test_workers_that_persist_see_the_epoch_change(root: Path, tmp_path: Path) -> None:
    data = training(root, tmp_path)
    loader = FrameLoader(data, batch_size=2, num_workers=2, collate_fn=collate, persistent_workers=True)
    for epoch in range(2):
        data.set_epoch(epoch)
        batches = list(loader)
        assert [len(batch) for batch in batches] == [2, 1]
        found = [frame for batch in batches for frame in batch]
        assert all(same(frame, data[i]) for i, frame in enumerate(found))


def test_an_index_beyond_the_frames_ends_a_loop(root: Path) -> None:
    data = KittiDataset(KittiFolder.open(root), "val", CLASSES, RANGE)
    with pytest.raises(IndexError):
        data[2]
    assert [frame.frame_id for frame in data] == ["000001", "000002"]  # type: ignore[attr-defined]


def test_validation_is_never_varied(root: Path, tmp_path: Path) -> None:
    folder = KittiFolder.open(root)
    objects = object_database(folder, "train", tmp_path, progress=False)
    data = KittiDataset(folder, "val", CLASSES, RANGE, augmentation=Augmentation(), database=objects)
    assert same(data[0], KittiDataset(folder, "val", CLASSES, RANGE)[0])


def test_nonsense_is_named(root: Path) -> None:
    folder = KittiFolder.open(root)
    for classes, point_range, seed, word in (
        ((), RANGE, 0, "classes: none"),
        (("Car", "Car"), RANGE, 0, "classes: Car, Car"),
        (CLASSES, RANGE[:5], 0, "point_range"),
        (CLASSES, (0, 0, 0, 1, 0, 1), 0, "point_range"),
        (CLASSES, RANGE, -1, "seed: -1"),
    ):
        with pytest.raises(ConfigError, match=word):
            KittiDataset(folder, "train", classes, point_range, seed=seed)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_file_is_one_line_that_names_it_also_from_a_worker(root: Path, num_workers: int) -> None:
    data = KittiDataset(KittiFolder.open(root), "train", CLASSES, RANGE)
    file = root / "training" / "velodyne" / "000001.bin"
    good = file.read_bytes()
    loader = FrameLoader(data, num_workers=num_workers, collate_fn=collate)
    assert [batch[0].frame_id for batch in loader] == ["000004", "000001", "000002"]
    file.write_bytes(b"x" * 15)
    batches = iter(loader)
    assert next(batches)[0].frame_id == "000004"
    with pytest.raises(DataError) as caught:
        next(batches)
    assert str(caught.value).startswith(f"{file}: 15 bytes, expected a multiple of 16")
    assert "\n" not in str(caught.value)
    file.write_bytes(good)
    assert len(list(loader)) == 3


@pytest.mark.samples
def test_real_frames_load_and_their_boxes_contain_points(samples: Path, tmp_path: Path) -> None:
    folder = KittiFolder.open(samples / "kitti")
    classes = ("Car", "Pedestrian", "Cyclist")
    point_range = (0, -39.68, -3, 69.12, 39.68, 1)
    data = KittiDataset(folder, "val", classes, point_range)
    for frame in data:  # type: ignore[attr-defined]
        assert 10_000 < len(frame.points) < 30_000
        assert len(frame.boxes) >= 1
        inside = points_in_boxes(frame.points, frame.boxes[:, :7])
        assert (inside.sum(1) > 0).all(), frame.frame_id
        assert (inside.sum(1)[frame.boxes[:, 0] < 25] > 50).all(), frame.frame_id
    objects = object_database(folder, "train", tmp_path, progress=False)
    varied = KittiDataset(
        folder, "train", classes, point_range, training=True, augmentation=Augmentation(), database=objects
    )
    times = []
    for epoch in range(3):
        varied.set_epoch(epoch)
        for i in range(len(varied)):
            begin = time.perf_counter()
            frame = varied[i]
            times.append(time.perf_counter() - begin)
            assert len(frame.points) > 8000
            inside = points_in_boxes(frame.points, frame.boxes[:, :7])
            # A few centimetres of a box may lie outside the range or the cropped view, not all of it.
            assert (inside.sum(1) > 0).all()
    # The best, since other programs may take the processor meanwhile; 18 ms were measured.
    assert min(times) < 0.06

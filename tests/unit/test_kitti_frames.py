"""Folders in KITTI's layout: finding frames and splits, reading each file, and saying what is wrong with one."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kitti_frames import DONT_CARE, HEIGHT, WIDTH, add_frame, add_split, label
from PIL import Image

from slr_det.data.kitti.frames import KittiFolder
from slr_det.errors import DataError

BOX = (10, 0, 0, 4, 2, 1.5, 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three frames, no split files."""
    for i in range(3):
        add_frame(tmp_path, f"{i:06d}", [[10 + i, 0, 0, 0.25]], [label("Car", BOX), DONT_CARE])
    return tmp_path


@pytest.mark.parametrize(
    ("place", "splits_in"), [("root", "root"), ("training", "root"), ("training", "training")]
)
def test_the_folder_and_its_training_folder_both_work(root: Path, place: str, splits_in: str) -> None:
    add_split(root, "train", "000002\n\n000000\n")
    if splits_in == "training":
        shutil.move(root / "ImageSets", root / "training" / "ImageSets")
    folder = KittiFolder.open(root if place == "root" else root / "training")
    assert folder.split("train") == ["000002", "000000"]


def test_without_splits_every_complete_frame_is_in_each_and_a_warning_says_so_once(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_frame(root, "000009")
    (root / "training" / "label_2" / "000009.txt").unlink()
    (root / "training" / "velodyne" / "._000001.bin").write_bytes(b"macOS")
    with caplog.at_level(logging.WARNING):
        for name in ("train", "val"):  # as each phase of a run does
            assert KittiFolder.open(root).split(name) == ["000000", "000001", "000002"]
    (record,) = caplog.records
    assert "every split is all 3 frames" in record.getMessage()
    assert "(1 more lack a scan, a calib file or labels)" in record.getMessage()


def test_a_frame_is_read_as_it_was_written(root: Path) -> None:
    folder = KittiFolder.open(root)
    points = folder.points("000001")
    assert points.dtype == np.float32 and points.tolist() == [[11, 0, 0, 0.25]]
    assert folder.objects("000001").names == ("Car", "DontCare")
    assert folder.calibration("000001").P2[0, 0] == 200
    assert folder.image_shape("000001") == (HEIGHT, WIDTH)
    assert folder.road_plane("000001") is None


def test_points_that_are_no_numbers_are_dropped_and_a_scan_may_be_empty(root: Path) -> None:
    bad = float("nan"), float("inf"), -float("inf")
    rows = [
        [1, 2, 3, 0],
        [bad[0], 2, 3, 0],
        [1, bad[1], 3, 0],
        [1, 2, bad[2], 0],
        [1, 2, 3, bad[0]],
        [4, 5, 6, 1],
    ]
    add_frame(root, "000000", rows)
    add_frame(root, "000001", [])
    folder = KittiFolder.open(root)
    assert folder.points("000000").tolist() == [[1, 2, 3, 0], [4, 5, 6, 1]]
    assert folder.points("000001").shape == (0, 4)


def test_a_picture_may_be_a_jpeg_or_missing_which_is_said_once(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = root / "training" / "image_2"
    for i in range(3):
        (pictures / f"{i:06d}.png").unlink()
    Image.new("RGB", (321, 123)).save(pictures / "000000.jpg")
    with caplog.at_level(logging.WARNING):
        assert KittiFolder.open(root).image_shape("000000") == (123, 321)
        assert caplog.records == []
        assert KittiFolder.open(root).image_shape("000001") == (375, 1242)
        assert KittiFolder.open(root).image_shape("000002") == (375, 1242)
    (record,) = caplog.records
    assert "no picture of frame 000001" in record.getMessage()


def test_a_road_plane_is_scaled_to_a_unit_normal_that_points_up(root: Path) -> None:
    (root / "training" / "planes").mkdir()
    file = root / "training" / "planes" / "000000.txt"
    file.write_text("# Plane\nWidth 4\nHeight 1\n0.0 3.0 4.0 -8.0\n")
    plane = KittiFolder.open(root).road_plane("000000")
    assert plane is not None
    np.testing.assert_allclose(plane, [0, -0.6, -0.8, 1.6])
    for line in ("0 1 2", "0 1 2 x", "0 0 1 2", "nan 1 0 2", ""):
        file.write_text(f"# Plane\nWidth 4\nHeight 1\n{line}\n")
        with pytest.raises(DataError, match=r"000000\.txt:4: '.*expected four numbers"):
            KittiFolder.open(root).road_plane("000000")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("000000\nfront\n", "train.txt:2: 'front', expected the number of a frame"),
        ("000000\n-1\n", "train.txt:2: '-1'"),
        ("000000\n000000\n", "train.txt:2: frame 000000 again, already in line 1"),
        ("000007\n", "train.txt:1: frame 000007 has no file "),
        ("\n\n", "train.txt: lists no frame"),
        ("\x00\xff", "train.txt:1"),
    ],
)
def test_what_is_wrong_with_a_split_is_one_line_that_names_it(root: Path, text: str, message: str) -> None:
    add_split(root, "train", text)
    with pytest.raises(DataError) as caught:
        KittiFolder.open(root).split("train")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["velodyne", "calib", "label_2"])
def test_a_listed_frame_that_lacks_a_file_names_list_and_file(root: Path, part: str) -> None:
    add_split(root, "val", "000000\n000001\n")
    (file,) = (root / "training" / part).glob("000001.*")
    file.unlink()
    with pytest.raises(DataError) as caught:
        KittiFolder.open(root).split("val")
    assert "val.txt:2: frame 000001 has no file" in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_split_that_is_not_there_names_the_nearest(root: Path) -> None:
    add_split(root, "val", "000000\n")
    with pytest.raises(DataError, match=r"vall\.txt: no such file \(did you mean 'val'\?\)"):
        KittiFolder.open(root).split("vall")


def cut(file: Path) -> None:
    file.write_bytes(b"x" * 37)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "000001.bin: 37 bytes, expected a multiple of 16"),
        (Path.unlink, "000001.bin: no such file, expected the scan of frame 000001"),
    ],
)
def test_a_bad_scan_is_one_line_that_names_it(
    root: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = KittiFolder.open(root)
    damage(root / "training" / "velodyne" / "000001.bin")
    with pytest.raises(DataError) as caught:
        folder.points("000001")
    assert message in str(caught.value)


def test_a_folder_that_is_none_says_what_was_expected(root: Path) -> None:
    with pytest.raises(DataError, match=r"trainin: no such folder \(did you mean 'training'\?\)"):
        KittiFolder.open(root / "trainin")
    shutil.rmtree(root / "training" / "calib")
    with pytest.raises(
        DataError, match=r"training: no folder calib/ \(it holds image_2, label_2, velodyne\)"
    ):
        KittiFolder.open(root)
    shutil.rmtree(root / "training")
    with pytest.raises(DataError, match=r"no folder velodyne/ \(it is empty\)"):
        KittiFolder.open(root)


def test_folders_without_one_complete_frame_say_so(root: Path) -> None:
    for file in (root / "training" / "calib").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"no frame has a scan.*3 in velodyne/, 0 in calib/, 3 in label_2/"):
        KittiFolder.open(root).split("train")


def test_a_picture_that_is_none_is_named(root: Path) -> None:
    cut(root / "training" / "image_2" / "000002.png")
    with pytest.raises(DataError, match=r"000002\.png: not a readable image"):
        KittiFolder.open(root).image_shape("000002")

"""The database of objects: what is in it, its file, and when it is built again."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from kitti_frames import DONT_CARE, add_frame, add_split, grid, label

from slr_det.data.kitti import database as module
from slr_det.data.kitti.database import ObjectDatabase, collect, difficulty, load_database, object_database
from slr_det.data.kitti.frames import KittiFolder
from slr_det.data.kitti.labels import read_objects
from slr_det.errors import DataError, StorageError

CAR = (20, 3, -0.5, 4, 1.6, 1.5, 0.7)
WALKER = (12, -4, -0.25, 0.8, 0.6, 1.7, -1.2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Frame 1 has a car of 8 points, a walker of 27 and a truck of none; frame 2 has nothing; frame 3 a far car."""
    root = tmp_path / "data"
    ground = [[x, y, -1.7, 0.1] for x in range(3, 40, 4) for y in range(-20, 20, 4)]
    labels = [
        label("Car", CAR),
        DONT_CARE,
        label("Pedestrian", WALKER, height_2d=20),
        label("Truck", (60, 0, 0, 9, 3, 3, 0)),
    ]
    add_frame(root, "000001", np.vstack([ground, grid(CAR, 2, 0.75), grid(WALKER, 3)]), labels)
    add_frame(root, "000002", [], [])
    add_frame(root, "000003", grid(CAR, 1), [label("Car", CAR, height_2d=30)])
    add_split(root, "train", "000001\n000002\n000003\n")
    add_split(root, "val", "000003\n")
    return root


def same(a: ObjectDatabase, b: ObjectDatabase) -> bool:
    names = ObjectDatabase.__dataclass_fields__
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        and getattr(a, name).dtype == getattr(b, name).dtype
        for name in names
    )


def test_every_object_has_its_points_relative_to_its_centre(root: Path, tmp_path: Path) -> None:
    database = object_database(KittiFolder.open(root), "train", tmp_path / "cache", progress=False)
    assert database.names.tolist() == ["Car", "Pedestrian", "Truck", "Car"]
    assert database.frames.tolist() == ["000001", "000001", "000001", "000003"]
    assert database.counts.tolist() == [8, 27, 0, 1]
    assert database.difficulties.tolist() == [0, -1, 0, 1]
    assert len(database) == 4
    np.testing.assert_allclose(database.boxes[0], CAR, atol=1e-5)
    np.testing.assert_allclose(database.points_of(0)[:, :3], grid(CAR, 2)[:, :3] - CAR[:3], atol=1e-5)
    assert (database.points_of(0)[:, 3] == 0.75).all()
    assert database.points_of(2).shape == (0, 4)
    np.testing.assert_allclose(database.points_of(3)[:, :3], grid(CAR, 1)[:, :3] - CAR[:3], atol=1e-5)
    assert database.summary() == {"Car": 2, "Pedestrian": 1, "Truck": 1}


def test_objects_are_chosen_by_class_points_and_level(root: Path) -> None:
    database = collect(KittiFolder.open(root), ["000001", "000003"], progress=False)
    assert database.usable("Car", 1, ()).tolist() == [0, 3]
    assert database.usable("Car", 2, ()).tolist() == [0]
    assert database.usable("Car", 8, ()).tolist() == [0]
    assert database.usable("Car", 9, ()).tolist() == []
    assert database.usable("Car", 1, (0,)).tolist() == [3]
    assert database.usable("Pedestrian", 5, ()).tolist() == [1]
    assert database.usable("Pedestrian", 5, (-1,)).tolist() == []
    assert database.usable("Tram", 1, ()).tolist() == []


def test_a_split_without_objects_gives_an_empty_database(root: Path, tmp_path: Path) -> None:
    add_split(root, "empty", "000002\n")
    for _ in range(2):  # built, then read
        database = object_database(KittiFolder.open(root), "empty", tmp_path / "cache", progress=False)
        assert len(database) == 0 and database.points.shape == (0, 4) and database.boxes.shape == (0, 7)
        assert database.usable("Car", 1, ()).tolist() == [] and database.summary() == {}


@pytest.mark.parametrize(
    ("height_2d", "truncated", "occluded", "level"),
    [
        (39, 0.15, 0, 0),  # the last pixel counts: 40
        (38.9, 0.15, 0, 1),
        (39, 0.16, 0, 1),
        (39, 0.15, 1, 1),
        (24, 0.3, 1, 1),
        (39, 0.31, 1, 2),
        (39, 0, 2, 2),
        (24, 0.5, 2, 2),
        (23.9, 0, 0, -1),
        (39, 0.51, 0, -1),
        (39, 0, 3, -1),
    ],
)
def test_the_level_is_the_easiest_whose_limits_are_met(
    tmp_path: Path, height_2d: float, truncated: float, occluded: int, level: int
) -> None:
    file = tmp_path / "000000.txt"
    file.write_text(label("Car", CAR, height_2d=height_2d, truncated=truncated, occluded=occluded))
    assert difficulty(read_objects(file)).tolist() == [level]


def test_the_file_is_read_again_and_nothing_is_written_into_the_data(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(root.rglob("*"))
    cache = tmp_path / "cache" / "deeper"
    built = object_database(KittiFolder.open(root), "train", cache, progress=False)
    (file,) = cache.iterdir()
    assert file.name.startswith("objects-train-") and file.suffix == ".npz"
    monkeypatch.setattr(module, "collect", lambda *_, **__: pytest.fail("built again"))
    assert same(object_database(KittiFolder.open(root), "train", cache), built)
    assert sorted(root.rglob("*")) == before


def test_it_is_built_again_when_the_split_or_a_file_changes(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def names() -> list[str]:
        return object_database(KittiFolder.open(root), "train", cache, progress=False).names.tolist()

    assert names() == ["Car", "Pedestrian", "Truck", "Car"]
    add_split(root, "train", "000003\n000001\n")
    assert names() == ["Car", "Car", "Pedestrian", "Truck"]
    file = root / "training" / "label_2" / "000003.txt"
    state = file.stat()
    file.write_text(file.read_text().replace("Car", "Van"))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert names() == ["Van", "Car", "Pedestrian", "Truck"]
    assert len(list(cache.iterdir())) == 3


def test_an_interrupted_build_leaves_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"

    def interrupted(stream: object, **_: object) -> None:
        stream.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(module.np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        object_database(KittiFolder.open(root), "train", cache, progress=False)
    assert list(cache.iterdir()) == []


def test_a_damaged_file_is_named_and_built_again(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, cache = KittiFolder.open(root), tmp_path / "cache"
    built = object_database(folder, "train", cache, progress=False)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no database", whole[:200] + b"\xff" * 40 + whole[240:]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=file.name):
            load_database(file)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert same(object_database(folder, "train", cache, progress=False), built)
        assert [file.name in record.getMessage() for record in caplog.records] == [True]
        assert same(load_database(file), built)


def test_a_file_of_other_contents_is_refused(root: Path, tmp_path: Path) -> None:
    database = collect(KittiFolder.open(root), ["000001"], progress=False)
    arrays = {name: getattr(database, name) for name in ObjectDatabase.__dataclass_fields__}
    good = {"version": np.array(1), **arrays}
    bad = [
        {**good, "version": np.array(0)},
        {**good, "points": arrays["points"][1:]},
        {**good, "boxes": arrays["boxes"][1:]},
        {name: array for name, array in good.items() if name != "offsets"},
        {**good, "names": np.array([{"a": 1}, "b", "c"], dtype=object)},
    ]
    for content in bad:
        np.savez(tmp_path / "x.npz", **content)
        with pytest.raises(DataError, match=r"x\.npz"):
            load_database(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", **good)
    assert same(load_database(tmp_path / "x.npz"), database)
    with pytest.raises(DataError, match=r"y\.npz: no such file"):
        load_database(tmp_path / "y.npz")


def test_a_place_that_cannot_be_written_is_one_line(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        object_database(KittiFolder.open(root), "train", tmp_path / "file", progress=False)


def test_building_shows_its_progress(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    collect(KittiFolder.open(root), ["000001", "000003"], progress=True)
    assert "collecting objects" in capfd.readouterr().err


@pytest.mark.samples
def test_the_objects_of_real_frames_have_points(samples: Path, tmp_path: Path) -> None:
    folder = KittiFolder.open(samples / "kitti")
    database = object_database(folder, "train", tmp_path, progress=False)
    assert set(database.summary()) >= {"Car", "Pedestrian", "Cyclist"}
    assert (database.counts > 0).all()
    near = database.boxes[:, 0] < 30
    assert near.any() and (database.counts[near] > 50).all()
    # In the frame of its box, every point of an object is inside it.
    for i, box in enumerate(database.boxes):
        cos, sin = np.cos(box[6]), np.sin(box[6])
        x, y, z = database.points_of(i)[:, :3].T
        assert (np.abs(x * cos + y * sin) <= box[3] / 2 + 0.0101).all()
        assert (np.abs(y * cos - x * sin) <= box[4] / 2 + 0.0101).all()
        assert (np.abs(z) <= box[5] / 2 + 1e-4).all()

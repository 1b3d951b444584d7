"""What the PointPillars adapter takes and gives without training: arguments, data, and the names of its numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pointpillars_tiny import TINY

from slr_det.data.kitti_world import world_dataset
from slr_det.errors import CheckpointError, ConfigError, DataError
from slr_det.metrics.kitti import MEASURES, fractions
from slr_det.models.pointpillars import PRESETS
from slr_det.pointpillars import TASK
from slr_det.presets import POINTPILLARS
from slr_det_adapters.pointpillars import PointPillarsAdapter
from slr_det_adapters.pointpillars.arguments import Arguments
from slr_det_adapters.pointpillars.data import (
    Collate,
    KittiData,
    find_data,
    open_data,
    plain_frames,
    require_fit,
    training_frames,
)
from slr_det_adapters.subsets import drawn, spread

ADAPTER = PointPillarsAdapter()
LEVELS = ("easy", "moderate", "hard")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training frames and one to evaluate on, of the generated world."""
    return world_dataset(tmp_path_factory.mktemp("cache"), frames=(2, 1), progress=False)


# -- arguments --------------------------------------------------------------------------------------------


def test_the_defaults_are_openpcdets() -> None:
    given = Arguments.read({"overlap": 0.5, "lr": 1, "amp": False})
    assert given == Arguments(overlap="0.5", lr=1.0, amp="") and isinstance(given.lr, float)
    assert ADAPTER.trainer_keys() >= {"lr", "batch", "paste", "overlap", "ema", "workers", "val_every"}


def test_all_problems_come_at_once_and_name_what_was_expected() -> None:
    wrong: dict[str, Any] = {
        "lr": 0,
        "batch": 0,
        "overlap": "0.7",
        "paste": -1,
        "flip": "x",
        "rotation": "east",
        "scaling": 1.0,
        "bn_momentum": 0,
        "score": 1,
        "predictions": 3,
        "recalibration_frames": 0,
        "learning_rate": 0.1,
        "optimizer": "adamm",
    }
    with pytest.raises(ConfigError) as caught:
        Arguments.read(wrong)
    assert list(caught.value.problems) == [
        "lr is 0, expected a number above 0",
        "batch is 0, expected at least 1",
        "overlap is '0.7', expected one of standard, loose, 0.5 (did you mean '0.5'?)",
        "paste is -1, expected at least 0",
        "flip is 'x', expected true or false",
        "rotation is 'east', expected a number",
        "scaling is 1.0, expected a number in [0, 1)",
        "bn_momentum is 0, expected a number in (0, 1]",
        "score is 1, expected a number in [0, 1)",
        "predictions is 3, expected text",
        "recalibration_frames is 0, expected at least 1",
        "the trainer has no argument 'learning_rate'",
        "optimizer is 'adamm', expected one of sgd, adam, adamw, rmsprop (did you mean 'adam'?)",
    ]


def test_the_augmentation_is_what_the_arguments_say() -> None:
    full = Arguments(paste=3, rotation=90, scaling=0.1).augmentation(("Car", "Cyclist"))
    assert full.objects == {"Car": 3, "Cyclist": 3} and full.flips == ("x",)
    assert full.rotation == pytest.approx((-np.pi / 2, np.pi / 2)) and full.scaling == pytest.approx(
        (0.9, 1.1)
    )
    none = Arguments(paste=0, rotation=0, scaling=0, flip=False).augmentation(("Car",))
    assert (none.objects, none.flips, none.scaling) == ({}, (), (1.0, 1.0))
    assert none.rotation == (0.0, 0.0)


# -- data -------------------------------------------------------------------------------------------------


def test_a_folder_is_searched_for_the_classes_of_the_benchmark(world: Path) -> None:
    assert ADAPTER.prepare_data(str(world), Path("unused")) == world
    assert open_data(str(world)).classes == ("Car", "Pedestrian", "Cyclist")
    assert ADAPTER.classes(world) == 3


def test_a_yaml_file_names_the_folder_and_the_classes(world: Path, tmp_path: Path) -> None:
    file = tmp_path / "data.yaml"
    file.write_text(f"path: {world}\nclasses: [cyclist, Car]\n")
    assert open_data(str(file)).classes == ("Cyclist", "Car") and ADAPTER.classes(file) == 2
    (tmp_path / "beside").symlink_to(world)
    file.write_text("path: beside\n")  # relative to the file, not to where the command runs
    found = open_data(str(file))
    assert found.classes == ("Car", "Pedestrian", "Cyclist") and found.folder.split("train") == [
        "000000",
        "000001",
    ]


def test_the_word_world_is_generated_even_where_a_run_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "slr_det_adapters.pointpillars.data.world_dataset", lambda: asked.append("world") or tmp_path
    )
    monkeypatch.chdir(tmp_path)
    assert find_data("world") == tmp_path and asked == ["world"]
    (tmp_path / "world").mkdir()
    assert find_data("world") == tmp_path and asked == ["world", "world"]
    assert find_data("./world") == Path("world") and len(asked) == 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("path: nowhere\n", r"nowhere: no such folder"),
        ("classes: [Car]\n", "expected 'path:' with a folder in KITTI's layout"),
        ("[1, 2]\n", "expected 'path:' with a folder in KITTI's layout"),
        ("path: .\nclasses: Car\n", r"classes is 'Car', expected a list such as \[Car, Pedestrian\]"),
        ("path: .\nclasses: [Cra]\n", r"classes: class 'Cra': .*did you mean 'Car'"),
        ("path: .\n", "no folder velodyne/"),
        ("path: [\n", "data.yaml"),
        (b"\xff\xfe\x00\x01", "not a text file"),
    ],
    ids=["nowhere", "no path", "a list", "no list", "misspelt", "not KITTI", "no YAML", "binary"],
)
def test_wrong_data_are_one_line(content: str | bytes, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "data.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=expected) as caught:
        ADAPTER.prepare_data(str(file), tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_misspelt_word_is_told_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"data=wrold: no such folder or file \(did you mean 'world'\?\)"):
        ADAPTER.prepare_data("wrold", tmp_path)


def test_frames_are_the_first_so_many_or_spread_over_all(world: Path) -> None:
    data = open_data(str(world))
    few = Arguments(train_frames=1, paste=0)
    assert len(training_frames(data, TINY, few, 0)) == 1
    assert len(plain_frames(data, "train", TINY, few, 0)) == 2
    every = plain_frames(data, "train", TINY, Arguments(), 0)
    every.frames = [f"{n:06d}" for n in range(10)]
    assert [every.frames[i] for i in spread(every, 4).indices] == ["000000", "000003", "000006", "000009"]  # type: ignore[union-attr]
    assert spread(every, 0) is every and spread(every, 10) is every


def test_statistics_are_taken_on_whole_batches_in_an_order_of_their_own() -> None:
    every = drawn(10, 100, 1, seed=0)
    assert sorted(every) == list(range(10)) and every != list(range(10))
    assert drawn(10, 7, 3, seed=0) == every[:6]  # the seventh would be a batch of its own
    assert drawn(10, 100, 1, seed=1) != every
    assert drawn(2, 7, 3, seed=0) == drawn(2, 2, 1, seed=0)


def test_a_batch_has_the_pillars_and_the_boxes_of_its_frames(world: Path) -> None:
    data = KittiData(open_data(str(world)).folder, TINY.classes)
    frames = plain_frames(data, "train", TINY, Arguments(), 0)
    empty = frames[1]._replace(points=frames[1].points[:0], boxes=frames[1].boxes[:0])
    batch = Collate(TINY, True)([frames[0], empty])
    assert batch["ids"] == ["000000", "000001"] and batch["frames"] == 2
    assert 0 < len(batch["features"]) <= 500 and set(batch["coordinates"][:, 0].tolist()) == {0}
    assert torch.equal(batch["boxes"][0], frames[0].boxes) and batch["boxes"][1].shape == (0, 8)
    # Every point of the frame is in its batch, up to what a pillar has room for.
    counts = batch["counts"]
    assert int(counts.sum()) <= len(frames[0].points) and int(counts.max()) <= 8


def test_a_model_for_other_classes_is_told_what_to_do(world: Path) -> None:
    data = open_data(str(world))
    with pytest.raises(CheckpointError) as caught:
        require_fit(TINY, data, "tiny.pt", "kitti")
    assert str(caught.value) == (
        "model=tiny.pt finds Car, Cyclist but data=kitti is searched for Car, Pedestrian, Cyclist; give "
        "data=FILE.yaml with 'path: FOLDER' and 'classes: [Car, Cyclist]', or train a model for these classes with "
        "dense_epochs=N"
    )
    swapped = KittiData(data.folder, ("Cyclist", "Car"))
    with pytest.raises(CheckpointError, match="searched for Cyclist, Car"):
        require_fit(TINY, swapped, "tiny.pt", "kitti")
    fitting = KittiData(data.folder, ("Car", "Cyclist"))
    require_fit(replace(TINY), fitting, "tiny.pt", "kitti")
    with pytest.raises(
        CheckpointError, match=r"model=tiny\.pt takes 3 numbers of each point.*kitti have 4: x"
    ):
        require_fit(replace(TINY, point_features=3), fitting, "tiny.pt", "kitti")


# -- numbers ----------------------------------------------------------------------------------------------


def test_metrics_are_fractions_by_name_of_difficulty_class_and_measure() -> None:
    def percent(measure: int, cls: int, level: int) -> float:
        return 10.0 * measure + 3.0 * cls + level

    names = ("Car", "Cyclist")
    result = {
        measure: {
            name: {level: percent(m, c, d) for d, level in enumerate(LEVELS)} for c, name in enumerate(names)
        }
        for m, measure in enumerate(MEASURES)
    }
    metrics = fractions(result)
    first = MEASURES.index("3d_R40")
    assert list(metrics)[:3] == ["moderate", "easy", "hard"], "the headline comes first"
    for d, level in enumerate(LEVELS):
        assert metrics[level] == pytest.approx((percent(first, 0, d) + percent(first, 1, d)) / 200)
        for c, name in enumerate(names):
            assert metrics[f"{name}_{level}"] == pytest.approx(percent(first, c, d) / 100)
        for m, measure in enumerate(MEASURES):
            if m != first:
                key = f"{measure}_{level}"
                assert metrics[key] == pytest.approx((percent(m, 0, d) + percent(m, 1, d)) / 200)
                assert metrics["per_class"]["Cyclist"][key] == pytest.approx(percent(m, 1, d) / 100)
    assert metrics["per_class"].keys() == set(names)
    assert len(metrics) == 3 + 6 + 7 * 3 + 1
    assert len(fractions({m: v for m, v in result.items() if not m.startswith("aos")})) == 3 + 6 + 5 * 3 + 1


def test_the_preset_is_a_run_that_the_trainer_takes() -> None:
    assert Arguments.read(POINTPILLARS["train"]).overlap == "0.5"
    assert POINTPILLARS["model"] in PRESETS and TASK.metric in TASK.shown

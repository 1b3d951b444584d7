"""What the OpenPCDet adapter does without a checkout: arguments, settings, files, operations, stand-ins, errors."""

from __future__ import annotations

import re
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slr_det.adapter import load_adapter
from slr_det.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from slr_det.pointcloud.rotated import iou_bev, overlap_bev
from slr_det_adapters.openpcdet import (
    building,
    checkpoints,
    configs,
    inject,
    kitti,
    ops,
    substitutes,
    surroundings,
)
from slr_det_adapters.openpcdet.adapter import UNSUPPORTED
from slr_det_adapters.openpcdet.arguments import Arguments
from slr_det_adapters.openpcdet.evaluation import common_form, standard
from slr_det_adapters.substitutes import module

CONFIG: dict[str, Any] = {
    "CLASS_NAMES": ["Car"],
    "DATA_CONFIG": {"DATASET": "KittiDataset", "DATA_PROCESSOR": [{"NAME": "a"}, {"NAME": "b", "SIZE": 5}]},
    "MODEL": {"NAME": "PointPillar"},
    "OPTIMIZATION": {"LR": 0.003, "BATCH_SIZE_PER_GPU": 4, "LR_WARMUP": False},
}


def some_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    at = torch.rand(count, 3, generator=generator) * torch.tensor([8.0, 8.0, 1.0])
    size = torch.rand(count, 3, generator=generator) * 3 + 0.5
    return torch.cat([at, size, torch.rand(count, 1, generator=generator) * 6 - 3], dim=1)


# -- arguments and settings -------------------------------------------------------------------------------


def test_every_wrong_argument_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        Arguments.read({"batsh": 2, "workers": -1, "lr": "fast", "overlap": "0.7", "set": 3})
    text = str(error.value)
    assert "no argument 'batsh' (did you mean 'batch'?)" in text
    for part in ("workers is -1", "lr is 'fast'", "overlap is '0.7', expected one of", "set is 3"):
        assert part in text


def test_settings_come_as_a_mapping_nested_or_not_and_as_openpcdet_has_them() -> None:
    expected = {"A.B": 1, "A.C": [2]}
    for given in ({"A.B": 1, "A.C": [2]}, {"A": {"B": 1, "C": [2]}}, ["A.B", 1, "A.C", [2]]):
        assert Arguments.read({"set": given}).set == expected
    with pytest.raises(ConfigError, match="in turn"):
        Arguments.read({"set": ["A.B"]})
    assert Arguments.read({"overlap": 0.5}).overlap == "0.5", "YAML reads it as a number"


def test_a_setting_replaces_what_is_there_and_nothing_else() -> None:
    arguments = Arguments(batch=2, lr=0.1, set={"DATA_CONFIG.DATA_PROCESSOR.1.SIZE": 7, "OPTIMIZATION.LR": 1})
    changed = configs.with_arguments(CONFIG, arguments)
    assert changed["DATA_CONFIG"]["DATA_PROCESSOR"] == [{"NAME": "a"}, {"NAME": "b", "SIZE": 7}]
    assert changed["OPTIMIZATION"] == {"LR": 0.1, "BATCH_SIZE_PER_GPU": 2, "LR_WARMUP": False}
    assert CONFIG["OPTIMIZATION"]["LR"] == 0.003, "the configuration that was given is as it was"
    assert configs.with_arguments(CONFIG, Arguments()) == CONFIG


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MODEL.NAM", "x", r"no 'MODEL\.NAM' \(did you mean 'NAME'"),
        ("DATA_CONFIG.DATA_PROCESSOR.2.SIZE", 1, "number of an entry, below 2"),
        ("DATA_CONFIG.DATA_PROCESSOR.1.SIZE", "many", "expected a int as 5"),
        ("OPTIMIZATION.LR_WARMUP", 1, "expected a bool"),
        ("MODEL.NAME.X", 1, "no 'MODEL.NAME.X'"),
        ("DATA_CONFIG.DATASET", "WaymoDataset", "DATASET is WaymoDataset"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configs.with_arguments(CONFIG, Arguments(set={name: value}))


def test_a_device_is_one_device() -> None:
    assert building.device_of("cpu") == torch.device("cpu")
    for word, message in (
        ("0,1", "one process"),
        ("tpu", "expected cpu or the number"),
        ("99", "torch sees"),
    ):
        with pytest.raises(ConfigError, match=message):
            building.device_of(word)


# -- files ------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_ours_says_how_its_model_is_built(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    card = checkpoints.card_of(model, CONFIG)
    path = tmp_path / "model.pt"
    content = {"model_state": model.state_dict(), "lr": np.float64(0.25), "pair": (np.int64(1), "x")}
    checkpoints.write(path, {**content, checkpoints.KEY: card})
    assert torch.load(path)["pair"] == (1, "x"), "plain torch.load reads it: no numpy numbers are left"
    info = checkpoints.info(str(path))
    assert [(layer.name, layer.shape, layer.kind) for layer in info.layers] == [
        ("0.weight", (4, 3, 1, 1), "conv")
    ]
    assert set(info.weights) == {name for name, _ in model.named_parameters()}, "statistics are no parameters"
    assert info.classes == 1
    adapter = load_adapter("openpcdet")
    assert adapter.given(str(path), "", tmp_path, tmp_path / "start.pt") == str(path)
    with pytest.raises(ConfigError, match="brings its own weights"):
        adapter.given(str(path), "other.pth", tmp_path, tmp_path / "start.pt")


def test_numbers_of_numpy_in_a_checkpoint_are_read_and_code_is_not(tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    weights = {"w": torch.ones(2)}
    torch.save({"model_state": weights, "optimizer_state": {"lr": np.float64(0.5)}}, path)
    assert checkpoints.read_any(str(path))["optimizer_state"]["lr"] == 0.5
    torch.save({"model_state": weights, "version": Path("x")}, path)
    with pytest.raises(CheckpointError, match=r"own\.pth: truncated or damaged"):
        checkpoints.read_any(str(path))


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoints.read_any(str(path))
    path.write_bytes(b"not a file of torch")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.read_any(str(path))
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="'model_state'"):
        checkpoints.read_any(str(path))
    torch.save({"model_state": {"w": torch.ones(1)}}, path)
    with pytest.raises(CheckpointError, match=r"model=cfgs/kitti_models/pointpillar\.yaml weights="):
        checkpoints.read(str(path))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.zeros(2, 3)}, "has no weight 'bias'"),
        ({"weight": torch.zeros(1, 3), "bias": torch.zeros(2)}, r"has shape \[1, 3\].*\[2, 3\]"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "more": torch.zeros(1)}, "weight 'more'"),
    ],
)
def test_weights_of_another_model_are_refused(state: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load_into(nn.Linear(3, 2), state, "file.pth")


@pytest.mark.samples
def test_a_data_set_is_prepared_without_a_file_being_written_into_it(samples: Path, tmp_path: Path) -> None:
    source = samples / "kitti"
    before = sorted(source.rglob("*"))
    root = kitti.prepare(str(source), tmp_path)
    assert sorted(source.rglob("*")) == before
    assert (root / "ImageSets" / "val.txt").read_text() == "".join(f"{n:06}\n" for n in range(6))
    assert (root / "training" / "velodyne" / "000003.bin").is_file()
    assert kitti.prepare(str(source), tmp_path) == root


@pytest.mark.samples
def test_frames_without_labels_are_left_out_and_broken_scans_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, samples: Path
) -> None:
    folder = tmp_path / "training"
    for part, suffix in (("calib", ".txt"), ("label_2", ".txt"), ("velodyne", ".bin")):
        (folder / part).mkdir(parents=True)
        for frame in ("000001", "000002"):
            content = (samples / "kitti" / "training" / part / f"{frame}{suffix}").read_bytes()
            (folder / part / f"{frame}{suffix}").write_bytes(content)
    (folder / "label_2" / "000001.txt").write_text("")
    root = kitti.prepare(str(tmp_path), tmp_path / "work")
    assert (root / "ImageSets" / "train.txt").read_text() == "000002\n"
    assert "1 frames without a label are left out" in caplog.text
    (folder / "velodyne" / "000002.bin").write_bytes(b"123")
    with pytest.raises(DataError, match=r"000002\.bin: 3 bytes"):
        kitti.prepare(str(tmp_path), tmp_path / "work")


# -- operations and stand-ins -----------------------------------------------------------------------------


def test_operations_write_what_the_compiled_ones_write() -> None:
    a, b = some_boxes(9, 0), some_boxes(5, 1)
    out = torch.zeros(9, 5)
    ops.boxes_overlap_bev(a, b, out)
    assert torch.equal(out, overlap_bev(a, b)) and out.any()
    ops.boxes_iou_bev(a, b, out)
    assert torch.equal(out, iou_bev(a, b))
    pairs = torch.zeros(5, 1)
    ops.paired_overlap_bev(a[:5], b, pairs)
    assert torch.allclose(pairs[:, 0], overlap_bev(a[:5], b).diagonal(), atol=1e-6)


def test_suppression_keeps_what_a_loop_keeps() -> None:
    boxes = some_boxes(40, 2)
    for run, shown in ((ops.nms, boxes), (ops.nms_normal, boxes * torch.tensor([1, 1, 1, 1, 1, 1, 0.0]))):
        overlaps = iou_bev(shown, shown)
        expected: list[int] = []
        for i in range(len(boxes)):
            if all(float(overlaps[i, j]) <= 0.2 for j in expected):
                expected.append(i)
        keep = torch.zeros(40, dtype=torch.int64)
        count = run(boxes, keep, 0.2)
        assert 1 < count < 40 and keep[:count].tolist() == expected


def test_points_find_the_first_box_that_holds_them() -> None:
    boxes = torch.tensor([[[0.0, 0, 0, 2, 2, 2, 0], [0.5, 0, 0, 2, 2, 2, 0], [9, 9, 9, 1, 1, 1, 0]]])
    points = torch.tensor([[[0.0, 0, 0], [1.2, 0, 0], [5, 5, 5], [9, 9, 9]]])
    found = torch.full((1, 4), -1, dtype=torch.int32)
    ops.points_in_boxes_gpu(boxes, points, found)
    assert found.tolist() == [[0, 1, -1, 2]]
    flags = torch.zeros(3, 4, dtype=torch.int32)
    ops.points_in_boxes_cpu(boxes[0], points[0], flags)
    assert flags.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]]


def test_an_operation_that_is_not_rewritten_says_how_to_build_it() -> None:
    module = ops.replacement("pointnet2.pointnet2_stack.pointnet2_stack_cuda")
    with pytest.raises(MissingExtraError, match=r"pointnet2_stack_cuda.*setup\.py develop"):
        module.ball_query_wrapper(1, 2)
    with pytest.raises(AttributeError):
        _ = module.__wrapped__


@pytest.mark.parametrize("criterion", [-1, 0, 1, 2])
def test_rotated_overlap_of_the_evaluator_by_a_case_that_can_be_drawn(criterion: int) -> None:
    """A square of side 2, and a diamond of area 2 around the middle of its side, half of it inside the square."""
    boxes = np.array([[0.0, 0, 2, 2, 0.0]])
    query = np.array([[1.0, 0, 2**0.5, 2**0.5, np.pi / 4], [9, 9, 1, 1, 0]])
    shared = 1.0  # the left half of the diamond of area 2
    expected = {-1: shared / 5, 0: shared / 4, 1: shared / 2, 2: shared}[criterion]
    found = substitutes.rotate_iou().rotate_iou_gpu_eval(boxes, query, criterion)
    assert found == pytest.approx(np.array([[expected, 0.0]]), abs=1e-6)
    assert substitutes.rotate_iou().rotate_iou_gpu_eval(boxes, query[:0]).shape == (1, 0)


def test_angles_of_the_evaluator_turn_clockwise() -> None:
    """A long box at rotation_y lies along (cos, -sin) in the (x, z) plane: a small one there is inside it."""
    angle = 0.5
    long_box = np.array([[0.0, 0, 10, 0.5, angle]])
    along = np.array([[4 * np.cos(angle), -4 * np.sin(angle), 0.2, 0.2, angle]])
    across = np.array([[4 * np.cos(angle), 4 * np.sin(angle), 0.2, 0.2, angle]])
    overlap = substitutes.rotate_iou().rotate_iou_gpu_eval
    assert overlap(long_box, along, 1)[0, 0] == pytest.approx(1.0, abs=1e-5)
    assert overlap(long_box, across, 1)[0, 0] == 0.0


def test_the_stand_in_for_easydict_behaves_as_a_configuration_needs() -> None:
    made = substitutes.EasyDict({"A": {"B": 1}, "L": [{"C": 2}, (3,)]})
    assert (made.A.B, made.L[0].C, made.L[1]) == (1, 2, (3,))
    made.A.update({"D": {"E": 4}})
    made.F = {"G": 5}
    assert (made.A.D.E, made["F"].G, made.get("none", 6), made.setdefault("H", {"I": 7}).I) == (4, 5, 6, 7)
    del made.F
    assert "F" not in made and made.pop("L") and dict(made) == {"A": {"B": 1, "D": {"E": 4}}, "H": {"I": 7}}
    with pytest.raises(AttributeError):
        _ = made.F


def test_stand_ins_are_gone_after_the_import() -> None:
    missing = [name for name in substitutes.packages() if not surroundings.installed(name)]
    before = set(sys.modules)
    with surroundings.stand_ins():
        assert all(name in sys.modules for name in missing)
    assert not any(name in sys.modules for name in missing if name not in before)
    assert not surroundings.installed("a package that nobody has")


def test_metrics_are_fractions_and_means_over_classes() -> None:
    tables = {
        "3d_R40": {
            "Car": {"easy": 90.0, "moderate": 80.0, "hard": 70.0},
            "Cyclist": {"easy": 50.0, "moderate": 0.0, "hard": 10.0},
        },
        "bev_R40": {
            "Car": {"easy": 99.0, "moderate": 98.0, "hard": 97.0},
            "Cyclist": {"easy": 1.0, "moderate": 2.0, "hard": 3.0},
        },
    }
    found = common_form(tables, 12)
    assert (found["easy"], found["moderate"], found["hard"]) == pytest.approx((0.7, 0.4, 0.4))
    assert (found["Car_moderate"], found["bev_R40_moderate"]) == pytest.approx((0.8, 0.5))
    assert found["per_class"]["Car"]["moderate"] == 0.8
    assert found["per_class"]["Cyclist"]["bev_R40_hard"] == 0.03
    assert found["frames"] == 12


def test_its_dictionary_of_results_is_read_by_measure_and_class() -> None:
    words = ("3d", "bev", "image")
    levels = ("easy", "moderate", "hard")
    found = {
        f"Car_{w}/{level}_R40": 10.0 * i + k for i, w in enumerate(words) for k, level in enumerate(levels)
    }
    assert standard(found, ["Car"]) == {
        "3d_R40": {"Car": {"easy": 0.0, "moderate": 1.0, "hard": 2.0}},
        "bev_R40": {"Car": {"easy": 10.0, "moderate": 11.0, "hard": 12.0}},
        "bbox_R40": {"Car": {"easy": 20.0, "moderate": 21.0, "hard": 22.0}},
    }


# -- a checkout that is not one ---------------------------------------------------------------------------


def test_a_missing_or_wrong_checkout_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inject, "_imported", None)
    with pytest.raises(ConfigError, match=r"nothing is there.*SLR_DET_OPENPCDET.*git submodule update"):
        inject.import_checkout(tmp_path / "nowhere")
    (tmp_path / "pcdet").mkdir()
    with pytest.raises(ConfigError, match=r"pcdet/__init__\.py is missing"):
        inject.import_checkout(tmp_path)
    monkeypatch.setenv(inject.VARIABLE, str(tmp_path))
    assert inject.checkout_path() == tmp_path
    assert configs.around(str(tmp_path / "tools" / "x.yaml")) is None


def test_a_checkout_with_other_modules_or_missing_packages_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it stays imported, so that another one can be tried."""
    monkeypatch.setattr(inject, "_imported", None)
    monkeypatch.setattr(inject, "UPSTREAM", replace(inject.UPSTREAM, seams=()))
    if "pcdet" in sys.modules:
        pytest.skip("a checkout is imported in this process")
    for part in ("pcdet/__init__.py", "pcdet/config.py", "tools/train_utils/train_utils.py"):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part).write_text("")
    for content, error, message in (
        ("", ConfigError, r"no module pcdet\.datasets; check out commit"),
        (
            "import nobody_has_this\n",
            MissingExtraError,
            "needs the package 'nobody_has_this'.*uv pip install",
        ),
        (
            "raise ImportError('undefined symbol: _ZN')\n",
            ConfigError,
            "undefined symbol.*rebuild it for this torch",
        ),
    ):
        (tmp_path / "pcdet" / "config.py").write_text(content)
        path, finders = list(sys.path), list(sys.meta_path)
        with pytest.raises(error, match=message):
            inject.import_checkout(tmp_path)
        assert "pcdet" not in sys.modules and sys.path == path and sys.meta_path == finders
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_function_that_moved_or_changed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = inject.Checkout(tmp_path, frozenset())
    monkeypatch.setitem(sys.modules, "moved", module("moved", add=lambda a, b=2: a + b))
    assert checkout.call("moved", "add", a=1) == 3
    assert checkout.call("moved", "add", a=1, b=5, unknown_here=0) == 6
    with pytest.raises(ConfigError, match=r"add of moved wants 'a'.*git -C"):
        checkout.call("moved", "add", b=1)
    with pytest.raises(ConfigError, match="no 'subtract' in moved"):
        checkout.seam("moved", "subtract")
    with pytest.raises(ConfigError, match="no 'x' in nobody_has_this"):
        checkout.seam("nobody_has_this", "x")


def test_the_page_about_this_backend_lists_every_argument_with_its_default() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "openpcdet.md").read_text(encoding="utf-8")
    table = page.split("## Arguments\n", 1)[1].split("\n## ", 1)[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", table, flags=re.MULTILINE))
    arguments = Arguments()
    assert list(rows) == [field.name for field in fields(Arguments)]
    for name, shown in rows.items():
        value = getattr(arguments, name)
        assert shown.strip(" `") == (
            "" if value in ("", {}) else f"{value:g}" if name == "lr" else str(value)
        ), name
    for name in UNSUPPORTED:
        assert f"`{name.removesuffix('_temperature')}`" in page
    assert inject.WRITTEN_FOR in page

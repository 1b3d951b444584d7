"""Every file in configs/ is loaded as its own launch command would load it, and holds the numbers of the paper."""

from __future__ import annotations

import functools
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from slr_det import classify
from slr_det.adapter import Adapter, ModelInfo, load_adapter
from slr_det.allocation import Allocation, allocate
from slr_det.config import RunConfig, load_config
from slr_det.errors import ConfigError, MissingExtraError
from slr_det.layers import make_layer
from slr_det.pipeline import allocate_for
from slr_det.task import Task

ROOT = Path(__file__).parents[2]
# Studies and sweeps are files of other kinds, see test_study_files.py and test_sweep.py.
FILES = [
    path
    for path in sorted((ROOT / "configs").rglob("*.yaml"))
    if path.parent.name not in ("studies", "sweeps")
]
# Zhou et al., Table 5: rate, epochs, AP50 x100 of the dense model, of ADMM and of SLR.
TABLE_5 = {
    "yolov3-tiny_1.19x": (1.19, 15, 37.1, 35.2, 36.1),
    "yolov3-tiny_2x": (2.0, 20, 37.1, 32.2, 36.0),
    "yolov3-tiny_3.33x": (3.33, 25, 37.1, 25.3, 35.4),
    "yolov3-spp_2x": (2.0, 15, 64.4, 41.2, 53.2),
}
# Table 1: rate, epochs, top-1 x100 of ADMM and of SLR (and top-5 of both); the optimizer, learning rate, batch size.
TABLE_1 = {
    "cifar_resnet18_8.71x": (8.71, 40, (72.84, 89.93), ()),
    "cifar_resnet50_6.57x": (6.57, 50, (78.63, 88.91), ()),
    "cifar_vgg16_12x": (12.0, 110, (69.05, 87.31), ()),
    "cifar_resnet56_6.5x": (6.5, 30, (90.5, 92.3), ()),
    "cifar_resnet110_9.7x": (9.7, 30, (89.71, 92.31), ()),
    "imagenet_resnet18_6.5x": (6.5, 40, (58.9, 60.9), (81.7, 84.4)),
    "imagenet_resnet50_3.89x": (3.89, 30, (64.8, 65.9), (85.1, 87.5)),
    "imagenet_mobilenetv2_1.76x": (1.76, 60, (61.8, 63.2), (84.3, 85.5)),
}
TRAINING = {"cifar": ("adam", 0.01, 128), "imagenet": ("sgd", 1e-4, 256)}
# Tables 3 and 4: rate, top-1 x100 of ADMM and of SLR, hard-pruned; M, r and s0.
TABLES_3_AND_4 = {
    "mixer_b16_1.96x": ("3, MLP-Mixer B/16", 1.96, (75.332, 75.392), (300, 0.1, 0.01)),
    "mixer_b16_3.16x": ("3, MLP-Mixer B/16", 3.16, (71.798, 72.578), (300, 0.1, 0.01)),
    "mixer_b16_8.28x": ("3, MLP-Mixer B/16", 8.28, (47.592, 54.834), (300, 0.1, 0.01)),
    "swin_tiny_1.95x": ("4, Swin-T", 1.95, (78.910, 79.018), (150, 0.1, 0.05)),
    "swin_tiny_3.13x": ("4, Swin-T", 3.13, (73.074, 74.322), (300, 0.1, 0.01)),
    "swin_tiny_4.50x": ("4, Swin-T", 4.50, (63.892, 67.398), (150, 0.05, 0.005)),
}


def launch_command(path: Path) -> list[str]:
    """The words of the command that the file opens with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        lines.append(text.removesuffix("\\"))
        if not text.endswith("\\"):
            break
    return shlex.split(" ".join(lines))


@functools.cache
def adapter_named(name: str) -> Adapter:
    try:
        return load_adapter(name)
    except (ConfigError, MissingExtraError, ImportError) as error:
        pytest.skip(f"the {name} adapter is not installed ({error})")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_launch_command_loads_the_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder in configs/ is the task: its command line, its adapter."""
    folder = path.relative_to(ROOT / "configs").parts[0]
    task: Task = importlib.import_module(f"slr_det.{folder}").TASK
    backend = str(yaml.safe_load(path.read_text(encoding="utf-8")).get("backend", ""))
    adapter = adapter_named(task.adapter_of(backend))
    words = launch_command(path)
    assert words[:4] == [*task.module.split(), "--config"]
    assert words[4] == str(path.relative_to(ROOT))
    settings = [word for word in words[5:] if re.match(r"\w+=", word)]
    monkeypatch.chdir(tmp_path)
    for setting in settings:
        key, _, value = setting.partition("=")
        if key in ("model", "weights") and Path(value).suffix:
            Path(value).write_bytes(b"")
    config = load_config(
        path,
        settings,
        trainer_keys=adapter.trainer_keys(),
        required=("model", "data"),
        task=task.name,
        unsupported=adapter.unsupported(),
    )
    assert config.name == path.stem and config.method[0] == "slr"
    assert config.dense_epochs > 0 or config.weights or adapter.is_checkpoint(config.model)
    if config.prune.target_compression is None:
        assert config.prune.keep is not None
        return
    layers = [make_layer("a", (64, 64, 3, 3)), make_layer("b", (128, 64, 1, 1))]
    allocation = allocate(
        layers, projection=config.prune.projection, target_compression=config.prune.target_compression
    )
    assert allocation.compression()["model"]["rate"] == pytest.approx(
        config.prune.target_compression, rel=1e-3
    )


@pytest.mark.parametrize(("name", "row"), TABLE_5.items())
def test_the_rows_of_the_paper_are_the_papers(name: str, row: tuple[float, ...]) -> None:
    config: RunConfig = load_config(ROOT / "configs" / "yolo" / f"{name}.yaml", ["model=m.yaml"])
    assert config.paper is not None
    paper = (config.paper["dense"], config.paper["admm"], config.paper["slr"])
    assert (config.prune.target_compression, config.epochs, *paper) == row
    assert (config.slr.rho, config.slr.M, config.slr.r, config.slr.s0) == (0.1, 300.0, 0.1, 0.01)
    assert config.train["imgsz"] == 640 and config.retrain_epochs == 0
    assert config.backend == "yolov3"  # whose checkpoints the paper pruned
    assert config.paper["metric"] == "AP50 x100"
    title = name.partition("_")[0].replace("yolov3", "YOLOv3").replace("spp", "SPP")
    assert f"Table 5, {title}, {row[0]:g}x, {row[1]} epochs" in config.paper["source"]


def classifier(name: str) -> RunConfig:
    path = ROOT / "configs" / "classify" / f"{name}.yaml"
    return load_config(path, task="classify", trainer_keys=adapter_named("timm").trainer_keys())


def test_every_row_of_the_papers_classifiers_has_its_file_and_no_other() -> None:
    files = {path.stem for path in (ROOT / "configs" / "classify").glob("*.yaml")}
    assert files == {"digits", *TABLE_1, *TABLES_3_AND_4}


@pytest.mark.parametrize(("name", "row"), TABLE_1.items())
def test_the_classifiers_of_table_1(name: str, row: tuple[Any, ...]) -> None:
    rate, epochs, top1, top5 = row
    config = classifier(name)
    assert config.paper is not None
    assert (config.epochs, (config.paper["admm"], config.paper["slr"])) == (epochs, top1)
    assert config.prune.target_compression == rate or name == "cifar_resnet18_8.71x"
    data = name.partition("_")[0]
    assert tuple(config.train[key] for key in ("optimizer", "lr", "batch")) == TRAINING[data]
    assert (config.slr.rho, config.slr.M, config.slr.r, config.slr.s0) == (0.1, 300.0, 0.1, 0.01)
    said = config.paper["source"]
    assert f"{rate:g}x, {epochs} epochs" in said and "Table 1," in said
    assert not top5 or f"ADMM {top5[0]}, SLR {top5[1]}" in said
    assert_hard_pruning_alone(config)


@pytest.mark.parametrize(("name", "row"), TABLES_3_AND_4.items())
def test_the_classifiers_of_tables_3_and_4(name: str, row: tuple[Any, ...]) -> None:
    where, rate, top1, (M, r, s0) = row
    config = classifier(name)
    assert config.paper is not None
    assert (config.prune.target_compression, (config.paper["admm"], config.paper["slr"])) == (rate, top1)
    assert (config.slr.rho, config.slr.M, config.slr.r, config.slr.s0) == (0.1, M, r, s0)
    assert f"Table {where} on ImageNet, {name.rpartition('_')[2]}, hard-pruned" in config.paper["source"]
    assert_hard_pruning_alone(config)


def assert_hard_pruning_alone(config: RunConfig) -> None:
    assert config.retrain_epochs == 0 and config.recipe == "paper"
    assert config.paper is not None and config.paper["metric"] == "top1 x100"


def allocated(name: str) -> tuple[Allocation, ModelInfo]:
    config = classifier(name)
    info = adapter_named("timm").inspect(config.model)
    return allocate_for(classify.TASK, config, info), info


def test_the_rate_of_resnet18_on_cifar10_is_counted_as_the_paper_counts() -> None:
    """Over every parameter called *.weight: batch-norm scales with it, biases without."""
    allocation, info = allocated("cifar_resnet18_8.71x")
    kept = {row.layer.name: row.kept for row in allocation.layers}
    weights = {n: w.numel() for n, w in info.weights.items() if n.endswith(".weight")}
    left = sum(kept.get(name, count) for name, count in weights.items())
    assert (sum(weights.values()), left) == (11_169_152, 1_282_227)
    assert sum(weights.values()) / left == pytest.approx(8.711, abs=5e-4)
    pruned = {row.layer.name: row for row in allocation.layers if row.keep is not None}
    assert len(pruned) == 16 and all(row.keep == 0.1 for row in pruned.values())
    assert {name for name in kept if name not in pruned} == {
        "conv1.weight",
        "linear.weight",
        *(f"layer{n}.0.shortcut.0.weight" for n in (2, 3, 4)),
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if "cifar" in name else pytest.mark.slow)
        for name in (*TABLE_1, *TABLES_3_AND_4)
        if name != "cifar_resnet18_8.71x"
    ],
)
def test_the_rate_of_a_row_is_within_reach_of_its_network(name: str) -> None:
    rate = {**TABLE_1, **{n: row[1:] for n, row in TABLES_3_AND_4.items()}}[name][0]
    allocation, _ = allocated(name)
    assert allocation.compression()["model"]["rate"] == pytest.approx(rate, rel=1e-3)
    reasons = {row.reason for row in allocation.layers if row.reason is not None}
    allowed = {"first layer", "output layer", "depthwise", "not a conv or linear weight"}
    assert reasons <= allowed

"""What the adapter sees in ultralytics' own architectures, and that the current and oldest heads train under it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slr_det.adapter import ModelInfo, TrainJob, load_adapter
from slr_det.errors import CheckpointError, ConfigError

V3 = {"yolov3-tiny.yaml": 12_173_248, "yolov3.yaml": 103_754_144, "yolov3-spp.yaml": 104_803_744}


def every_detection_architecture() -> list[str]:
    """Names of all detection YAMLs that ship with the installed ultralytics."""
    ultralytics = pytest.importorskip("ultralytics")
    folder = Path(ultralytics.__file__).parent / "cfg" / "models"
    suffixes = ("-seg", "-pose", "-obb", "-cls", "-sem", "-depth", "world", "yoloe", "worldv2", "distill")
    names = [p.name for p in sorted(folder.glob("**/*.yaml"))]
    return [name for name in names if not any(s in name for s in suffixes)]


def inspect(name: str, classes: int | None = 7) -> ModelInfo:
    return load_adapter("ultralytics").inspect(name, classes)


@pytest.mark.parametrize(
    "name", ["yolov3-tiny.yaml", "yolo26n.yaml", "yolov8n.yaml", "yolo11n.yaml", "yolov10n.yaml"]
)
def test_first_layer_and_outputs_are_found(name: str) -> None:
    info = inspect(name)
    first = [layer for layer in info.layers if layer.role == "first"]
    assert [layer.name for layer in first] == ["model.0.conv.weight"]
    heads = {layer.name: layer.shape for layer in info.layers if layer.role == "head"}
    # Every head writes classes, or four box sides (in bins), or is the constant that decodes the bins.
    assert heads and all(s[0] == 7 or s[0] % 4 == 0 or "dfl" in n for n, s in heads.items()), heads
    assert {s[0] for n, s in heads.items() if ".cv3." in n} == {7}
    assert all(
        layer.role == "body"
        for layer in info.layers
        if layer.shape[2:] == (3, 3) and layer.name != first[0].name
    )


def test_layers_are_the_models_own_parameters() -> None:
    info = inspect("yolov3-tiny.yaml", 80)
    assert info.parameters == V3["yolov3-tiny.yaml"]
    assert all(info.weights[layer.name].shape == layer.shape for layer in info.layers)
    assert sum(w.numel() for w in info.weights.values() if w.ndim > 1) == sum(
        layer.numel for layer in info.layers
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in V3 if n != "yolov3-tiny.yaml"])
def test_large_v3_models_have_the_known_size(name: str) -> None:
    assert inspect(name, 80).parameters == V3[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", every_detection_architecture())
def test_every_detection_architecture_can_be_inspected(name: str) -> None:
    roles = [layer.role for layer in inspect(name).layers]
    assert roles.count("first") == 1 and roles.count("head") >= 2 and roles.count("body") > 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["yolov3-tiny.yaml", "yolov3.yaml", "yolov3-spp.yaml", "yolo26n.yaml", "rtdetr-l.yaml"]
)
def test_models_train_under_slr_and_stay_native(
    name: str, make_engine: Callable[[ModelInfo], Any], tiny_data: Path, tmp_path: Path
) -> None:
    """One epoch of the real architectures: the end-to-end head, the large ones, the transformer."""
    from slr_det_adapters.ultralytics import models

    adapter = load_adapter("ultralytics")
    args = {"imgsz": 64, "batch": 10, "optimizer": "SGD", "lr0": 0.001, "val": False, "amp": False}
    spec = make_engine(inspect(name, 6))
    job = TrainJob(name, str(tiny_data), str(tmp_path / "train"), 1, args, spec, device="cpu")
    history = adapter.train(job, resume=False)
    assert len(history) == 1 and history[0]["objective"] > 0
    assert history[0]["distance_before"] > 0 and history[0]["penalty"] != 0
    target = tmp_path / "native.pt"
    adapter.export(str(tmp_path / "train" / "weights" / "last.pt"), target, job)
    model, checkpoint = models.load_native(str(target))
    assert checkpoint["optimizer"] is None
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, 64, 64)) is not None


@pytest.fixture
def make_engine() -> Callable[[ModelInfo], Any]:
    """Build an engine specification that keeps half of every body layer."""
    from slr_det.adapter import EngineSpec
    from slr_det.allocation import allocate
    from slr_det.projections import get

    def make(info: ModelInfo) -> EngineSpec:
        allocation = allocate(
            info.layers,
            projection=get("unstructured"),
            method="uniform",
            keep=0.5,
            model_parameters=info.parameters,
            weights=info.weights,
        )
        return EngineSpec("slr", 1, tuple(allocation.specs()))

    return make


def test_a_missing_model_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"yolov3-tiny\.yaml"):
        inspect("yolov3-tinny.yaml")
    with pytest.raises(CheckpointError, match="does not exist"):
        inspect("nowhere/best.pt")
    with pytest.raises(ConfigError, match=r"neither a \.pt"):
        inspect("best.onnx")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="not a PyTorch checkpoint"):
        inspect(str(path))
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"best\.pt"):
        inspect(str(path))

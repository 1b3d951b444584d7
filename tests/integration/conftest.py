"""Everything here runs the real ultralytics trainer on small generated data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before the first import of ultralytics, in this process and in those that tests start.
os.environ["YOLO_OFFLINE"] = "true"
os.environ["YOLO_AUTOINSTALL"] = "false"

TINY = """\
nc: 6
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [32, 3, 1]]
head:
  - [-1, 1, Conv, [32, 3, 1]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [[4, 5], 1, Detect, [nc]]
"""

# The dense model is fitted to its few pictures; what follows uses every feature whose state a resume must carry.
DENSE = {"imgsz": 64, "batch": 4, "nbs": 4, "optimizer": "AdamW", "lr0": 0.005, "momentum": 0.9, "cls": 1.0}
DENSE |= {
    "mosaic": 0,
    "scale": 0,
    "translate": 0,
    "fliplr": 0,
    "workers": 0,
    "val": False,
    "warmup_epochs": 1,
}
TRAIN = {"imgsz": 64, "batch": 8, "nbs": 16, "optimizer": "SGD", "lr0": 0.01, "warmup_epochs": 1}
TRAIN |= {"mosaic": 0.5, "close_mosaic": 1, "workers": 0}


@pytest.fixture(scope="session", autouse=True)
def _ultralytics_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ultralytics keeps its settings in a folder of this session's own."""
    pytest.importorskip("ultralytics", reason='needs the yolo extra: uv pip install "slr-det[yolo]"')
    before = os.environ.get("YOLO_CONFIG_DIR")
    os.environ["YOLO_CONFIG_DIR"] = str(tmp_path_factory.mktemp("ultralytics"))
    yield
    if before is None:
        del os.environ["YOLO_CONFIG_DIR"]
    else:
        os.environ["YOLO_CONFIG_DIR"] = before


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data YAML of 20 + 8 generated pictures of 64 x 64 pixels."""
    from slr_det.data.shapes import build

    return build(tmp_path_factory.mktemp("shapes"), images=(20, 8), size=64, seed=3)


@pytest.fixture(scope="session")
def tiny_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An architecture of 0.2 M weights with two detection scales."""
    path = tmp_path_factory.mktemp("models") / "yolov3-mini.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_yaml: Path, tiny_data: Path) -> Path:
    """A native dense checkpoint of the tiny architecture that detects something."""
    from slr_det.adapter import TrainJob, load_adapter

    folder = tmp_path_factory.mktemp("dense")
    adapter = load_adapter("ultralytics")
    job = TrainJob(str(tiny_yaml), str(tiny_data), str(folder / "train"), 25, DENSE, device="cpu")
    adapter.train(job, resume=False)
    adapter.export(str(folder / "train" / "weights" / "last.pt"), folder / "dense.pt", job)
    return folder / "dense.pt"


@pytest.fixture
def make_job(tiny_model: Path, tiny_data: Path) -> Callable[..., Any]:
    """Build a training job on the tiny model under a method, by default at keep 0.3 of every body layer."""
    from slr_det.adapter import EngineSpec, TrainJob, load_adapter
    from slr_det.allocation import allocate
    from slr_det.projections import get

    def make(folder: Path, method: str | None = "slr", epochs: int = 3, **changes: Any) -> TrainJob:
        engine = None
        if method is not None:
            info = load_adapter("ultralytics").inspect(str(tiny_model))
            allocation = allocate(
                info.layers,
                projection=changes.pop("projection", get("unstructured")),
                method="uniform",
                keep=changes.pop("keep", 0.3),
                model_parameters=info.parameters,
                weights=info.weights,
            )
            engine = EngineSpec(method, epochs, tuple(allocation.specs()), changes.pop("hyper", {}))
        args = {**TRAIN, **changes.pop("args", {})}
        return TrainJob(
            str(tiny_model), str(tiny_data), str(folder), epochs, args, engine, device="cpu", **changes
        )

    return make

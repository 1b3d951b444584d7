"""The core stays clean: it loads no trainer, no adapter, and nothing heavy before it is needed."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import slr_det

TRAINERS = {"ultralytics", "torchvision", "timm", "mmengine", "mmcv", "pcdet", "spconv", "cv2"}
ADAPTERS = {"slr_det_adapters"}
HEAVY = {"matplotlib", "pycocotools", "safetensors", "zstandard"}

PROGRAM = """
import importlib, json, sys

def loaded(modules):
    for name in modules:
        importlib.import_module(name)
    return sorted({name.partition(".")[0] for name in sys.modules})

stages = json.loads(sys.argv[1])
print(json.dumps({stage: loaded(modules) for stage, modules in stages.items()}))
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """Top-level packages in a fresh interpreter after the engine, and after every module, was imported."""
    everything = [module.name for module in pkgutil.walk_packages(slr_det.__path__, "slr_det.")]
    assert "slr_det.projections" in everything
    stages = {"engine": ["slr_det", "slr_det.engine"], "everything": everything}
    command = [sys.executable, "-c", PROGRAM, json.dumps(stages)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    return {stage: set(names) for stage, names in json.loads(run.stdout.splitlines()[-1]).items()}


def test_importing_the_engine_loads_no_trainer_no_adapter_and_no_plotting(
    loaded: dict[str, set[str]],
) -> None:
    assert "torch" in loaded["engine"]
    assert loaded["engine"] & (TRAINERS | ADAPTERS | HEAVY) == set()


def test_importing_every_module_loads_no_trainer_and_no_adapter(loaded: dict[str, set[str]]) -> None:
    assert loaded["everything"] & (TRAINERS | ADAPTERS) == set()

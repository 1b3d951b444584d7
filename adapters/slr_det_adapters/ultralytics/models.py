"""Reading and writing ultralytics checkpoints: what is in a model, and a native file of it for inference."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slr_det import __version__
from slr_det.adapter import ModelInfo
from slr_det.data import model_files
from slr_det.errors import CheckpointError, ConfigError, nearest
from slr_det.files import atomic_write
from slr_det.layers import layers_of
from slr_det_adapters.ultralytics.offline import load_ultralytics


def load_native(path: str) -> tuple[Any, dict[str, Any]]:
    """Load an ultralytics ``.pt``: the (averaged) model in float32 and the whole checkpoint.

    The format pickles the model's classes, so opening one runs code from it: only open files you trust. Raises
    CheckpointError for a file that is missing, truncated or not an ultralytics detection checkpoint.
    """
    load_ultralytics()
    from ultralytics.nn.tasks import load_checkpoint

    file = Path(path)
    if not file.is_file():
        raise CheckpointError(
            f"model '{path}' does not exist, and slr_det never downloads; give the path of a local .pt or .yaml file"
        )
    if not zipfile.is_zipfile(file):
        raise CheckpointError(
            f"{path} is not a PyTorch checkpoint, or is truncated ({file.stat().st_size} bytes); copy it again"
        )
    try:
        model, checkpoint = load_checkpoint(file)
    except (
        RuntimeError,
        EOFError,
        OSError,
        KeyError,
        TypeError,
        AttributeError,
        ImportError,
        pickle.PickleError,
    ) as e:
        if "Ultralytics YOLOv5 model" in str(e):  # of the repositories whose modules are called `models`
            raise CheckpointError(
                f"{path} is a checkpoint of the repository ultralytics/yolov3 (or yolov5), not of the package "
                "ultralytics; for YOLOv3 give --backend yolov3"
            ) from e
        reason = (str(e) or type(e).__name__).strip().splitlines()[0][:200]
        raise CheckpointError(f"{path} is truncated or is not an ultralytics checkpoint ({reason})") from e
    if getattr(model, "task", None) != "detect":
        raise CheckpointError(
            f"{path} holds a '{getattr(model, 'task', '?')}' model; a detection model is needed"
        )
    return model, checkpoint


def build_architecture(path: str, classes: int | None) -> Any:
    """Build a model from an architecture YAML, which may be one that ships with ultralytics; weights are random."""
    load_ultralytics()
    from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel, guess_model_task, yaml_model_load

    config = yaml_model_load(find_architecture(path))
    if "rtdetr" in Path(path).stem.lower():
        return RTDETRDetectionModel(config, nc=classes, verbose=False)
    task = guess_model_task(config)
    if task != "detect":
        raise ConfigError(f"{path} describes a '{task}' model; a detection model is needed")
    return DetectionModel(config, nc=classes, verbose=False)


def find_architecture(path: str) -> str:
    """The file behind an architecture: the user's own, one that ships with slr_det, or one of ultralytics.

    Raises ConfigError with the nearest name where there is none.
    """
    load_ultralytics()
    import ultralytics
    from ultralytics.nn.tasks import yaml_model_load

    if Path(path).is_file():
        return path
    ours = {file.name: str(file) for file in model_files()}
    if path in ours:
        return ours[path]
    try:
        yaml_model_load(path)
    except OSError as error:
        theirs = {file.name for file in Path(ultralytics.__file__).parent.glob("cfg/models/**/*.yaml")}
        raise ConfigError(
            f"model '{path}' does not exist and is no architecture of ultralytics"
            f"{nearest(Path(path).name, theirs | ours.keys())}"
        ) from error
    return path


def describe(model: Any) -> ModelInfo:
    """List the layers of a detection model and copy its parameters.

    The detection head, dense by default, is what writes boxes and scores: the last convolution or linear layer
    of each branch. The towers before them hold a third of the weights of a small YOLO and are pruned.
    """
    weights = {name: p.detach().float().cpu().clone() for name, p in model.named_parameters()}
    layers = layers_of(model, heads=outputs(model))
    names = getattr(model, "names", None) or range(int(getattr(model, "nc", 0)))
    return ModelInfo(layers, weights, len(names))


def outputs(model: Any) -> list[str]:
    """Weight names of the layers that write boxes and scores."""
    last = len(model.model) - 1
    head = model.model[last]
    found = []
    for name, module in head.named_modules():
        if isinstance(module, nn.Sequential):
            tail = module[-1]
            if isinstance(tail, (nn.Conv2d, nn.Linear)):
                found.append(f"model.{last}.{name}.{len(module) - 1}.weight")
        elif "score_head" in name or name.startswith("dfl"):
            found.append(f"model.{last}.{name}.weight")
        elif "bbox_head" in name and isinstance(module, nn.ModuleList) and name.endswith("layers"):
            found.append(f"model.{last}.{name}.{len(module) - 1}.weight")
    return found


def write_native(
    target: Path,
    model: Any,
    train_args: Mapping[str, Any],
    *,
    phase: str,
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint that plain ultralytics loads, validates and trains on; weights in half precision, as its own.

    It holds one copy of the model and no optimizer. Raises StorageError where it cannot be written.
    """
    import ultralytics
    from ultralytics.utils import DEFAULT_CFG_KEYS

    copy = deepcopy(model).cpu().half()
    copy.criterion = None
    for parameter in copy.parameters():
        parameter.requires_grad = False
    args = {k: v for k, v in dict(train_args).items() if k in DEFAULT_CFG_KEYS}
    copy.args = args
    checkpoint = {
        "epoch": -1,
        "best_fitness": None,
        "model": copy,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "scaler": None,
        "train_args": args,
        "train_metrics": dict(metrics or {}),
        "date": datetime.now(UTC).isoformat(),
        "version": ultralytics.__version__,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
        "slr_det": {"version": __version__, "phase": phase},
    }
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    atomic_write(target, buffer.getvalue())


def averaged_model(path: str) -> tuple[Any, dict[str, Any]]:
    """The model a checkpoint is exported as: its average over training at full precision where the file has it."""
    model, checkpoint = load_native(path)
    state = checkpoint.get("slr_det")
    if isinstance(state, dict) and "ema" in state:
        model.load_state_dict(state["ema"])
    return model, dict(checkpoint.get("train_args") or {})

"""OpenPCDet's checkpoints, with what builds the model again beside the weights.

A file is ``{"model_state": ..., "version": ..., "slr_det": {...}}``, in training also ``epoch``, ``it`` and
``optimizer_state``. OpenPCDet's own loaders read it, and ignore ``slr_det``; it loads with plain ``torch.load``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slr_det import __version__
from slr_det.adapter import ModelInfo
from slr_det.errors import CheckpointError
from slr_det.files import atomic_open
from slr_det.layers import Layer, layers_of
from slr_det.models.weights import numpy_numbers

KEY = "slr_det"
VERSION = 1
SUFFIXES = (".pth", ".pt")
#: The layers that write scores, boxes and directions.
HEADS = ("dense_head.*conv_cls*", "dense_head.*conv_box*", "dense_head.*conv_dir*", "dense_head.heads_list.*")


def is_checkpoint(model: str) -> bool:
    """Whether a model word is a checkpoint rather than a configuration."""
    return model.endswith(SUFFIXES)


def card_of(model: nn.Module, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says about its weights: the configuration, the layers, and which entries are parameters."""
    return {
        "version": VERSION,
        "slr_det": __version__,
        "config": config,
        "layers": [{**asdict(layer), "shape": list(layer.shape)} for layer in layers_of(model, heads=HEADS)],
        "parameters": [name for name, _ in model.named_parameters()],
    }


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, as a whole or not at all."""
    with atomic_open(path) as file:
        torch.save(plain(content), file)


def plain(value: Any) -> Any:
    """The same with tensors on the CPU and numpy's numbers as Python's, which plain ``torch.load`` accepts.

    OpenPCDet's schedules leave numpy numbers in the optimizer. Since torch 2.6 its own loader then fails on its own
    checkpoint, and its training starts again at epoch 0.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    return value


def read_any(path: str) -> dict[str, Any]:
    """A checkpoint of OpenPCDet, its own or ours, without running code; CheckpointError where it is none."""
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such checkpoint; check the path")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(numpy_numbers()):
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: truncated or damaged, or no checkpoint of OpenPCDet ({_one_line(error)})"
        ) from error
    state = content.get("model_state") if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{path}: is no checkpoint of OpenPCDet; its weights are expected under 'model_state'"
        )
    return dict(content)


def read(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A checkpoint that says how its model is built, and what it says; CheckpointError for any other."""
    content = read_any(path)
    card = content.get(KEY)
    if not isinstance(card, dict) or "config" not in card:  # OpenPCDet's own, or the embedded backend's
        raise CheckpointError(
            f"{path}: holds weights, but not the configuration they belong to; give both: "
            f"model=cfgs/kitti_models/pointpillar.yaml weights={path}"
        )
    if card.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: written by another version of slr_det (state {card.get('version')}, this one reads {VERSION})"
        )
    return content, card


def info(path: str) -> ModelInfo:
    """The model of a checkpoint as the pruner sees it; OpenPCDet is not needed for that."""
    content, card = read(path)
    return ModelInfo(layers(card), parameters(content, card), len(card["config"]["CLASS_NAMES"]))


def layers(card: Mapping[str, Any]) -> list[Layer]:
    """The layers that a file names, in forward order."""
    return [Layer(**{**entry, "shape": tuple(entry["shape"])}) for entry in card["layers"]]


def parameters(content: Mapping[str, Any], card: Mapping[str, Any]) -> dict[str, Tensor]:
    """The parameters among the entries of the state dict, float32."""
    return {name: content["model_state"][name].float() for name in card["parameters"]}


def load_into(model: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    """Put weights into a model, every one of them; CheckpointError names the first that does not fit."""
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in state:
            raise CheckpointError(f"{path}: has no weight '{name}', which the configuration's model has")
        if state[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: '{name}' has shape {list(state[name].shape)}, the configuration's model has "
                f"{list(tensor.shape)}; give the configuration that it was trained with (classes, widths, range)"
            )
    extra = _first(name for name in state if name not in own)
    if extra is not None:
        raise CheckpointError(f"{path}: has a weight '{extra}', which the configuration's model has not")
    model.load_state_dict(dict(state))


def _first(names: Iterable[str]) -> str | None:
    return next(iter(names), None)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else f"{text[:117]}..."

"""Upstream's checkpoints, with what goes on with a run beside the weights.

A file is ``{"model": ..., "slr_det": {...}}``, in training also ``optimizer``, as upstream's own. Upstream's programs
read it, and ignore ``slr_det``; it loads with plain ``torch.load``. The network follows from the shapes of its weights,
so that upstream's files need nothing beside them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slr_det import __version__
from slr_det.adapter import ModelInfo
from slr_det.errors import CheckpointError
from slr_det.files import atomic_open
from slr_det.models.parsingnet import ParsingNet, ParsingNetConfig, config_of, deployed, layers

KEY = "slr_det"
VERSION = 1
SUFFIXES = (".pth", ".pt")
_DISTRIBUTED = "module."


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: The file.
        state: The weights by upstream's names, on the CPU, without the prefix of distributed training.
        network: What they are weights of.
        optimizer: The optimizer's state, or None.
        card: What we wrote beside them; empty for a file of upstream's own.
    """

    path: str
    state: dict[str, Tensor]
    network: ParsingNetConfig
    optimizer: dict[str, Any] | None
    card: dict[str, Any]

    def parameters(self) -> dict[str, Tensor]:
        """Parameters by name, float32, without those of the auxiliary head."""
        return {name: self.state[name].float() for name in deployed(dict(self._empty().named_parameters()))}

    def info(self) -> ModelInfo:
        """The model as the pruner sees it; upstream is not needed for that."""
        return ModelInfo(layers(self._empty()), self.parameters(), self.network.lanes)

    def _empty(self) -> ParsingNet:
        with torch.device("meta"):
            return ParsingNet(self.network)


def is_checkpoint(model: str) -> bool:
    """Whether a model word is a checkpoint rather than a network's name or configuration."""
    return model.endswith(SUFFIXES)


def card(**more: Any) -> dict[str, Any]:
    """What a file of ours says beside its weights."""
    return {"version": VERSION, "slr_det": __version__, **more}


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, as a whole or not at all."""
    with atomic_open(path) as file:
        torch.save(_on_cpu(content), file)


def read(path: str) -> Checkpoint:
    """Read a checkpoint of upstream's or of ours, without running code; CheckpointError where it is none."""
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such checkpoint; check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: truncated or damaged, or no checkpoint of Ultra-Fast-Lane-Detection ({reason:.120})"
        ) from error
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{path}: is no checkpoint of Ultra-Fast-Lane-Detection; its weights are expected under 'model'"
        )
    weights = {name.removeprefix(_DISTRIBUTED): tensor for name, tensor in state.items()}
    network = config_of(weights, path)
    with torch.device("meta"):
        missing = [name for name in ParsingNet(network).state_dict() if name not in weights]
    if missing:
        raise CheckpointError(
            f"{path}: has no weight '{missing[0]}' (and {len(missing) - 1} more are missing)"
        )
    said = content.get(KEY, {})
    if said and said.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: written by another version of slr_det (state {said.get('version')}, this one reads {VERSION})"
        )
    return Checkpoint(path, weights, network, content.get("optimizer"), said)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(item) for item in value)
    return value

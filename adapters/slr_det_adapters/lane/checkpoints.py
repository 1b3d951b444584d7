"""The file that a parsingNet lives in: Ultra-Fast-Lane-Detection's, with our description of the network in it.

A checkpoint is ``{"model": ..., "slr_det": {"version": ..., "parsingnet": ..., "phase": ...}}``: upstream's programs
read it where upstream has a network of that size, and it loads with plain ``torch.load``. It holds the auxiliary head
too, which takes part in training alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slr_det import __version__
from slr_det.errors import CheckpointError, ConfigError, nearest
from slr_det.files import atomic_open
from slr_det.models.parsingnet import (
    PRESETS,
    ParsingNet,
    ParsingNetConfig,
    config_of,
    holds_backbone_alone,
    load,
)
from slr_det.models.weights import read_state_dict
from slr_det.yamlio import read_yaml
from slr_det_adapters.prefix import without_prefix

SUFFIXES = (".pt", ".pth", ".ckpt")
CONFIGS = (".yaml", ".yml")
META = "parsingnet"
_KEY = "slr_det"
_VERSION = 1
_PRETRAINED = "pretrained"


def is_checkpoint(model: str) -> bool:
    """Whether a model word is a file of weights rather than a network's name or description."""
    return model.endswith(SUFFIXES)


def network(model: str) -> ParsingNetConfig:
    """The network behind a name, or described in a YAML file; ConfigError where there is none."""
    if model in PRESETS:
        return PRESETS[model]
    if model.endswith(CONFIGS):
        content = read_yaml(model)
        if not isinstance(content, Mapping):
            raise ConfigError(
                f"{model}: expected a network's settings, such as backbone: 34 and griding: 100"
            )
        return ParsingNetConfig.from_dict(content, model)
    raise ConfigError(
        f"there is no model '{model}'{nearest(model, PRESETS)}; it can be one of {', '.join(PRESETS)}, a YAML file "
        "with a network's settings, or a checkpoint file"
    )


def write(target: Path, model: ParsingNet, phase: str) -> None:
    """Write a checkpoint, as a whole or not at all."""
    content = {
        "model": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        _KEY: {
            "version": _VERSION,
            "slr_det": __version__,
            META: model.config.to_dict(),
            "phase": phase,
        },
    }
    with atomic_open(target) as file:
        torch.save(content, file)


def read(path: str) -> ParsingNet:
    """The network in a checkpoint of ours, of upstream's, or of a training under way.

    What network the weights of a file of upstream's are of follows from their shapes.

    Raises:
        CheckpointError: It is missing or damaged, or its weights are of no parsingNet.
    """
    content = _content(path)
    described = _described(content)
    if described is None:
        state = read_state_dict(path)
        config = config_of(state, path)
    else:
        state = _state(content, path)
        try:
            config = ParsingNetConfig.from_dict(described, path)
        except ConfigError as error:
            raise CheckpointError(f"{path}: its description of the network is damaged ({error})") from error
    model = ParsingNet(config)
    load(model, state, path)
    return model


def built(model: str, weights: str, *, whole: bool = False) -> ParsingNet:
    """A network with random weights, or with those of a file.

    Args:
        model: Its name, or the file that describes it.
        weights: A checkpoint of ours or of upstream's, or a ResNet for classification, which becomes the backbone.
        whole: Refuse weights of a backbone alone.

    Raises:
        ConfigError: There is no such network, or the weights are not enough.
        CheckpointError: The weights cannot be read, or are of another network.
    """
    if weights == _PRETRAINED:
        raise ConfigError(
            f"model={model} has no published weights here; give weights=FILE, a checkpoint of Ultra-Fast-Lane-"
            "Detection or a ResNet of torchvision's"
        )
    net = ParsingNet(network(model))
    if weights:
        state = read_state_dict(weights)
        if whole and holds_backbone_alone(state):
            raise ConfigError(
                f"weights={weights} are those of the backbone alone; train the rest first with dense_epochs=N"
            )
        load(net, state, weights)
    return net


def _state(content: Mapping[str, Any], path: str) -> dict[str, Tensor]:
    """The weights under their upstream names."""
    state = content.get("model", content.get("state_dict"))
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointError(f"{path}: holds no weights; expected them under 'model'")
    return without_prefix(state)


def _described(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for key in (_KEY, "meta"):
        found = content.get(key)
        if isinstance(found, Mapping) and isinstance(found.get(META), Mapping):
            described: Mapping[str, Any] = found[META]
            return described
    return None


def _content(path: str) -> Mapping[str, Any]:
    """What is in the file, mapped and not read; empty for what cannot be mapped, such as upstream's older files."""
    content = None
    with suppress(Exception):
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return content if isinstance(content, dict) else {}

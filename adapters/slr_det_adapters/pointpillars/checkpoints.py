"""The file that a PointPillars lives in: OpenPCDet's, with our description of the network beside the weights.

A checkpoint is ``{"model_state": ..., "epoch": ..., "it": ..., "optimizer_state": None, "version": ..., "slr_det":
{"pointpillars": ..., "phase": ...}}``: OpenPCDet's own loaders read it, and it loads with plain ``torch.load``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slr_det import __version__
from slr_det.errors import CheckpointError, ConfigError, nearest
from slr_det.files import atomic_open
from slr_det.models.pointpillars import PRESETS, PointPillars, PointPillarsConfig, from_openpcdet
from slr_det.models.weights import load_into, numpy_numbers, read_state_dict
from slr_det.yamlio import read_yaml
from slr_det_adapters.prefix import without_prefix

SUFFIXES = (".pt", ".pth", ".ckpt")
CONFIGS = (".yaml", ".yml")
META = "pointpillars"


def is_checkpoint(model: str) -> bool:
    """Whether a model word is a file of weights rather than a network's name or description."""
    return model.endswith(SUFFIXES)


def config_of(model: str) -> PointPillarsConfig:
    """The network behind a name, or behind OpenPCDet's YAML; ConfigError where there is none."""
    if model in PRESETS:
        return PRESETS[model]
    if model.endswith(CONFIGS):
        content = read_yaml(model)
        if not isinstance(content, Mapping):
            raise ConfigError(f"{model}: expected a model configuration of OpenPCDet")
        return from_openpcdet(content, model)
    raise ConfigError(
        f"there is no model '{model}'{nearest(model, PRESETS)}; it can be one of {', '.join(PRESETS)}, a YAML file of "
        "OpenPCDet, or a checkpoint file"
    )


def for_classes(config: PointPillarsConfig, classes: tuple[str, ...], model: str) -> PointPillarsConfig:
    """The network for some of its classes, in the order given.

    Raises:
        ConfigError: A class that the network has no anchors for.
    """
    if config.classes == classes:
        return config
    missing = [name for name in classes if name not in config.classes]
    if missing:
        raise ConfigError(
            f"model={model} has no anchors for '{missing[0]}'{nearest(missing[0], config.classes)}, only for "
            f"{', '.join(config.classes)}; describe the network in a YAML file of OpenPCDet"
        )
    anchors = tuple(anchor for anchor in config.anchors if anchor.name in classes)
    return replace(config, classes=classes, anchors=anchors)


def write(target: Path, model: PointPillars, phase: str) -> None:
    """Write a checkpoint, as a whole or not at all."""
    content = {
        "epoch": 0,
        "it": int(model.global_step),
        "model_state": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "optimizer_state": None,
        "version": f"slr_det+{__version__}",
        "slr_det": {META: model.config.to_dict(), "phase": phase},
    }
    with atomic_open(target) as file:
        torch.save(content, file)


def read(path: str) -> PointPillars:
    """The network in a checkpoint of ours, of OpenPCDet's, or of a training under way.

    A file of OpenPCDet's does not say what its network is; one with the weights of a network in ``PRESETS`` is that.

    Raises:
        CheckpointError: It is missing or damaged, holds a NaN, or does not say which network its weights are of.
    """
    content = _content(path)
    described = _described(content)
    state = _state(content, path)
    if described is not None:
        try:
            config = PointPillarsConfig.from_dict(described, path)
        except ConfigError as error:
            raise CheckpointError(f"{path}: its description of the network is damaged ({error})") from error
    else:
        config = _recognised(state, path)
    model = PointPillars(config)
    load_into(model, state, path)
    return model


def built(model: str, weights: str, classes: tuple[str, ...] | None = None) -> PointPillars:
    """A network with random weights, or with those of a file.

    Raises:
        ConfigError: There is no such network, or it has no anchors for one of the classes.
        CheckpointError: The weights cannot be read, or are of another network.
    """
    if weights == "pretrained":
        raise ConfigError(
            f"model={model} has no published weights here; give weights=FILE, a checkpoint of OpenPCDet"
        )
    config = config_of(model)
    net = PointPillars(config if classes is None else for_classes(config, classes, model))
    if weights:
        load_into(net, _state(_content(weights), weights), weights)
    return net


def require_order(weights: str, model: str, classes: tuple[str, ...]) -> None:
    """Refuse weights whose outputs are of other classes than ``classes``, or of these in another order.

    The shapes are the same, so nothing else would show it. A file of OpenPCDet's does not name its classes; they are
    taken to be in the order of the network ``model``.

    Raises:
        CheckpointError: The classes differ.
    """
    described = _described(_content(weights))
    if described is None:
        own = tuple(name for name in config_of(model).classes if name in classes)
    else:
        own = PointPillarsConfig.from_dict(described, weights).classes
    if own != classes:
        raise CheckpointError(
            f"weights={weights} are for {', '.join(own)} but the data are searched for {', '.join(classes)}; give "
            f"data=FILE.yaml with 'path: FOLDER' and 'classes: [{', '.join(own)}]', or train with dense_epochs=N"
        )


def _state(content: Mapping[str, Any], path: str) -> dict[str, Tensor]:
    """The weights under their upstream names; a file that is itself a state dict will do.

    Raises:
        CheckpointError: There are none, or some are no finite numbers: such a network finds nothing, which would
            pass for a score of zero.
    """
    state = content.get("model_state", content.get("state_dict"))
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        state = read_state_dict(path)
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinite values; take an earlier checkpoint")
    return without_prefix(state)


def _described(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for key in ("slr_det", "meta"):
        found = content.get(key)
        if isinstance(found, Mapping) and isinstance(found.get(META), Mapping):
            described: Mapping[str, Any] = found[META]
            return described
    return None


def _recognised(state: Mapping[str, Any], path: str) -> PointPillarsConfig:
    for config in PRESETS.values():
        # Not on the device "meta", where the first random draw imports torch's compiler: that takes seconds.
        own = PointPillars(config).state_dict()
        if all(name in state and state[name].shape == tensor.shape for name, tensor in own.items()):
            return config
    raise CheckpointError(
        f"{path}: holds weights, but not of which network; give its description and the file: model=FILE.yaml "
        f"weights={path}"
    )


def _content(path: str) -> dict[str, Any]:
    """What is in the file. OpenPCDet's optimizer state may hold numpy's numbers, which are harmless."""
    content = None
    with suppress(Exception):
        content = _load(path)
    if content is None:
        with suppress(Exception), torch.serialization.safe_globals(numpy_numbers()):
            content = _load(path)
    if not isinstance(content, dict):
        # The reader of weights says in one line what is wrong with the file, or that nothing is.
        return {"state_dict": read_state_dict(path)}
    return content


def _load(path: str) -> Any:
    # Torch's old format, which OpenPCDet writes, cannot be mapped.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))

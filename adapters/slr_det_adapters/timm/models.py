"""Classifiers by name, and the checkpoint file that they live in.

A checkpoint is ``{"state_dict": ..., "meta": {"classifier": {...}}}``: the parameters under their upstream names, so
that timm's own loaders read it, and what is needed to build the model again. It loads with ``weights_only=True``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slr_det import __version__
from slr_det import models as family
from slr_det.adapter import ModelInfo
from slr_det.errors import CheckpointError, ConfigError, MissingExtraError, nearest
from slr_det.files import atomic_open
from slr_det.layers import layers_of
from slr_det.models.weights import load_into, read_state_dict

SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".safetensors")
PRETRAINED = "pretrained"
META = "classifier"
PREFIX = "net."


@dataclass(frozen=True)
class Card:
    """What builds a classifier again.

    Attributes:
        model: Name in the CIFAR family of slr_det, or in timm.
        classes: Class names, in the order of the outputs.
        channels: Channels of the images.
        size: Height and width in pixels that the model is evaluated at.
        mean: Mean of each channel, subtracted from images scaled to [0, 1].
        std: Standard deviation of each channel.
    """

    model: str
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def is_checkpoint(model: str) -> bool:
    """Whether a model word is a file rather than a name."""
    return model.endswith(SUFFIXES)


def build(name: str, classes: int, channels: int, *, pretrained: bool = False) -> nn.Module:
    """A classifier of the CIFAR family or of timm, with random or timm's published weights.

    Raises:
        ConfigError: There is no such model, it cannot take so many channels, or its weights cannot be had.
    """
    if f"cifar_{name}" in family.names() and not _timm_has(name):
        name = f"cifar_{name}"
    if name in family.names():
        if pretrained:
            raise ConfigError(f"model={name} has no published weights here; give weights=FILE")
        return family.build(name, classes, channels)
    timm = _timm()
    if not timm.is_model(name):
        known = [*family.names(), *timm.list_models()]
        raise ConfigError(
            f"there is no model '{name}'{nearest(name, known)}; it can be one of {', '.join(family.names())}, any "
            "model of timm, or a checkpoint file"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: nn.Module = timm.create_model(
                name, pretrained=pretrained, num_classes=classes, in_chans=channels
            )
    except Exception as error:
        if not pretrained:
            raise ConfigError(
                f"model={name} cannot be built for {classes} classes and {channels} channels: {_line(error)}"
            ) from error
        raise ConfigError(
            f"the published weights of model={name} cannot be had ({_line(error)}); give a local file as "
            "weights=FILE, or connect to the network"
        ) from error
    return model


def pretrained_card(name: str) -> dict[str, Any]:
    """Input size, mean and standard deviation that a timm model was made for; empty for the CIFAR family."""
    if name in family.names() or f"cifar_{name}" in family.names():
        return {}
    found: dict[str, Any] = _timm().data.resolve_data_config({}, pretrained_cfg=_config_of(name))
    return found


def write(target: Path, model: nn.Module, card: Card, phase: str) -> None:
    """Write a checkpoint, as a whole or not at all."""
    content = {
        "state_dict": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "meta": {
            META: plain_card(card),
            "phase": phase,
            "slr_det": __version__,
        },
    }
    with atomic_open(target) as file:
        torch.save(content, file)


def plain_card(card: Card) -> dict[str, Any]:
    """A card as plain data, for the ``meta`` of a checkpoint."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(card).items()}


def read(path: str) -> tuple[nn.Module, Card]:
    """The classifier in a checkpoint written by :func:`write`, or under way in the trainer's own.

    Raises:
        CheckpointError: It is missing, damaged, or does not say which architecture its weights are of.
    """
    state = read_state_dict(path)
    card = _card(path)
    if all(name.startswith(PREFIX) for name in state):  # the trainer's own checkpoint, of a run under way
        state = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    model = build(card.model, len(card.classes), card.channels)
    load_into(model, state, path)
    return model, card


def _card(path: str) -> Card:
    meta: Any = None
    if not path.endswith(".safetensors"):
        content = torch.load(path, map_location="cpu", weights_only=True)
        meta = content.get("meta") if isinstance(content, Mapping) else None
    found = meta.get(META) if isinstance(meta, Mapping) else None
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"{path}: holds weights, but not which architecture they are of; give its name and the file: "
            f"model=NAME weights={path}"
        )
    try:
        return Card(
            str(found["model"]),
            tuple(map(str, found["classes"])),
            int(found["channels"]),
            (int(found["size"][0]), int(found["size"][1])),
            tuple(map(float, found["mean"])),
            tuple(map(float, found["std"])),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path}: its description of the classifier is damaged ({error}); write it again"
        ) from error


def describe(model: nn.Module, classes: int) -> ModelInfo:
    """The model as the pruner sees it; the layer that writes the class scores has the role ``head``."""
    return ModelInfo(
        layers_of(model, heads=_outputs(model)),
        {name: p.detach().float().cpu() for name, p in model.named_parameters()},
        classes,
    )


def _outputs(model: nn.Module) -> list[str]:
    """Weight names of the layers that write class scores: timm says which, else it is the last linear layer."""
    ask = getattr(model, "get_classifier", None)
    found = ask() if callable(ask) else None
    heads = found if isinstance(found, tuple | list) else [found]
    chosen = {id(p) for head in heads if isinstance(head, nn.Module) for p in head.parameters()}
    names = [name for name, p in model.named_parameters() if id(p) in chosen and p.dim() > 1]
    if names:
        return names
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [f"{linear[-1]}.weight"] if linear else []


def load_weights(model: nn.Module, name: str, file: str) -> None:
    """Put a file's weights into an architecture; CheckpointError where they are of another one.

    A file for another number of classes keeps its backbone: its output layer is left out, as for any fine-tuning.
    """
    state = read_state_dict(file)
    outputs = {n.removesuffix("weight") for n in _outputs(model)}
    own = model.state_dict()
    for prefix in outputs:
        parts = [k for k in state if k.startswith(prefix)]
        if any(
            k in own and state[k].shape[1:] == own[k].shape[1:] and state[k].shape != own[k].shape
            for k in parts
        ):
            for key in parts:
                state[key] = own[key]
    load_into(model, state, file)


def replace_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy named tensors into a model's parameters."""
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, values in weights.items():
            named[name].copy_(values)


def _timm_has(name: str) -> bool:
    try:
        return bool(_timm().is_model(name))
    except MissingExtraError:
        return False


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            'this model is one of timm\'s, which is not installed; run: uv pip install "slr-det[classify]"'
        ) from error
    return timm


def _config_of(name: str) -> Any:
    from timm.models import get_pretrained_cfg

    found = get_pretrained_cfg(name)
    return {} if found is None else found.to_dict()


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."

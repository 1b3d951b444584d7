"""Classifiers by name: the CIFAR family of slr_det, and every model of timm."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from slr_det import models as family
from slr_det.adapter import ModelInfo
from slr_det.errors import ConfigError, MissingExtraError, nearest
from slr_det.layers import layers_of
from slr_det.models.weights import load_into, read_state_dict
from slr_det_adapters.prefix import without_prefix

PRETRAINED = "pretrained"
#: Names that people use for networks which timm does not have.
ALIASES = {f"resnet{depth}": f"cifar_resnet{depth}" for depth in (20, 32, 44, 56, 110)}


@dataclass(frozen=True)
class MadeFor:
    """What a network was made for.

    Attributes:
        classes: Number of classes of its published weights, or of the data set it is known for.
        size: Height and width of its images in pixels.
        only_size: Whether it can take no other.
        mean: Mean of each channel; empty where that is the data's business.
        std: Standard deviation of each channel.
        crop: Share of an image's shorter side that evaluation looks at.
        interpolation: How evaluation resizes images.
    """

    classes: int
    size: tuple[int, int]
    only_size: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    crop: float = 0.875
    interpolation: str = "bicubic"


def full_name(name: str) -> str:
    """The name under which a network is built."""
    return ALIASES.get(name, name)


def is_own(name: str) -> bool:
    """Whether a network comes with slr_det rather than with timm."""
    return full_name(name) in family.names()


def made_for(name: str) -> MadeFor:
    """What a network was made for; ConfigError where there is no such network."""
    if is_own(name):
        side = 8 if name.startswith("digits") else 32
        return MadeFor(10, (side, side))
    timm = _timm()
    _require_known(name, timm)
    config = timm.models.get_pretrained_cfg(name)
    known = {} if config is None else config.to_dict()
    found = timm.data.resolve_data_config({}, pretrained_cfg=known)
    _, height, width = found["input_size"]
    return MadeFor(
        int(known.get("num_classes") or 1000),
        (int(height), int(width)),
        bool(known.get("fixed_input_size")),
        tuple(found["mean"]),
        tuple(found["std"]),
        float(found["crop_pct"]),
        str(found["interpolation"]),
    )


def build(name: str, classes: int, channels: int, *, pretrained: bool = False) -> nn.Module:
    """A classifier with random weights, or with those that timm publishes.

    Raises:
        ConfigError: There is no such model, it cannot take so many channels, or its weights cannot be had.
    """
    if is_own(name):
        if pretrained:
            raise ConfigError(f"model={name} has no published weights here; give weights=FILE")
        return family.build(full_name(name), classes, channels)
    timm = _timm()
    _require_known(name, timm)
    try:
        with _quiet():
            model: nn.Module = timm.create_model(
                name, pretrained=pretrained, num_classes=classes, in_chans=channels
            )
    except Exception as error:
        if not pretrained:
            raise ConfigError(
                f"model={name} cannot be built for {classes} classes and {channels} channels: {one_line(error)}"
            ) from error
        raise ConfigError(
            f"the published weights of model={name} cannot be had ({one_line(error)}); give a local file as "
            "weights=FILE, or connect to the network"
        ) from error
    return model


def with_weights(name: str, weights: str, classes: int | None, channels: int) -> tuple[nn.Module, int | None]:
    """An architecture with the weights a user asked for: a file's, timm's published ones, or random ones.

    Args:
        name: The architecture.
        weights: A file, ``pretrained``, or empty.
        classes: Number of outputs; None for as many as the weights have.
        channels: Channels of the images.

    Returns:
        The model, and the number of classes that the weights are for where that is another one than ``classes``: as
        for any fine-tuning, the output layer then keeps its random weights.

    Raises:
        ConfigError: As :func:`build`.
        CheckpointError: The file cannot be read, or has the weights of another architecture.
    """
    usual = made_for(name).classes
    if not weights or weights == PRETRAINED:
        model = build(name, classes or usual, channels, pretrained=bool(weights))
        return model, usual if weights and classes not in (None, usual) else None
    state = without_prefix(read_state_dict(weights))
    model = build(name, classes or usual, channels)
    found = _classes_in(state, model)
    if classes is None and found not in (None, usual):
        model = build(name, found or usual, channels)
    others = found if classes is not None and found != classes else None
    if others is not None:
        own = model.state_dict()
        for output in outputs(model):
            stem = output.removesuffix("weight")
            state |= {key: own[key] for key in state if key.startswith(stem) and key in own}
    load_into(model, state, weights)
    return model, others


def _classes_in(state: Mapping[str, Tensor], model: nn.Module) -> int | None:
    """How many classes the weights of a file are for; None where their output layer is not the model's."""
    own = model.state_dict()
    for name in outputs(model):
        if name in state and state[name].shape[1:] == own[name].shape[1:]:
            return int(state[name].shape[0])
    return None


def describe(model: nn.Module, classes: int) -> ModelInfo:
    """The model as the pruner sees it; the layer that writes the class scores has the role ``head``."""
    return ModelInfo(
        layers_of(model, heads=outputs(model)),
        {name: p.detach().float().cpu() for name, p in model.named_parameters()},
        classes,
    )


def outputs(model: nn.Module) -> list[str]:
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


def classes_of(model: nn.Module) -> int:
    """How many classes a model predicts."""
    return len(dict(model.named_parameters())[outputs(model)[0]])


def one_line(error: BaseException) -> str:
    """What an error of another package says, in a part of a line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."


def _require_known(name: str, timm: Any) -> None:
    if not timm.is_model(name):
        known = [*family.names(), *ALIASES, *timm.list_models()]
        raise ConfigError(
            f"there is no model '{name}'{nearest(name, known)}; it can be one of {', '.join(family.names())}, any "
            "model of timm, or a checkpoint file"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without timm's warnings, and without a line for each try to reach the network."""
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub.setLevel(level)


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            'this model is one of timm\'s, which is not installed; run: uv pip install "slr-det[classify]"'
        ) from error
    return timm

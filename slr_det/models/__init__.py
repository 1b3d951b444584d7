"""Classification networks that come with the package, by name; their parameter names never change.

The prefix tells them from the networks of the same depth for larger images that timm and others have.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from slr_det.errors import ConfigError, nearest
from slr_det.models import cifar, digits

__all__ = ["build", "names"]

_MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "cifar_resnet18": cifar.resnet18,
    "cifar_resnet50": cifar.resnet50,
    **{f"cifar_resnet{depth}": cifar.resnet_thin(depth) for depth in (20, 32, 44, 56, 110)},
    "cifar_vgg16": cifar.vgg16,
    "digits_cnn": digits.DigitsNet,
}


def names() -> list[str]:
    """The networks that :func:`build` knows."""
    return list(_MODELS)


def build(name: str, classes: int, channels: int = 3) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's global generator, on the CPU.

    Args:
        name: One of :func:`names`.
        classes: Number of classes, at least 2.
        channels: Channels of an image, at least 1.

    Raises:
        ConfigError: an unknown name (and the nearest one), or a number out of range.
    """
    problems = []
    if name not in _MODELS:
        problems.append(f"unknown model '{name}'{nearest(name, _MODELS)}; there are: {', '.join(_MODELS)}")
    for key, value, least in (("classes", classes, 2), ("channels", channels, 1)):
        if value < least:
            problems.append(f"model '{name}': {key} is {value}, expected at least {least}")
    if problems:
        raise ConfigError(problems)
    return _MODELS[name](classes, channels)

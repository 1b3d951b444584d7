"""A classifier's checkpoint without its dead filters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from slr_det.shrink import Shrinkage, channels_of, find_dead, shrink, sums
from slr_det_adapters.timm import checkpoints, models

_SEED = 20


def shrink_checkpoint(source: str, target: Path) -> Shrinkage:
    """Write the classifier of ``source`` without its dead filters; see :func:`slr_det.shrink.shrink`.

    Raises:
        CheckpointError: ``source`` cannot be read.
        ConfigError: Nothing in it is dead, or it cannot be made smaller with the same outputs.
    """
    net, card = checkpoints.read(source)
    example = _noise(card.channels, card.size)
    small, result = shrink(net, example, find_dead(net, channels_of(net, example, _heads(net))))
    checkpoints.write(target, small, replace(card, shrunk=True), "shrunk")
    return result


def sums_of(model: str) -> list[tuple[str, ...]]:
    """Layers of a checkpoint or an architecture whose filters are added up; see :func:`slr_det.shrink.sums`."""
    if checkpoints.is_checkpoint(model):
        net, card = checkpoints.read(model)
        example = _noise(card.channels, card.size)
    else:
        channels = 1 if model.startswith("digits") else 3
        net = models.with_weights(model, "", None, channels)[0]
        example = _noise(channels, models.made_for(model).size)
    return sums(channels_of(net, example, _heads(net)))


def _noise(channels: int, size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(_SEED))


def _heads(net: nn.Module) -> list[str]:
    return [name.removesuffix(".weight") for name in models.outputs(net)]

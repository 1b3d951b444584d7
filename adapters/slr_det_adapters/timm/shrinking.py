"""A classifier's checkpoint without its dead filters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from slr_det.shrink import Shrinkage, channels_of, find_dead, shrink
from slr_det_adapters.timm import checkpoints, models

_SEED = 20


def shrink_checkpoint(source: str, target: Path) -> Shrinkage:
    """Write the classifier of ``source`` without its dead filters; see :func:`slr_det.shrink.shrink`.

    Raises:
        CheckpointError: ``source`` cannot be read.
        ConfigError: Nothing in it is dead, or it cannot be made smaller with the same outputs.
    """
    net, card = checkpoints.read(source)
    net.eval()
    example = torch.randn(2, card.channels, *card.size, generator=torch.Generator().manual_seed(_SEED))
    heads = [name.removesuffix(".weight") for name in models.outputs(net)]
    small, result = shrink(net, example, find_dead(net, channels_of(net, example, heads)))
    checkpoints.write(target, small, replace(card, shrunk=True), "shrunk")
    return result

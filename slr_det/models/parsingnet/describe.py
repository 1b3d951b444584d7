"""A parsingNet as the pruner sees it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from slr_det.adapter import ModelInfo
from slr_det.layers import Layer, layers_of
from slr_det.models.parsingnet.model import ParsingNet

#: The layers behind the backbone. ``cls`` holds four fifths of the weights of a ResNet 18: whether it is pruned
#: decides what a compression rate means, so it is never taken without being asked for.
HEADS = ("pool.weight", "cls.*.weight")
#: The auxiliary head takes part in training alone: it is neither pruned nor counted.
AUXILIARY = "aux_"


def describe(model: ParsingNet) -> ModelInfo:
    """Layers in forward order with their roles, weights by name (float32, on the CPU), number of lanes.

    The auxiliary head is left out of both: it is no part of the network that finds lanes.
    """
    weights = {name: p.detach().float().cpu() for name, p in deployed(dict(model.named_parameters())).items()}
    return ModelInfo(layers(model), weights, model.config.lanes)


def layers(model: ParsingNet) -> list[Layer]:
    """Layers in forward order with their roles, without the auxiliary head; no weight is read."""
    found = [layer for layer in layers_of(model, heads=HEADS) if not layer.name.startswith(AUXILIARY)]
    # `pool` is registered behind `cls`, as upstream has it, and comes before it.
    return sorted(found, key=lambda layer: layer.name.startswith("cls."))


def deployed(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What finds lanes among weights by name: all but the auxiliary head."""
    return {name: tensor for name, tensor in named.items() if not name.startswith(AUXILIARY)}

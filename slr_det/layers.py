"""What there is to prune: the weights of a model, in forward order, as plain data."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import prod

from torch import nn
from torch.nn.modules.conv import _ConvNd

KINDS = ("conv", "linear", "deconv", "other")
ROLES = ("first", "head", "body")


@dataclass(frozen=True)
class Layer:
    """One weight of more than one dimension. Biases and the vectors of norm layers are never layers.

    Attributes:
        name: Parameter name as in ``model.named_parameters()``, e.g. ``model.0.conv.weight``.
        shape: The weight's shape; for a convolution (out, in / groups, *kernel), for a linear layer (out, in).
        numel: Number of weights, the product of ``shape``.
        kind: ``conv``, ``linear``, ``deconv`` (transposed convolution: pruned by default where the kind of sparsity
            knows no filters) or ``other`` (embeddings, unknown weights: never pruned by default).
        role: ``first`` (reads the input), ``head`` (writes the detections) or ``body``.
        depthwise: A convolution with one input channel per filter and more than one group.
    """

    name: str
    shape: tuple[int, ...]
    numel: int
    kind: str
    role: str = "body"
    depthwise: bool = False


def make_layer(
    name: str, shape: Sequence[int], kind: str = "conv", role: str = "body", depthwise: bool = False
) -> Layer:
    """Build a :class:`Layer`, counting its weights from the shape."""
    shape = tuple(int(size) for size in shape)
    return Layer(name, shape, prod(shape), kind, role, depthwise)


def layers_of(
    model: nn.Module, *, heads: Collection[str] = (), first: Collection[str] | None = None, prefix: str = ""
) -> list[Layer]:
    """List the layers of a torch model, in the order its modules were registered.

    Registration order is forward order for the sequential models of detection toolkits; an adapter that knows
    better reorders the result.

    Args:
        model: Any module; shared parameters are listed once, under their first name.
        heads: Parameter names or globs whose layers get the role ``head``.
        first: Parameter names or globs with the role ``first``; None takes the first convolution or linear layer.
        prefix: Put before each name, for a module that is part of a larger model.
    """
    owners = {
        id(parameter): module for module in model.modules() for parameter in module.parameters(recurse=False)
    }
    layers: list[Layer] = []
    first_seen = False
    for name, parameter in model.named_parameters(prefix=prefix):
        if parameter.dim() < 2:
            continue
        module = owners[id(parameter)]
        kind = _kind(module, name)
        if matches_any(name, heads):
            role = "head"
        elif (
            (not first_seen and kind not in ("deconv", "other"))
            if first is None
            else matches_any(name, first)
        ):
            role = "first"
            first_seen = True
        else:
            role = "body"
        depthwise = isinstance(module, _ConvNd) and module.groups > 1 and module.groups == module.in_channels
        layers.append(make_layer(name, parameter.shape, kind, role, depthwise))
    return layers


def matches_any(name: str, globs: Iterable[str]) -> bool:
    """Whether ``name`` equals or matches (case-sensitive fnmatch) one of ``globs``."""
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def _kind(module: nn.Module, name: str) -> str:
    """The role of the parameter in its module: only the ``weight`` of a plain convolution or linear layer counts."""
    if not name.endswith("weight"):
        return "other"
    if isinstance(module, _ConvNd):
        # A transposed convolution stores (in, out, ...): filter and channel would swap their meaning.
        return "deconv" if module.transposed else "conv"
    return "linear" if isinstance(module, nn.Linear) else "other"

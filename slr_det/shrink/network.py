"""From a pruned network to a smaller dense one, checked: the same outputs, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slr_det.errors import ConfigError
from slr_det.shrink.channels import channels_of, tensors_in
from slr_det.shrink.plan import Left, Plan, find_dead
from slr_det.shrink.resize import remove, zero_dead

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Shrinkage:
    """What shrinking did.

    Attributes:
        parameters: Parameters before and after.
        filters: Filters of convolutions and linear layers before and after.
        difference: Largest difference of an output, over the largest output, between the network with its dead
            filters silenced and the shrunk one; in float64, on the example.
        silenced: The same between the network as it was and with its dead filters silenced, which is where a filter
            of zeros that emitted a constant through its batch norm stops to do so.
        left: Dead filters that stayed, and why.
    """

    parameters: tuple[int, int]
    filters: tuple[int, int]
    difference: float
    silenced: float
    left: tuple[Left, ...]


Forward = Callable[..., Any]


def shrink(
    network: nn.Module, example: Any, plan: Plan | None = None, forward: Forward | None = None
) -> tuple[nn.Module, Shrinkage]:
    """Return a copy without the filters that are dead, in evaluation mode, and what it cost.

    Filters count as dead where all their weights are exactly zero in every branch of the sum they belong to, see
    :func:`slr_det.shrink.plan.find_dead`; they are found by Torch-Pruning's dependency graph.

    Args:
        network: A pruned network, float32 on the CPU; not changed.
        example: An input, or a tuple of inputs; noise is better than zeros, since the outputs are compared on it.
        plan: What goes; None for whatever is dead and may go.
        forward: Gives the outputs that have to stay the same, called with a network and the inputs; by default all.

    Raises:
        MissingExtraError: Torch-Pruning is not installed.
        ConfigError: The network cannot be traced, nothing in it is dead, or the smaller one has other outputs.
    """
    if plan is None:
        plan = find_dead(network, channels_of(network, example))
    if not plan.outputs:
        reason = f" ({plan.left[0].module}: {plan.left[0].why})" if plan.left else ""
        raise ConfigError(
            f"there is no dead filter that could go{reason}; prune with prune.projection=filter (or channel) first"
        )
    silenced = deepcopy(network).eval()
    zero_dead(silenced, plan)
    small = deepcopy(silenced)
    remove(small, plan)
    try:
        difference = compare(silenced, small, example, forward)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(
            f"the network does not run without its dead filters ({reason}); nothing was written, keep the pruned one"
        ) from error
    if not difference <= TOLERANCE:
        raise ConfigError(
            f"the smaller network has other outputs: they differ by {difference:.2g} relative, expected at most "
            f"{TOLERANCE:g}; nothing was written, keep the pruned one"
        )
    result = Shrinkage(
        (_parameters(network), _parameters(small)),
        (_filters(network), _filters(small)),
        difference,
        compare(network, silenced, example, forward),
        plan.left,
    )
    return small, result


@torch.no_grad()
def compare(one: nn.Module, other: nn.Module, example: Any, forward: Forward | None = None) -> float:
    """Largest difference between the outputs of two networks, over the largest output of the first; in float64.

    Infinite where the number or shapes of the outputs differ.
    """
    results = [_outputs(network, example, forward) for network in (one, other)]
    if [t.shape for t in results[0]] != [t.shape for t in results[1]]:
        return float("inf")
    worst = 0.0
    for first, second in zip(*results, strict=True):
        if first.numel():
            scale = float(first.abs().max()) or 1.0
            worst = max(worst, float((first - second).abs().max()) / scale)
    return worst


def _outputs(network: nn.Module, example: Any, forward: Forward | None) -> list[Tensor]:
    inputs = [t.double() for t in (example if isinstance(example, tuple) else (example,))]
    work = deepcopy(network).eval().double()
    return [t.double() for t in tensors_in(work(*inputs) if forward is None else forward(work, *inputs))]


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _filters(network: nn.Module) -> int:
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return sum(
        m.out_features if isinstance(m, nn.Linear) else int(m.out_channels)
        for m in network.modules()
        if isinstance(m, kinds)
    )

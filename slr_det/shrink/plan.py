"""What can go: channels that are dead in every branch, found from exact zeros."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from slr_det.shrink.channels import Channel, Slot


@dataclass(frozen=True)
class Left:
    """Dead filters of a layer that stay.

    Attributes:
        module: The layer.
        filters: How many of its filters are zero and stay.
        why: The reason, in a few words.
    """

    module: str
    filters: int
    why: str


@dataclass(frozen=True)
class Plan:
    """What goes, by module name; positions count from 0, sorted.

    Attributes:
        outputs: Filters, or channels of batch norms, PReLUs and depthwise convolutions.
        inputs: Input channels.
        left: Filters that are dead and stay.
    """

    outputs: Mapping[str, tuple[int, ...]]
    inputs: Mapping[str, tuple[int, ...]]
    left: tuple[Left, ...]


#: How many filters a layer must have at least after shrinking: called with its name and how many are alive.
Widths = Callable[[str, int], int]


@torch.no_grad()
def find_dead(network: nn.Module, channels: Iterable[Channel], widths: Widths | None = None) -> Plan:
    """Find the channels that go.

    A channel is dead where every filter that is added up in it is zero, or where every layer that reads it has zeros
    for it. A filter that reads dead channels alone is dead in its turn. A layer keeps one filter at least.

    Args:
        network: The pruned network; not changed.
        channels: Its channels, as :func:`slr_det.shrink.channels.channels_of` lists them.
        widths: The least number of filters for each layer; dead filters are kept as they are to reach it.
    """
    channels = list(channels)
    modules = dict(network.named_modules())
    names = {name for channel in channels for name, _, _ in channel.producers + channel.consumers}
    masks = _masks(names, modules)
    before = _alive(masks)
    dead = _cascade(channels, masks)
    filled_up = _filled_up(channels, dead, widths)
    left: Counter[tuple[str, str]] = Counter()
    for i, channel in enumerate(channels):
        if i in dead and i not in filled_up:
            continue
        why = "the layer keeps a width" if i in filled_up else channel.kept_by
        for name, side, position in channel.producers:
            if not before[name, side][position]:
                left[name, why or "another branch of its sum is alive"] += 1
    outputs: dict[str, set[int]] = {}
    inputs: dict[str, set[int]] = {}
    for i in dead - filled_up:
        for name, side, position in channels[i].producers + channels[i].consumers + channels[i].others:
            (outputs if side == "out" else inputs).setdefault(name, set()).add(position)
    return Plan(
        {name: tuple(sorted(found)) for name, found in outputs.items()},
        {name: tuple(sorted(found)) for name, found in inputs.items()},
        tuple(Left(name, count, reason) for (name, reason), count in left.items()),
    )


def sums(channels: Iterable[Channel]) -> list[tuple[str, ...]]:
    """Layers whose filters are added up, filter i of one with filter i of all others: they need one mask to shrink.

    Returns:
        Names of modules, for each sum whose channels may go; as ``prune.groups`` with ``coupled: true`` wants them.
    """
    found: dict[tuple[str, ...], None] = {}
    for channel in channels:
        names = tuple(dict.fromkeys(name for name, _, _ in channel.producers))
        aligned = len({position for _, _, position in channel.producers}) == 1
        if len(names) > 1 and aligned and not channel.kept_by:
            found[names] = None
    taken: set[str] = set()
    result = []
    for names in sorted(found, key=len, reverse=True):  # a layer is in one group only: the largest sum counts
        if taken.isdisjoint(names):
            taken.update(names)
            result.append(names)
    return sorted(result, key=list(found).index)


def _cascade(channels: list[Channel], masks: Mapping[str, Tensor]) -> set[int]:
    """The channels that may go and are dead, with those that die because of them. ``masks`` is used up."""
    dead: set[int] = set()
    while True:
        alive = _alive(masks)
        found = [
            i
            for i, channel in enumerate(channels)
            if i not in dead
            and not channel.kept_by
            and (_is_zero(channel.producers, alive) or _is_zero(channel.consumers, alive))
        ]
        if not found:
            return dead
        dead.update(found)
        for i in found:
            for name, side, position in channels[i].producers + channels[i].consumers:
                masks[name].select(0 if side == "out" else 1, position).fill_(False)


def _filled_up(channels: list[Channel], dead: set[int], widths: Widths | None) -> set[int]:
    """Dead channels that stay so that no layer becomes narrower than it may."""
    members: dict[str, list[int]] = {}
    for i, channel in enumerate(channels):
        for name in {name for name, side, _ in channel.producers if side == "out"}:
            members.setdefault(name, []).append(i)
    stays: set[int] = set()
    for name, own in members.items():
        alive = sum(i not in dead or i in stays for i in own)
        least = max(1, widths(name, alive) if widths else 1)
        for i in own:
            if alive >= least:
                break
            if i in dead and i not in stays:
                stays.add(i)
                alive += 1
    return stays


def _masks(names: Iterable[str], modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Where weights are not zero, as (filters, input channels), by module name."""
    masks = {}
    for name in names:
        module = modules[name]
        weight = module.get_parameter("weight").detach()
        if isinstance(module, _ConvNd) and module.transposed:
            weight = weight.transpose(0, 1)
        masks[name] = (weight != 0).flatten(2).any(2) if weight.dim() > 2 else weight != 0
    return masks


def _alive(masks: Mapping[str, Tensor]) -> dict[tuple[str, str], list[bool]]:
    """Whether a filter, and whether an input channel, has a weight that is not zero."""
    return {
        (name, side): mask.any(1 - dim).tolist()
        for name, mask in masks.items()
        for dim, side in enumerate(("out", "in"))
    }


def _is_zero(slots: list[Slot], alive: Mapping[tuple[str, str], list[bool]]) -> bool:
    return bool(slots) and not any(alive[name, side][position] for name, side, position in slots)

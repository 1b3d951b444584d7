"""Which weights may be pruned, and which share a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slr_det.allocation.declared import Declared, read_groups
from slr_det.allocation.ratios import Ratios, match_globs, match_ratios
from slr_det.layers import Layer
from slr_det.projections import Projection

_TINY = 1e-12


@dataclass(frozen=True)
class Unit:
    """Layers under one budget.

    Attributes:
        name: Name of the group; for a layer on its own, the layer's.
        layers: At least one.
        projection: The set the unit is projected onto.
        keep: A ratio that was written out, or None where the method chooses it.
        declared: The unit was written out as a group.
    """

    name: str
    layers: tuple[Layer, ...]
    projection: Projection
    keep: float | None = None
    declared: bool = False

    @property
    def numel(self) -> int:
        """Number of weights."""
        return sum(layer.numel for layer in self.layers)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The layers' shapes."""
        return [layer.shape for layer in self.layers]

    def count(self, keep: float) -> int:
        """Weights that stay at ``keep``: exact where the projection fixes the number, else the nearest estimate."""
        count = self.projection.count(self.shapes, min(1.0, max(keep, _TINY)))
        return max(1, round(keep * self.numel)) if count is None else count

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest fraction that the projection can keep; equal for n:m."""
        return self.count(0.0) / self.numel, self.count(1.0) / self.numel


@dataclass
class Choice:
    """What may be pruned, before any ratio is chosen."""

    units: list[Unit] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    head: str = "detection head"


def choose_units(
    layers: Sequence[Layer],
    projection: Projection,
    *,
    ratios: Ratios | None,
    include: Sequence[str],
    exclude: Sequence[str],
    dense_first: bool,
    dense_head: bool,
    head: str,
    groups: Sequence[Mapping[str, Any]],
    default_keep: bool,
) -> Choice:
    """Decide for each layer whether it is pruned, with which group, and otherwise why not.

    A layer that ratios, groups or ``include`` name in full (no wildcard) is pruned even if it is a first layer, a
    head, depthwise or of an unknown kind. ``exclude`` always wins.

    Args:
        head: What a layer of the role ``head`` is called in the reason.
        default_keep: Layers without a ratio or group of their own take part (a global ratio or target covers them).
    """
    choice = Choice(head=head)
    names = [layer.name for layer in layers]
    excluded, _, problems = match_globs(exclude, names, "exclude")
    included, named, more = match_globs(include, names, "include")
    choice.problems += problems + more
    found: dict[str, float] = {}
    if ratios is not None:
        found, in_full, more = match_ratios(ratios, names)
        named |= in_full
        choice.problems += more
    declared, more = read_groups(groups, projection)
    choice.problems += more
    owner: dict[str, Declared] = {}
    for one in declared:
        where = f"group '{one.name}'"
        matched, in_full, more = match_globs(one.globs, names, where)
        choice.problems += more
        choice.problems += [
            f"{where}: '{n}' is already in group '{owner[n].name}'" for n in matched if n in owner
        ]
        owner |= dict.fromkeys(matched, one)
        named |= in_full

    members: dict[str, list[Layer]] = {}
    for layer in layers:
        name = layer.name
        group = owner.get(name)
        own = projection if group is None else group.projection
        flags = (dense_first and name not in named, dense_head and name not in named)
        if name in excluded:
            reason: str | None = f"excluded by '{excluded[name]}'"
        elif include and name not in included and group is None:
            reason = "not included"
        else:
            reason = _dense_by_nature(layer, own, *flags, head, named=name in named)
            reason = reason or own.check(layer.shape)
        if reason is None and group is None:
            if name in found:
                reason = "its ratio keeps everything" if found[name] == 1.0 else None
            elif not default_keep:
                reason = "no ratio given"
        if reason is not None:
            choice.reasons[name] = reason
        elif group is not None:
            if group.name not in members:
                choice.units.append(Unit(group.name, (), own, group.keep, declared=True))
            members.setdefault(group.name, []).append(layer)
        else:
            choice.units.append(Unit(name, (layer,), own, found.get(name)))
    choice.units = [_with_layers(unit, members, choice.problems) for unit in choice.units]
    for name in dict.fromkeys(one.name for one in owner.values()):
        if name not in members:
            choice.problems.append(
                f"group '{name}' has no layer left; all it names are excluded or left dense"
            )
    return choice


def _with_layers(unit: Unit, members: Mapping[str, Sequence[Layer]], problems: list[str]) -> Unit:
    if not unit.declared:
        return unit
    unit = Unit(unit.name, tuple(members[unit.name]), unit.projection, unit.keep, declared=True)
    problem = unit.projection.check(*unit.shapes)
    if problem is not None:
        problems.append(f"group '{unit.name}': {problem}")
    return unit


def _dense_by_nature(
    layer: Layer, projection: Projection, dense_first: bool, dense_head: bool, head: str, *, named: bool
) -> str | None:
    if layer.kind == "deconv" and projection.name != "unstructured" and not named:
        # Its weight is (in, out, ...): what other sets call a filter would be a channel.
        return "transposed convolution"
    if layer.kind == "other" and not named:
        return "not a conv or linear weight"
    if layer.role == "first" and dense_first:
        return "first layer"
    if layer.role == "head" and dense_head:
        return head
    return "depthwise" if layer.depthwise and not named else None


def floor_and_ceiling(units: Sequence[Unit]) -> tuple[float, float]:
    """Smallest and largest global keep ratio that the units' projections allow."""
    weights = sum(unit.numel for unit in units)
    if not weights:
        return 0.0, 1.0
    bounds = [unit.bounds for unit in units]
    return (
        math.fsum(low * unit.numel for (low, _), unit in zip(bounds, units, strict=True)) / weights,
        math.fsum(high * unit.numel for (_, high), unit in zip(bounds, units, strict=True)) / weights,
    )

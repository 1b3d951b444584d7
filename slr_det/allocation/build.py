"""From layers and a method to an :class:`Allocation`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from slr_det.allocation.methods import bisect_keep, erk_scores, least_loss, proportional
from slr_det.allocation.ratios import Ratios, parse_rate
from slr_det.allocation.table import Allocation, Row
from slr_det.allocation.units import Choice, Unit, choose_units, floor_and_ceiling
from slr_det.errors import ConfigError, nearest
from slr_det.groups import GroupSpec
from slr_det.layers import Layer
from slr_det.projections import Projection

METHODS = ("uniform", "layerwise", "erk", "global", "sensitivity")
Curves = Mapping[str, Sequence[tuple[float, float]]]
Chooser = Callable[[float], list[float]]


def allocate(
    layers: Sequence[Layer],
    *,
    projection: Projection | str | Mapping[str, Any] = "unstructured",
    method: str = "uniform",
    keep: float | None = None,
    target_compression: float | str | None = None,
    compression_over: str = "model",
    model_parameters: int | None = None,
    weights: Mapping[str, Tensor] | None = None,
    ratios: Ratios | Mapping[str, float] | None = None,
    sensitivity: Curves | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    dense_first: bool = True,
    dense_head: bool = True,
    groups: Sequence[Mapping[str, Any]] = (),
) -> Allocation:
    """Choose how much of each layer stays.

    The free layers are those that may be pruned and have no ratio written out. ``keep`` is the fraction of their
    weights that stays; ``target_compression`` solves for it instead. Layers of ``ratios`` and ``groups`` keep what
    is written there (under ``layerwise`` with a target the ratios are proportions that are scaled together).

    - ``uniform``: the same ratio for every free layer;
    - ``layerwise``: ``ratios`` decide; layers they do not name stay dense, or get ``keep`` where it is given;
    - ``erk``: Erdos-Renyi-Kernel densities (Evci et al. 2020), capped at 1;
    - ``global``: one ranking over all free layers, which form one group with one budget;
    - ``sensitivity``: the least summed predicted loss of a scan (``slr_det.sensitivity``).

    Args:
        layers: The model's layers in forward order.
        projection: The set each layer is projected onto; anything ``Projection.parse`` reads.
        method: One of the above.
        keep: Global keep ratio in (0, 1]. Not together with ``target_compression``.
        target_compression: All weights / nonzero weights to reach, e.g. ``3.33`` or ``"3.33x"``. The result is the
            largest keep ratio whose exact count reaches it.
        compression_over: What the target counts: ``model`` (every parameter; biases, norms and skipped layers count
            as kept) or ``groups`` (the pruned layers alone).
        model_parameters: Number of parameters of the whole model; the layers' own where None.
        weights: The current weights by name; only used to show what each layer of a shared budget would keep.
        ratios: Keep ratios by layer name or glob.
        sensitivity: (keep ratio, metric lost) points by layer name, for ``sensitivity``.
        include: Globs; where given, other layers stay dense.
        exclude: Globs of layers that stay dense.
        dense_first: Leave layers of the role ``first`` dense unless they are named in full.
        dense_head: Leave layers of the role ``head`` dense unless they are named in full.
        groups: Layers that share a budget: mappings with ``name``, ``params`` (globs), ``keep`` (optional: the global
            ratio), ``projection`` and ``coupled``.

    Raises:
        ConfigError: Everything that is wrong, at once; or a target that cannot be reached, with the highest rate
            that can.
    """
    problems: list[str] = []
    chosen = _projection(projection, problems)
    target = _target(target_compression, keep, compression_over, problems)
    if method not in METHODS:
        problems.append(
            f"allocation is '{method}'{nearest(method, METHODS)}, expected one of {', '.join(METHODS)}"
        )
    if ratios is not None and not isinstance(ratios, Ratios):
        ratios = Ratios(dict(ratios))
    if ratios is not None:
        problems += [
            f"{ratios.source}: '{name}' is {value}, expected a keep ratio in (0, 1]"
            for name, value in ratios.keep.items()
            if not 0.0 < value <= 1.0
        ]
    elif method == "layerwise":
        problems.append("allocation 'layerwise' needs ratios; write them under prune.ratios")
    if method == "sensitivity" and sensitivity is None:
        problems.append("allocation 'sensitivity' needs a scan; run one first (slr_det.sensitivity.scan)")
    choice = choose_units(
        layers,
        chosen,
        ratios=ratios,
        include=include,
        exclude=exclude,
        dense_first=dense_first,
        dense_head=dense_head,
        groups=groups,
        default_keep=keep is not None
        or (target is not None and method != "layerwise")
        or chosen.name == "n:m",
    )
    problems += choice.problems
    if problems:
        raise ConfigError(problems)
    if method == "sensitivity" and sensitivity is not None:
        _drop_unscanned(choice, sensitivity)
    if not choice.units:
        raise ConfigError(_nothing_left(layers, choice))
    total = sum(layer.numel for layer in layers) if model_parameters is None else model_parameters
    units, note = _shared(choice.units) if method == "global" else (choice.units, None)
    solver = _Solver(units, method, sensitivity, target, compression_over, total)
    solved = solver.solve(keep, choice, layers)
    keeps = solver.keeps(solved)
    notes = [*(ratios.notes if ratios is not None else ()), *solver.notes(solved), *([note] if note else [])]
    return Allocation(
        layers=tuple(_rows(layers, units, keeps, choice.reasons, weights)),
        groups=tuple(
            GroupSpec(unit.name, tuple(layer.name for layer in unit.layers), value, unit.projection)
            for unit, value in zip(units, keeps, strict=True)
        ),
        counts=tuple(unit.count(value) for unit, value in zip(units, keeps, strict=True)),
        model_parameters=total,
        method=method,
        keep=solved if solver.free else None,
        target=target,
        over=compression_over,
        notes=tuple(notes),
    )


class _Solver:
    """Ratios of all units as a function of one number, and the number that meets a budget."""

    def __init__(
        self,
        units: Sequence[Unit],
        method: str,
        curves: Curves | None,
        target: float | None,
        over: str,
        total: int,
    ) -> None:
        self.units = units
        self.target = target
        self.over = over
        self.total = total
        self.scaled = method == "layerwise" and target is not None
        self.free = [
            i for i, unit in enumerate(units) if unit.keep is None or (self.scaled and not unit.declared)
        ]
        self.bounds = [unit.bounds for unit in units]
        free = [units[i] for i in self.free]
        numels = [unit.numel for unit in free]
        self.choose: Chooser = lambda keep: [keep] * len(free)
        if method == "erk":
            scores = erk_scores([unit.shapes for unit in free])
            self.choose = lambda keep: proportional(scores, numels, keep)
        elif self.scaled:
            given = [unit.keep if unit.keep is not None else 1.0 for unit in free]
            self.choose = lambda keep: proportional(given, numels, keep)
        elif method == "sensitivity" and curves is not None:
            points = [curves[unit.name] for unit in free]
            self.choose = lambda keep: least_loss(points, numels, keep)

    def keeps(self, keep: float) -> list[float]:
        """The ratio of every unit at one global ratio, held to what its projection can keep."""
        ratios = [1.0 if unit.keep is None else unit.keep for unit in self.units]
        for i, ratio in zip(self.free, self.choose(keep), strict=True):
            ratios[i] = ratio
        return [min(max(r, low), high) for r, (low, high) in zip(ratios, self.bounds, strict=True)]

    def kept(self, keep: float) -> int:
        """Exact number of weights that stay in all units at one global ratio."""
        return sum(unit.count(value) for unit, value in zip(self.units, self.keeps(keep), strict=True))

    def solve(self, keep: float | None, choice: Choice, layers: Sequence[Layer]) -> float:
        """The global ratio: the one given, or the one that reaches the target."""
        free = [self.units[i] for i in self.free]
        if self.target is None:
            return self._given(keep, free)
        pruned = sum(unit.numel for unit in self.units)
        weights = self.total if self.over == "model" else pruned
        dense = weights - pruned
        # The largest count whose rate is not below the target; the slack forgives 3.33 * (n / 3.33) != n.
        allowed = math.floor(weights / self.target * (1 + 1e-12))
        solved = bisect_keep(lambda value: dense + self.kept(value), allowed)
        if solved is None:
            raise ConfigError(self._unreachable(weights, dense, choice, layers))
        return solved

    def notes(self, solved: float) -> list[str]:
        """What the user should know about a solved target."""
        if self.target is None or solved < 1.0 or self.kept(1.0) == sum(unit.numel for unit in self.units):
            return []
        return [f"the projection alone already removes more than the {self.target:g}x asked for"]

    def _given(self, keep: float | None, free: Sequence[Unit]) -> float:
        low, high = floor_and_ceiling(free)
        fixed = bool(free) and math.isclose(low, high)
        if keep is None:
            if free and not fixed:
                names = ", ".join(unit.name for unit in free[:3])
                raise ConfigError(f"no keep ratio for {names}: give prune.keep or prune.target_compression")
            return high
        if fixed and abs(keep - high) > 0.01:
            name = free[0].projection
            raise ConfigError(
                f"keep is {keep}, but projection {name} always keeps {high:.3g}; leave keep out"
            )
        if free and sum(self.choose(keep)[i] * unit.numel for i, unit in enumerate(free)) > (
            keep * sum(unit.numel for unit in free) * (1 + 1e-6) + 1
        ):
            raise ConfigError(f"keep is {keep}, below what was scanned; scan smaller ratios or keep more")
        return keep

    def _unreachable(self, weights: int, dense: int, choice: Choice, layers: Sequence[Layer]) -> str:
        highest = weights / (dense + self.kept(0.0))
        rate = math.floor(highest * 1000) / 1000
        what = "the whole model" if self.over == "model" else "the groups"
        skipped = sorted((x for x in layers if x.name in choice.reasons), key=lambda x: -x.numel)[:3]
        parts = [f"{x.name} ({x.numel:,} weights, {choice.reasons[x.name]})" for x in skipped]
        reasons = " ".join(choice.reasons.values())
        advice = []
        if "detection head" in reasons:
            advice.append("prune the head (prune.dense_head=false)")
        if "first layer" in reasons:
            advice.append("prune the first layer (prune.dense_first=false)")
        if "excluded" in reasons or "not included" in reasons:
            advice.append("exclude fewer layers")
        if "no ratio given" in reasons:
            advice.append("give ratios for more layers")
        if any(low > 0.01 for low, _ in self.bounds):
            advice.append("choose a projection that can keep less")
        if any(unit.keep is not None and i not in self.free for i, unit in enumerate(self.units)):
            advice.append("lower the ratios that are written out")
        advice.append(f"ask for at most {rate:g}x")
        because = f", because these stay dense: {', '.join(parts)}" if parts and self.over == "model" else ""
        return (
            f"target_compression {self.target:g}x cannot be reached over {what}: the highest rate is {rate:g}x"
            f"{because}; {' or '.join(advice)}"
        )


def _rows(
    layers: Sequence[Layer],
    units: Sequence[Unit],
    keeps: Sequence[float],
    reasons: Mapping[str, str],
    weights: Mapping[str, Tensor] | None,
) -> list[Row]:
    rows: dict[str, Row] = {}
    for unit, keep in zip(units, keeps, strict=True):
        if not unit.declared:
            (layer,) = unit.layers
            rows[layer.name] = Row(layer, keep, unit.projection, None, unit.count(keep))
            continue
        kept = _split(unit, keep, weights)
        for layer, count in zip(unit.layers, kept, strict=True):
            shown = keep if weights is None else count / layer.numel
            rows[layer.name] = Row(layer, shown, unit.projection, None, count, unit.name)
    return [
        rows[layer.name] if layer.name in rows else Row(layer, None, None, reasons[layer.name], layer.numel)
        for layer in layers
    ]


def _split(unit: Unit, keep: float, weights: Mapping[str, Tensor] | None) -> list[int]:
    """What each layer of a shared budget keeps: by the current weights, else by the ratio."""
    if weights is None:
        return [round(keep * layer.numel) for layer in unit.layers]
    masks = unit.projection.support([weights[layer.name] for layer in unit.layers], keep)
    return [int(mask.sum()) for mask in masks]


def _shared(units: Sequence[Unit]) -> tuple[list[Unit], str | None]:
    """Merge the free units into one budget, at the place of the first."""
    free = [unit for unit in units if unit.keep is None and not unit.declared]
    if not free:
        return list(units), None
    name = "global"
    while any(unit.name == name for unit in units):
        name += "_"
    merged = replace(
        free[0], name=name, layers=tuple(layer for unit in free for layer in unit.layers), declared=True
    )
    problem = merged.projection.check(*merged.shapes)
    if problem is not None:
        raise ConfigError(f"allocation 'global': {problem}; choose another projection or allocation")
    rest = [unit for unit in units if unit not in free]
    return [
        merged,
        *rest,
    ], f"'{name}' is one budget over {len(free)} layers; each layer's share follows the weights"


def _drop_unscanned(choice: Choice, curves: Curves) -> None:
    for unit in list(choice.units):
        if unit.keep is None and unit.name not in curves:
            if unit.declared:
                raise ConfigError(
                    f"groups: '{unit.name}' needs a keep of its own: a scan knows single layers only"
                )
            choice.units.remove(unit)
            choice.reasons[unit.name] = "not in the sensitivity scan"


def _projection(value: Projection | str | Mapping[str, Any], problems: list[str]) -> Projection:
    try:
        return Projection.parse(value)
    except ConfigError as error:
        problems += error.problems
        return Projection("unstructured", {})


def _target(value: float | str | None, keep: float | None, over: str, problems: list[str]) -> float | None:
    if over not in ("model", "groups"):
        problems.append(
            f"compression_over is '{over}'{nearest(over, ('model', 'groups'))}, expected model or groups"
        )
    if keep is not None and not 0.0 < keep <= 1.0:
        problems.append(f"keep is {keep}, expected a ratio in (0, 1]")
    if value is None:
        return None
    if keep is not None:
        problems.append("keep and target_compression are both given; remove one")
    try:
        return parse_rate(value)
    except ConfigError as error:
        problems += error.problems
        return None


def _nothing_left(layers: Sequence[Layer], choice: Choice) -> str:
    if not layers:
        return "the model has no layer that could be pruned"
    reasons = sorted(set(choice.reasons.values()))
    return f"no layer is left to prune ({len(layers)} layers: {', '.join(reasons)}); widen include or narrow exclude"

"""From one global keep ratio to every unit's, and the ratio that meets a target compression rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from slr_det.allocation.methods import bisect_keep, erk_scores, least_loss, proportional
from slr_det.allocation.units import Choice, Unit, floor_and_ceiling
from slr_det.errors import ConfigError
from slr_det.layers import Layer

Curves = Mapping[str, Sequence[tuple[float, float]]]
Chooser = Callable[[float], list[float]]


class Solver:
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

    def shown(self, solved: float) -> float | None:
        """The global ratio that people see; None where no unit is free to choose."""
        free = [self.units[i] for i in self.free]
        return min(solved, floor_and_ceiling(free)[1]) if free else None

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
        if choice.head in choice.reasons.values():
            advice.append(f"prune the {choice.head} (prune.dense_head=false)")
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

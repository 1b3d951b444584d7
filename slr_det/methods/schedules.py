"""How hard a method presses at each iteration: the keep ratio l_n / numel, and rho."""

from __future__ import annotations

from collections.abc import Sequence

from slr_det.groups import ParamGroup
from slr_det.methods.protocol import Hyper


def scheduled_keep(target: float, k: int, iterations: int, ramp_start: float, ramp_end: float) -> float:
    """The keep ratio at the end of iteration k: 1 - target_sparsity * (1 - (1 - t)^3).

    Source: Zhu and Gupta, "To prune, or not to prune" (2017), equation 1, with initial sparsity 0. t runs from 0
    to 1 between the fractions ``ramp_start`` and ``ramp_end`` of the iterations.
    """
    begin, end = ramp_start * iterations, ramp_end * iterations
    t = min(1.0, max(0.0, (k - begin) / (end - begin)))
    return target if t == 1.0 else target + (1.0 - target) * (1.0 - t) ** 3


def scheduled_keeps(
    groups: Sequence[ParamGroup], k: int, iterations: int, ramp_start: float, ramp_end: float
) -> list[float]:
    """The keep ratio of every group at the end of iteration k; 1 where nothing is pruned yet.

    Sets that prune whatever the keep ratio (n:m, kernel patterns) cannot follow a schedule: their groups stay at 1
    until it ends.
    """
    keeps = []
    for group in groups:
        keep = scheduled_keep(group.keep, k, iterations, ramp_start, ramp_end)
        keeps.append(keep if keep == group.keep or can_start_dense(group) else 1.0)
    return keeps


def keeps_at(groups: Sequence[ParamGroup], hyper: Hyper, k: int, iterations: int) -> list[float]:
    """The keep ratios that Z^k meets: the groups' own, or on the way there under ``hyper.continuation``."""
    if hyper.continuation == 0.0:
        return [group.keep for group in groups]
    return scheduled_keeps(groups, k, iterations, 0.0, hyper.continuation)


def can_start_dense(group: ParamGroup) -> bool:
    """Whether the group's set is everything at keep ratio 1; n:m and kernel patterns prune whatever the ratio."""
    kept = group.projection.count([tensor.shape for _, tensor in group.params], 1.0)
    return kept is None or kept == group.numel


def rho_at(hyper: Hyper, k: int, iterations: int) -> float:
    """Rho while iteration k trains (from 1): from ``rho`` to ``rho * rho_growth`` in equal ratios."""
    if hyper.rho_growth == 1.0 or iterations < 2:
        return hyper.rho
    return float(hyper.rho * hyper.rho_growth ** ((min(k, iterations) - 1) / (iterations - 1)))

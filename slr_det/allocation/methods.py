"""The arithmetic of allocation: from one global keep ratio to one ratio per unit, and back from a target count.

A *unit* is what shares one budget: a layer, or a group of layers. Everything here is plain numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise


def erk_scores(shapes: Sequence[Sequence[Sequence[int]]]) -> list[float]:
    """Unscaled Erdos-Renyi-Kernel densities, (n_in + n_out + k_h + k_w) / (n_in n_out k_h k_w) per layer.

    Evci et al. 2020, "Rigging the Lottery", equation 2. A linear layer gives (n_in + n_out) / (n_in n_out). For a
    unit of several layers numerators and denominators are summed, so that one layer alone is the published form.

    Args:
        shapes: The shapes of each unit's layers.
    """
    scores = []
    for unit in shapes:
        weights = sum(_prod(shape) for shape in unit)
        scores.append(sum(sum(shape) for shape in unit) / weights)
    return scores


def proportional(scores: Sequence[float], numels: Sequence[int], keep: float) -> list[float]:
    """Keep ratios in proportion to ``scores``, capped at 1, that meet ``sum(keep_i * numel_i) = keep * sum(numel)``.

    Units that would exceed 1 are made dense and the rest share what is left, until none exceeds 1 (the iteration of
    Evci et al. 2020). ``keep = 1`` makes every unit dense.

    Args:
        scores: Positive weights, one per unit.
        numels: Number of weights per unit.
        keep: Global keep ratio in [0, 1].
    """
    keeps = [1.0] * len(scores)
    open_units = list(range(len(scores)))
    budget = keep * sum(numels)
    while open_units:
        scale = max(budget, 0.0) / sum(scores[i] * numels[i] for i in open_units)
        capped = [i for i in open_units if scale * scores[i] >= 1.0]
        if not capped:
            for i in open_units:
                keeps[i] = scale * scores[i]
            break
        # Capping frees weights for the others (a capped unit asked for more than it has), so none is uncapped later.
        budget -= sum(numels[i] for i in capped)
        open_units = [i for i in open_units if i not in set(capped)]
    return keeps


def least_loss(
    curves: Sequence[Sequence[tuple[float, float]]], numels: Sequence[int], keep: float
) -> list[float]:
    """Keep ratios that meet a global budget with the least summed predicted loss, from a sensitivity scan.

    Each curve holds (keep ratio, metric lost) points of one layer pruned alone. A curve is anchored at (1, 0), made
    monotone (pruning more never helps; negative losses are noise) and replaced by its lower convex hull. Weights are
    then removed where the next one costs least: for convex curves that greedy choice is optimal. Pieces of equal cost
    give up the same fraction. No layer goes below the smallest ratio that was scanned.

    Args:
        curves: One list of points per unit.
        numels: Number of weights per unit.
        keep: Global keep ratio in [0, 1].
    """
    keeps = [1.0] * len(curves)
    pieces = []
    for unit, curve in enumerate(curves):
        hull = _lower_hull(curve)
        for (x0, y0), (x1, y1) in pairwise(hull):
            pieces.append(((y1 - y0) / ((x1 - x0) * numels[unit]), unit, x1 - x0))
    pieces.sort()
    budget = (1.0 - keep) * sum(numels)
    start = 0
    while start < len(pieces) and budget > 0.0:
        stop = start + 1
        while stop < len(pieces) and pieces[stop][0] == pieces[start][0]:
            stop += 1
        weights = sum(width * numels[unit] for _, unit, width in pieces[start:stop])
        share = min(1.0, budget / weights)
        for _, unit, width in pieces[start:stop]:
            keeps[unit] -= share * width
        budget -= weights
        start = stop
    return keeps


def _lower_hull(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Lower convex hull of (fraction removed, loss), from (0, 0), losses made non-decreasing."""
    points = [(0.0, 0.0)]
    for removed, loss in sorted((1.0 - keep, loss) for keep, loss in curve):
        if removed > points[-1][0]:
            points.append((removed, max(points[-1][1], loss)))
    hull: list[tuple[float, float]] = []
    for x, y in points:
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]) >= (y - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((x, y))
    return hull


def bisect_keep(count: Callable[[float], int], budget: int, *, steps: int = 100) -> float | None:
    """A global keep ratio in [0, 1] with the largest ``count(keep) <= budget``, or None where even 0 exceeds it.

    Of the ratios with that count, one that is short to write.

    Args:
        count: Exact number of nonzero weights at a global keep ratio; never decreasing.
        budget: Most nonzero weights allowed.
        steps: Halvings at most; 60 reach the resolution of a float.
    """
    if count(1.0) <= budget:
        return 1.0
    low, high = 0.0, 1.0
    if count(low) > budget:
        return None
    for _ in range(steps):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if count(middle) <= budget:
            low = middle
        else:
            high = middle
    kept = count(low)
    return next((short for digits in range(2, 16) if count(short := round(low, digits)) == kept), low)


def _prod(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product

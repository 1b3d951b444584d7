from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slr_det.allocation.methods import bisect_keep, erk_scores, least_loss, proportional

shapes = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 64), st.integers(1, 64)),
        st.tuples(st.integers(1, 64), st.integers(1, 64), st.sampled_from([1, 3]), st.sampled_from([1, 3])),
    ),
    min_size=1,
    max_size=8,
)


def reference_erk(shapes: list[tuple[int, ...]], keep: float) -> list[float]:
    """The loop of Evci et al.: make the layer of the largest density dense until none exceeds 1."""
    dense: set[int] = set()
    while True:
        raw = [sum(s) / math.prod(s) for s in shapes]
        rest = [i for i in range(len(shapes)) if i not in dense]
        if not rest:
            return [1.0] * len(shapes)
        budget = keep * sum(map(math.prod, shapes)) - sum(math.prod(shapes[i]) for i in dense)
        epsilon = budget / sum(raw[i] * math.prod(shapes[i]) for i in rest)
        worst = max(rest, key=lambda i: raw[i])
        if epsilon * raw[worst] <= 1.0:
            return [1.0 if i in dense else epsilon * raw[i] for i in range(len(shapes))]
        dense.add(worst)


def test_erk_closed_form() -> None:
    # a: (4 + 4) / 16 = 1/2; b: (8 + 8 + 3 + 3) / 576 = 22/576. With keep 0.1 the budget is 59.2 of 592 weights,
    # the scale 59.2 / (8 + 22); with keep 0.2 the first layer is full and the second gets 118.4 - 16.
    scores = erk_scores([[(4, 4)], [(8, 8, 3, 3)]])
    assert scores == [0.5, 22 / 576]
    assert proportional(scores, [16, 576], 0.1) == pytest.approx(
        [59.2 / 30 * 0.5, 59.2 / 30 * 22 / 576], rel=1e-12
    )
    assert proportional(scores, [16, 576], 0.2) == pytest.approx([1.0, (118.4 - 16) / 576], rel=1e-12)


@given(shapes, st.floats(0.01, 1.0))
def test_erk_agrees_with_the_published_loop_and_meets_the_budget(
    shapes: list[tuple[int, ...]], keep: float
) -> None:
    numels = [math.prod(shape) for shape in shapes]
    keeps = proportional(erk_scores([[shape] for shape in shapes]), numels, keep)
    assert keeps == pytest.approx(reference_erk(shapes, keep), rel=1e-9)
    assert sum(k * n for k, n in zip(keeps, numels, strict=True)) == pytest.approx(
        keep * sum(numels), rel=1e-9
    )
    assert all(0.0 < k <= 1.0 for k in keeps)


def test_a_unit_of_several_layers_scores_between_them() -> None:
    assert erk_scores([[(4, 4), (8, 8, 3, 3)]]) == [(8 + 22) / (16 + 576)]


def random_convex(rng: random.Random, steps: int) -> list[tuple[float, float]]:
    slopes = sorted(rng.random() for _ in range(steps))
    losses = list(itertools.accumulate(slopes))
    return [(1.0 - (i + 1) / (steps + 1), loss) for i, loss in enumerate(losses)]


@pytest.mark.parametrize("seed", range(20))
def test_least_loss_agrees_with_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    steps, layers = 4, 4
    curves = [random_convex(rng, steps) for _ in range(layers)]
    removed = rng.randint(1, steps * layers)
    keeps = least_loss(curves, [100] * layers, 1.0 - removed / ((steps + 1) * layers))
    tables = [[(1.0, 0.0), *curve] for curve in curves]
    best = min(
        sum(table[i][1] for table, i in zip(tables, choice, strict=True))
        for choice in itertools.product(range(steps + 1), repeat=layers)
        if sum(choice) == removed
    )
    indices = [round((1.0 - keep) * (steps + 1)) for keep in keeps]
    assert [1.0 - i / (steps + 1) for i in indices] == pytest.approx(keeps)
    assert sum(indices) == removed
    assert sum(table[i][1] for table, i in zip(tables, indices, strict=True)) == pytest.approx(best)


def test_least_loss_spares_the_sensitive_layer_and_ignores_noise() -> None:
    flat = [(0.5, -0.01), (0.1, 0.0)]  # a gain is noise: it counts as no loss
    steep = [(0.5, 0.2), (0.1, 0.5)]
    assert least_loss([flat, steep], [100, 100], 0.55) == pytest.approx([0.1, 1.0])
    # The steep layer's cheaper piece, 0.2 for 50 weights, comes first: 25 of the 50 weights to the half.
    assert least_loss([flat, steep], [100, 100], 0.425) == pytest.approx([0.1, 0.75])


def test_least_loss_shares_pieces_of_equal_cost_and_stops_at_the_smallest_ratio() -> None:
    free = [(0.2, 0.0)]
    assert least_loss([free, free], [100, 300], 0.6) == pytest.approx([0.6, 0.6])
    assert least_loss([free, free], [100, 300], 0.0) == pytest.approx([0.2, 0.2])


def test_least_loss_uses_the_convex_hull() -> None:
    # Half way costs more per weight than going all the way: the hull skips the middle point.
    bump = [(0.5, 0.4), (0.2, 0.4)]
    line = [(0.2, 0.8 * 0.45 / 0.8)]  # 0.45 for 80 weights against 0.4 for 80
    assert least_loss([bump, line], [100, 100], 0.6) == pytest.approx([0.2, 1.0])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.floats(0.0, 1.0))
def test_bisection_agrees_with_trying_every_step(numels: list[int], share: float) -> None:
    def count(keep: float) -> int:
        return sum(max(1, round(keep * n)) for n in numels)

    budget = round(share * sum(numels))
    steps = sorted({0.0, 1.0, *((2 * i + 1) / (2 * n) for n in numels for i in range(n))})
    probes = [*steps, *((low + high) / 2 for low, high in itertools.pairwise(steps))]
    reachable = [count(probe) for probe in probes if count(probe) <= budget]
    keep = bisect_keep(count, budget)
    assert (keep is None) == (not reachable)
    if keep is not None:
        assert count(keep) == max(reachable)
        assert budget == sum(numels) or budget - len(numels) < count(keep)


def test_the_solved_ratio_is_short_where_it_can_be() -> None:
    assert bisect_keep(lambda keep: round(keep * 1000), 297) == 0.297
    assert bisect_keep(lambda keep: round(keep * 1000), 500) == 0.5

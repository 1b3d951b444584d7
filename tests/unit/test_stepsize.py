from __future__ import annotations

import pytest

from slr_det.stepsize import contracted, contraction


def test_a_k_is_the_printed_formula() -> None:
    assert contraction(1, 300, 0.1) == pytest.approx(1 - 1 / 300, rel=1e-15)  # p = 0
    # k = 1024, r = 0.1: k^r = 2, p = 1/2, k^p = 32.
    assert contraction(1024, 300, 0.1) == pytest.approx(1 - 1 / (300 * 32), rel=1e-15)
    # k = 16, r = 0.5: k^r = 4, p = 3/4, k^p = 8.
    assert contraction(16, 10, 0.5) == pytest.approx(1 - 1 / 80, rel=1e-15)


def test_a_k_grows_towards_one() -> None:
    values = [contraction(k, 300, 0.1) for k in range(1, 200)]
    assert values == sorted(values)
    assert 0.99 < values[0] < values[-1] < 1.0


def test_step_times_distance_shrinks_by_a_k() -> None:
    step = contracted(0.01, 0.9, before=4.0, now=0.5)
    assert step is not None
    assert step * 0.5 == pytest.approx(0.9 * 0.01 * 4.0, rel=1e-15)


@pytest.mark.parametrize(("before", "now"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_a_zero_distance_moves_nothing(before: float, now: float) -> None:
    assert contracted(0.01, 0.9, before, now) is None

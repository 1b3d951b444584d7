from __future__ import annotations

import pytest
import torch
from engine_reference import naive_penalty
from torch import Tensor

from slr_det.lagrangian import Terms, measure, penalty, projection_descends, weights_descend

RHO = 0.3
SHAPES = [
    (300, 33, 4, 4),
    (64, 16, 3, 3),
    (7,),
    (20, 30),
]  # the first spans several pieces and ends in a part of one


def problem(
    dtype: torch.dtype = torch.float32, channels_last: bool = False
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    weights, z, multipliers = [], [], []
    for shape in SHAPES:
        w = torch.randn(shape, generator=generator).to(dtype)
        if channels_last and len(shape) == 4:
            w = w.to(memory_format=torch.channels_last)
        weights.append(w.requires_grad_())
        kept = torch.rand(shape, generator=generator) < 0.3
        z.append(
            torch.empty_like(w, dtype=torch.float32, requires_grad=False).copy_(
                w.detach().float() * kept + 0.1 * kept
            )
        )
        multipliers.append(torch.empty_like(z[-1]).copy_(0.2 * torch.randn(shape, generator=generator)))
    return weights, z, multipliers


def expected(
    weights: list[Tensor], z: list[Tensor], multipliers: list[Tensor], scale: float
) -> tuple[float, list[Tensor]]:
    """Value and gradients of the same expression by torch's own autograd, in float64."""
    doubles = [w.detach().double().requires_grad_() for w in weights]
    value = scale * naive_penalty(doubles, [t.double() for t in z], [t.double() for t in multipliers], RHO)
    return float(value.detach()), list(torch.autograd.grad(value, doubles))


def assert_close(found: Tensor, wanted: Tensor, rel: float) -> None:
    error = (found.double() - wanted).norm() / wanted.norm()
    assert float(error) < rel


@pytest.mark.parametrize("with_multipliers", [True, False])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("dtype", "rel"),
    [(torch.float32, 1e-6), (torch.float64, 1e-6), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)],
)
def test_gradient_equals_autograd_of_the_lagrangian(
    dtype: torch.dtype, rel: float, channels_last: bool, with_multipliers: bool
) -> None:
    weights, z, multipliers = problem(dtype, channels_last)
    multipliers = multipliers if with_multipliers else []
    value, gradients = expected(weights, z, multipliers, scale=8.0)
    found = penalty(weights, z, multipliers, RHO) * 8.0
    assert found.shape == () and found.dtype == torch.float32
    assert float(found.detach()) == pytest.approx(value, rel=2e-6)
    found.backward()
    for w, wanted in zip(weights, gradients, strict=True):
        assert w.grad is not None and w.grad.dtype == dtype and w.grad.stride() == w.stride()
        assert_close(w.grad, wanted, rel)
        # Entry by entry too: float32 rounding of Lam + rho (W - Z), then that of the weights' dtype.
        torch.testing.assert_close(w.grad.double(), wanted, rtol=rel, atol=rel)


def test_layouts_that_differ_from_the_weights_are_handled() -> None:
    weights, z, multipliers = problem()
    z = [t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in z]
    value, gradients = expected(weights, z, multipliers, scale=1.0)
    found = penalty(weights, z, multipliers, RHO)
    found.backward()
    assert float(found.detach()) == pytest.approx(value, rel=1e-4)
    for w, wanted in zip(weights, gradients, strict=True):
        assert w.grad is not None
        assert_close(w.grad, wanted, 1e-6)


def test_frozen_weights_get_no_gradient() -> None:
    weights, z, multipliers = problem()
    weights[1].requires_grad_(False)
    penalty(weights, z, multipliers, RHO).backward()
    assert weights[1].grad is None
    assert weights[0].grad is not None


def test_weights_changed_before_the_backward_pass_are_refused() -> None:
    weights, z, multipliers = problem()
    value = penalty(weights, z, multipliers, RHO)
    with torch.no_grad():
        weights[0].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_two_penalties_in_one_graph_add_up() -> None:
    weights, z, multipliers = problem()
    _, gradients = expected(weights, z, multipliers, scale=5.0)
    (penalty(weights, z, multipliers, RHO) * 2 + penalty(weights, z, multipliers, RHO) * 3).backward()
    assert weights[0].grad is not None
    assert_close(weights[0].grad, gradients[0], 1e-6)


def test_autocast_changes_nothing() -> None:
    weights, z, multipliers = problem()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = penalty(weights, z, multipliers, RHO)
        (gradient_inside,) = torch.autograd.grad(inside, weights[0])
    outside = penalty(weights, z, multipliers, RHO)
    (gradient_outside,) = torch.autograd.grad(outside, weights[0])
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)
    assert torch.equal(gradient_inside, gradient_outside)


def test_measure_agrees_with_float64() -> None:
    weights, z, multipliers = problem()
    w = [t.detach() for t in weights]
    terms = measure(w, z, multipliers)
    d = [a.double() - b.double() for a, b in zip(w, z, strict=True)]
    inner = sum(float((x * lam.double()).sum()) for x, lam in zip(d, multipliers, strict=True))
    assert terms.inner == pytest.approx(inner, rel=1e-5)
    assert terms.distance == pytest.approx(float(sum((x * x).sum() for x in d)) ** 0.5, rel=1e-6)
    assert terms.penalty(RHO) == pytest.approx(terms.inner + 0.15 * terms.squared, rel=1e-15)
    assert measure(w, z).inner == 0.0


def test_terms_after_a_multiplier_update_need_no_second_pass() -> None:
    weights, z, multipliers = problem()
    w = [t.detach() for t in weights]
    predicted = measure(w, z, multipliers).after_update(0.7)
    moved = [lam + 0.7 * (a - b) for lam, a, b in zip(multipliers, w, z, strict=True)]
    assert predicted.inner == pytest.approx(measure(w, z, moved).inner, rel=1e-5)


def test_condition_6_compares_the_whole_lagrangian() -> None:
    assert weights_descend(1.0, 2.0, 2.0, 1.5)
    assert not weights_descend(1.0, 2.0, 1.0, 2.0)  # equal is not a descent
    assert not weights_descend(2.0, 1.0, 1.0, 1.5)
    assert weights_descend(9.0, 9.0, None, 0.0)  # f(W^0) unknown


def test_condition_11_compares_the_multiplier_terms() -> None:
    assert projection_descends(-1.0, 0.0)
    assert not projection_descends(1.0, 1.0)


def test_non_finite_terms_are_recognised() -> None:
    assert Terms(1.0, 2.0).finite
    assert not Terms(float("nan"), 2.0).finite
    assert not Terms(0.0, float("inf")).finite

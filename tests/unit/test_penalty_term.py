"""The penalty as a term of the loss: when its gradient is computed, and that nothing outlives a step."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slr_det import lagrangian
from slr_det.lagrangian import PenaltyTerm

RHO = 0.5


class _Noted(torch.autograd.Function):
    """Identity that notes when its backward runs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log: list[str]) -> Tensor:
        ctx.log = log
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        ctx.log.append("task")
        return gradient, None


def _problem() -> tuple[list[nn.Parameter], list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(6, 5, generator=generator)) for _ in range(3)]
    z = [weight.detach() * 0.5 for weight in weights]
    return weights, z, [torch.randn(6, 5, generator=generator) for _ in weights]


def _gradients(weights: list[nn.Parameter], z: list[Tensor], multipliers: list[Tensor]) -> list[Tensor]:
    return [lam + RHO * (w.detach() - z_) for w, z_, lam in zip(weights, z, multipliers, strict=True)]


def test_gradients_are_computed_after_the_whole_task_and_one_part_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights, z, multipliers = _problem()
    term = PenaltyTerm(weights)
    log: list[str] = []
    compute = lagrangian.gradient

    def noted(*args: Any) -> list[Tensor]:
        log.append(f"penalty of {len(args[0])}")
        return compute(*args)

    monkeypatch.setattr(lagrangian, "gradient", noted)
    for _ in range(2):
        x = torch.ones(1, 6)
        for weight in weights:
            x = _Noted.apply(x @ weight @ weight.T, log)  # type: ignore[no-untyped-call]
        (x.sum() + term(z, multipliers, RHO)).backward()  # type: ignore[no-untyped-call]
    assert log == (["task"] * 3 + ["penalty of 1"] * 3) * 2


def test_the_gradient_is_added_in_every_step_and_follows_the_constants() -> None:
    weights, z, multipliers = _problem()
    term = PenaltyTerm(weights)
    for step in range(3):
        with torch.no_grad():
            weights[0].add_(0.1)
        z = [tensor + step for tensor in z]
        expected = _gradients(weights, z, multipliers)
        loss = sum((weight.square().sum() for weight in weights), torch.zeros(()))
        (loss + 4.0 * term(z, multipliers, RHO)).backward()  # type: ignore[no-untyped-call]
        for weight, gradient in zip(weights, expected, strict=True):
            assert weight.grad is not None
            torch.testing.assert_close(weight.grad, 2 * weight.detach() + 4.0 * gradient)
            weight.grad = None


def test_two_values_in_one_graph_add_up() -> None:
    weights, z, multipliers = _problem()
    term = PenaltyTerm(weights)
    (2.0 * term(z, multipliers, RHO) + 3.0 * term(z, multipliers, RHO)).backward()  # type: ignore[no-untyped-call]
    for weight, gradient in zip(weights, _gradients(weights, z, multipliers), strict=True):
        torch.testing.assert_close(weight.grad, 5.0 * gradient)


def test_weights_may_be_frozen_and_thawed() -> None:
    weights, z, multipliers = _problem()
    term = PenaltyTerm(weights)
    expected = _gradients(weights, z, multipliers)
    weights[1].requires_grad_(False)
    term(z, multipliers, RHO).backward()  # type: ignore[no-untyped-call]
    assert weights[1].grad is None
    torch.testing.assert_close(weights[0].grad, expected[0])
    weights[1].requires_grad_(True)
    term(z, multipliers, RHO).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(weights[1].grad, expected[1])
    torch.testing.assert_close(weights[0].grad, 2 * expected[0])


def test_a_value_without_gradients_needs_no_graph() -> None:
    weights, z, multipliers = _problem()
    term = PenaltyTerm(weights)
    with torch.no_grad():
        value = term(z, multipliers, RHO)
    assert not value.requires_grad
    assert float(value) == float(term(z, multipliers, RHO).detach())


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_works_on_its_own_weights(how: str) -> None:
    weights, z, multipliers = _problem()
    term = PenaltyTerm(weights)
    copied, own = (
        copy.deepcopy((term, weights)) if how == "deepcopy" else pickle.loads(pickle.dumps((term, weights)))
    )
    copied(z, multipliers, RHO).backward()
    assert weights[0].grad is None
    torch.testing.assert_close(own[0].grad, _gradients(weights, z, multipliers)[0])


def test_nothing_outlives_the_term() -> None:
    weights, z, multipliers = _problem()
    term = PenaltyTerm(weights)
    term(z, multipliers, RHO).backward()  # type: ignore[no-untyped-call]
    held = [weakref.ref(weights[0]), weakref.ref(z[0]), weakref.ref(multipliers[0])]
    gc.disable()  # a cycle would keep the engine's tensors until some later collection
    try:
        del term, weights, z, multipliers
        assert [reference() for reference in held] == [None, None, None]
    finally:
        gc.enable()

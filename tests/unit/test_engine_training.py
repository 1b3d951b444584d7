"""The penalty inside training loops: same weights as with the naive loss, whatever stands around it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_reference import naive_penalty, one_group
from torch import Tensor, nn

from slr_det.engine import Engine
from slr_det.errors import ConfigError

RHO = 0.3
BATCH = 8


def model_and_data() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(288, 4),
    )
    data = [(torch.randn(BATCH, 3, 8, 8), torch.randn(BATCH, 4)) for _ in range(8)]
    return model, data


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.ndim > 1}


def engine_for(model: nn.Module, **options: Any) -> Engine:
    """An engine whose multipliers are not zero any more."""
    engine = one_group(weights_of(model), 0.3, rho=RHO, s0=0.5, **options)
    with torch.no_grad():
        for w in weights_of(model).values():
            w.add_(0.05 * torch.randn(w.shape, generator=torch.Generator().manual_seed(3)))
    engine.observe(torch.tensor(1.0))
    engine.end_iteration()
    assert all(lam.any() for lam in engine.state.multipliers.values())
    return engine


Term = Callable[[float], Tensor]


def naive_term(model: nn.Module, engine: Engine) -> Term:
    names = list(weights_of(model))
    z = [engine.state.z[n] for n in names]
    lam = [engine.state.multipliers[n] for n in names]
    return lambda scale: scale * naive_penalty(list(weights_of(model).values()), z, lam, RHO)


def plain(model: nn.Module, data: Any, term: Term) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for x, y in data:
        optimizer.zero_grad()
        (((model(x) - y) ** 2).mean() + term(1.0)).backward()
        optimizer.step()


def clipped(model: nn.Module, data: Any, term: Term) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for x, y in data:
        optimizer.zero_grad()
        (((model(x) - y) ** 2).mean() * BATCH + term(BATCH)).backward()
        before = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        assert float(before) > 0.5
        optimizer.step()


def accumulated(model: nn.Module, data: Any, term: Term) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for i, (x, y) in enumerate(data):
        (((model(x) - y) ** 2).mean() * BATCH + term(BATCH)).backward()
        if i % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()


def scaled(model: nn.Module, data: Any, term: Term) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=3)
    for x, y in data:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = ((model(x) - y) ** 2).mean() * BATCH
            total = loss + term(BATCH)
        scaler.scale(total).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() > 2.0**12


@pytest.mark.parametrize("loop", [plain, clipped, accumulated, scaled])
def test_the_trained_weights_are_those_of_the_naive_loss(
    loop: Callable[[nn.Module, Any, Term], None],
) -> None:
    model, data = model_and_data()
    engine = engine_for(model)
    reference = copy.deepcopy(model)
    start = {n: w.detach().clone() for n, w in weights_of(model).items()}
    loop(model, data, engine.penalty)
    loop(reference, data, naive_term(reference, engine))
    for (name, w), expected in zip(weights_of(model).items(), weights_of(reference).values(), strict=True):
        torch.testing.assert_close(w, expected, rtol=2e-5, atol=2e-6)
        assert (w - start[name]).abs().max() > 1e-4
    # The control: without the term training ends elsewhere, so that the comparison above means something.
    other, _ = model_and_data()
    other.load_state_dict({**other.state_dict(), **start})
    loop(other, data, lambda scale: torch.zeros(()))
    difference = max(
        float((a - b).detach().abs().max())
        for a, b in zip(weights_of(other).values(), weights_of(model).values(), strict=True)
    )
    assert difference > 1e-3


def test_the_ratio_of_penalty_to_loss_does_not_depend_on_the_accumulation() -> None:
    """A trainer that sums BATCH * mean losses: one batch of 16 equals two batches of 8 that accumulate."""
    model, _ = model_and_data()
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))  # no batch norm: the loss is a mean over samples
    x, y = torch.randn(16, 3, 8, 8), torch.randn(16, 4)
    engine = engine_for(model)
    gradients = []
    for size in (16, 8):
        for start in range(0, 16, size):
            part = ((model(x[start : start + size]) - y[start : start + size]) ** 2).mean()
            (part * size + engine.penalty(size)).backward()
        gradients.append(model[1].weight.grad.clone())
        model.zero_grad()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


def test_scale_may_be_a_tensor() -> None:
    model, _ = model_and_data()
    engine = engine_for(model)
    one, three = engine.penalty().detach(), engine.penalty(torch.tensor(3.0)).detach()
    assert float(three) == pytest.approx(3 * float(one), rel=1e-6)


@pytest.mark.parametrize("foreach", [False, True])
def test_attach_adds_the_same_gradient(foreach: bool) -> None:
    model, data = model_and_data()
    engine = engine_for(model)
    reference = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, foreach=foreach)
    handle = engine.attach(optimizer, scale=2.0)
    for x, y in data:
        optimizer.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        optimizer.step()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9)
    term = naive_term(reference, engine)
    for x, y in data:
        optimizer.zero_grad()
        (((reference(x) - y) ** 2).mean() + term(2.0)).backward()
        optimizer.step()
    for w, expected in zip(weights_of(model).values(), weights_of(reference).values(), strict=True):
        torch.testing.assert_close(w, expected, rtol=2e-5, atol=2e-6)
    handle.remove()
    model.zero_grad()
    before = {n: w.detach().clone() for n, w in weights_of(model).items()}
    torch.optim.SGD(model.parameters(), lr=0.05).step()
    assert all(torch.equal(before[n], w) for n, w in weights_of(model).items())


def test_attach_moves_weights_that_have_no_gradient() -> None:
    w = nn.Parameter(torch.tensor([[1.0, 2.0]]))
    engine = one_group({"w": w}, 0.5, rho=0.5)
    optimizer = torch.optim.SGD([w], lr=1.0)
    engine.attach(optimizer)
    optimizer.step()
    assert torch.equal(w.detach(), torch.tensor([[0.5, 2.0]]))  # Z = (0, 2): the gradient is 0.5 * (1, 0)


def test_attach_refuses_a_fused_step_that_unscales_and_an_optimizer_of_other_weights() -> None:
    model, data = model_and_data()
    engine = engine_for(model)
    with pytest.raises(ConfigError, match="holds none of the pruned parameters"):
        engine.attach(torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    engine.attach(optimizer)
    x, y = data[0]
    ((model(x) - y) ** 2).mean().backward()
    optimizer.step()  # fused, but nothing to unscale: fine
    scaler = torch.amp.GradScaler("cpu")
    optimizer.zero_grad()
    scaler.scale(((model(x) - y) ** 2).mean()).backward()
    with pytest.raises(ConfigError, match="unscales gradients inside its fused step"):
        scaler.step(optimizer)


def test_methods_without_a_penalty_add_a_constant_zero() -> None:
    for method in ("none", "gradual", "oneshot"):
        w = nn.Parameter(torch.randn(6, 6))
        engine = one_group({"w": w}, 0.5, method=method)
        loss = (w**2).sum() + engine.penalty(7.0)
        assert float(engine.penalty(7.0)) == 0.0
        (gradient,) = torch.autograd.grad(loss, w)
        assert torch.equal(gradient, 2 * w.detach())


def test_check_says_what_to_raise_and_to_what() -> None:
    w = nn.Parameter(torch.randn(6, 6))
    engine = one_group({"w": w}, 0.5, rho=0.1, iterations=20)
    # 20 iterations * 100 steps * 0.001 * 0.1 / (1 - 0.9) = 2
    message = engine.check(lr=1e-3, momentum=0.9, steps_per_iteration=100)
    assert message is not None
    assert "is 2, expected at least 3" in message
    assert "rho from 0.1 to 0.15" in message
    assert "learning rate from 0.001 to 0.0015" in message
    assert "iterations from 20 to 30" in message
    assert "closes only about 86 %" in message  # 1 - e^-2
    assert engine.check(lr=1e-3, momentum=0.9, steps_per_iteration=150) is None
    assert engine.check(lr=1e-3, momentum=0.9, steps_per_iteration=10, loss_scale=16) is None
    assert one_group({"w": w}, 0.5, method="gradual").check(lr=1e-9) is None
    assert "never moves" in (engine.check(lr=0.0) or "")


def test_check_predicts_the_decay_of_the_distance() -> None:
    """With no task loss, SGD shrinks W - Z by e^-(steps * lr * rho / (1 - momentum))."""
    from slr_det.closing import closing_exponent

    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(40, 40))
    engine = one_group({"w": w}, 0.2, rho=0.1)
    start = engine.state.z["w"]
    before = float((w.detach() - start).norm())
    optimizer = torch.optim.SGD([w], lr=0.01, momentum=0.9)
    for _ in range(200):
        optimizer.zero_grad()
        engine.penalty().backward()
        optimizer.step()
    found = float((w.detach() - start).norm()) / before
    exponent = closing_exponent(200, lr=0.01, rho=0.1, momentum=0.9)
    assert exponent == pytest.approx(2.0)
    assert -math.log(found) == pytest.approx(exponent, rel=0.1)

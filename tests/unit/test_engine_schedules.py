"""What can change from one iteration to the next: rho, l_n, the step while l_n shrinks; and survivors left free."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from engine_reference import norm, one_group, top, train_quadratic
from torch import Tensor

from slr_det.closing import closing_exponent, rho_for
from slr_det.engine import Engine, Hyper
from slr_det.errors import CheckpointError, ConfigError
from slr_det.methods.schedules import keeps_at, rho_at

SHAPE = (20, 15)
NUMEL = 300


def weights(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def trainable(seed: int = 0) -> Tensor:
    return weights(seed).requires_grad_()


def end(engine: Engine, w: Tensor, new: Tensor, f: float) -> dict[str, object]:
    """One iteration in which training moved the weights to ``new`` at a mean loss of ``f``."""
    with torch.no_grad():
        w.copy_(new)
    engine.after_step()
    engine.observe(torch.tensor(f))
    return engine.end_iteration()


class TestRho:
    def test_grows_in_equal_ratios_from_rho_to_its_multiple(self) -> None:
        hyper = Hyper(rho=0.5, rho_growth=100.0)
        values = [rho_at(hyper, k, 9) for k in range(1, 10)]
        assert values[0] == 0.5 and values[-1] == pytest.approx(50.0)
        ratios = [b / a for a, b in itertools.pairwise(values)]
        assert ratios == pytest.approx([100 ** (1 / 8)] * 8)
        assert rho_at(hyper, 10, 9) == rho_at(hyper, 9, 9)  # what is stored after the last iteration
        assert rho_at(Hyper(rho=0.3), 7, 9) == 0.3 and rho_at(hyper, 1, 1) == 0.5

    @pytest.mark.parametrize("method", ["slr", "admm", "penalty"])
    def test_the_penalty_of_an_iteration_has_that_iterations_rho(self, method: str) -> None:
        w = trainable()
        engine = one_group({"w": w}, method=method, rho=0.2, rho_growth=16.0, iterations=3)
        for k, rho in enumerate([0.2, 0.8, 3.2], start=1):
            z = engine.state.z["w"]
            lam = engine.state.multipliers.get("w", torch.zeros(SHAPE))
            d = w.detach() - z
            expected = float((lam * d).sum() + rho / 2 * (d * d).sum())
            assert float(engine.penalty().detach()) == pytest.approx(expected, rel=1e-4)
            record = end(engine, w, weights(k), 1.0)
            assert record["rho"] == pytest.approx(rho)

    def test_the_tests_compare_both_sides_at_one_rho(self) -> None:
        """(6) at k = 2: the left-over of iteration 1 is taken at the rho of iteration 2."""
        w = weights()
        engine = one_group({"w": w}, 0.25, rho=0.2, rho_growth=9.0, iterations=2, s0=0.01)
        end(engine, w, weights(1), 1.0)
        z, lam = engine.state.z["w"].clone(), engine.state.multipliers["w"].clone()

        def lagrangian(f: float, at: Tensor) -> float:
            d = at.double() - z.double()
            return f + float((lam.double() * d).sum()) + 0.5 * 1.8 * float((d * d).sum())

        new = weights(1) + 0.05 * weights(2)
        gap = lagrangian(0.0, weights(1)) - lagrangian(0.0, new)  # what f may rise by
        for f, holds in ((1.0 + gap - 0.05, True), (1.0 + gap + 0.05, False)):
            other = copy.deepcopy(engine)
            assert end(other, other.groups[0].params[0][1], new, f)["condition_6"] is holds


class TestContinuation:
    def test_l_n_shrinks_along_the_cubic_and_ends_at_the_target(self) -> None:
        w = weights()
        engine = one_group({"w": w}, 0.1, continuation=0.5, iterations=8, rho=1.0)
        assert int(engine.state.z["w"].count_nonzero()) == NUMEL
        counts = []
        for k in range(1, 9):
            record = end(engine, w, weights(k), 1.0)
            counts.append(int(engine.state.z["w"].count_nonzero()))
            assert record["keep"] == pytest.approx(counts[-1] / NUMEL)
        wanted = [round(NUMEL * (0.1 + 0.9 * (1 - k / 4) ** 3)) for k in (1, 2, 3)]
        assert counts == [*wanted, 30, 30, 30, 30, 30]

    @pytest.mark.parametrize("method", ["slr", "admm", "penalty"])
    def test_every_method_with_a_penalty_has_it_and_still_prunes_to_the_exact_count(
        self, method: str
    ) -> None:
        w = trainable()
        engine = one_group({"w": w}, 0.1, method=method, continuation=0.5, iterations=6, rho=1.0)
        train_quadratic(engine, w, weights(3), iterations=6, steps=5, lr=0.1)
        engine.hard_prune()
        assert int(w.count_nonzero()) == 30

    def test_a_set_that_cannot_start_dense_waits_for_the_end_of_the_schedule(self) -> None:
        w = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
        engine = one_group({"w": w}, 0.5, "2:4", continuation=0.5, iterations=4, rho=1.0)
        kept = []
        for _ in range(4):
            end(engine, w, w.clone(), 1.0)
            kept.append(int(engine.state.z["w"].count_nonzero()))
        assert kept == [128, 64, 64, 64]
        assert keeps_at(engine.groups, engine.hyper, 1, 4) == [1.0]

    def test_the_step_is_s0_while_l_n_shrinks_and_contracts_from_there(self) -> None:
        w = weights()
        engine = one_group(
            {"w": w}, 0.1, continuation=0.5, iterations=8, rho=0.5, s0=0.2, s0_unit="rho", M=20, r=0.3
        )
        records = [end(engine, w, weights(k), 10.0 - k) for k in range(1, 9)]
        assert [record["step_size"] for record in records[:3]] == [0.1, 0.1, 0.1]
        for before, after in itertools.pairwise(records[3:]):
            first = before["step_size"]
            if after["condition_6"]:
                first *= after["a_k"] * before["distance"] / after["distance_before"]
            second = after["a_k"] * first * after["distance_before"] / after["distance"]
            assert after["step_size"] == pytest.approx(second, rel=1e-4)


class TestSurvivors:
    def test_the_penalty_has_no_gradient_on_survivors_and_pulls_the_others_to_zero(self) -> None:
        w = trainable()
        engine = one_group({"w": w}, 0.1, rho=2.0, survivors="free")
        with torch.no_grad():
            w.add_(0.01 * weights(1))
        engine.after_step()
        engine.penalty().backward()
        kept = top(weights(), 30) != 0
        assert w.grad is not None
        assert torch.equal(w.grad[kept], torch.zeros(30))
        torch.testing.assert_close(w.grad[~kept], 2.0 * w.detach()[~kept])

    @pytest.mark.parametrize("method", ["slr", "admm"])
    def test_multipliers_are_zero_on_the_support_and_z_is_w_there(self, method: str) -> None:
        w = weights()
        engine = one_group({"w": w}, 0.2, method=method, rho=0.5, s0=0.1, survivors="free")
        for k in range(1, 5):
            record = end(engine, w, weights(k) * 0.3 + w * 0.7, 5.0 - k)
            z, lam = engine.state.z["w"], engine.state.multipliers["w"]
            support = z != 0
            assert int(support.sum()) == 60
            assert torch.equal(z[support], w[support])
            assert torch.equal(lam[support], torch.zeros(60))
            assert float(lam[~support].abs().max()) > 0
            assert record["distance"] == pytest.approx(norm(w[~support]), rel=1e-5)

    def test_pinned_survivors_barely_learn_under_a_rho_that_free_ones_do_not_feel(self) -> None:
        """f = 1/2 ||W - A||^2: what is kept should reach A, what is not should reach zero."""
        left = {}
        for survivors in ("pinned", "free"):
            w = trainable()
            engine = one_group({"w": w}, 0.2, method="penalty", rho=30.0, survivors=survivors, iterations=3)
            target = weights() + 0.5  # the largest stay the largest
            train_quadratic(engine, w, target, iterations=3, steps=10, lr=0.03)
            kept = engine.state.z["w"] != 0
            left[survivors] = norm((w - target).detach()[kept]) / norm(0.5 * kept)
            assert norm(w.detach()[~kept]) < 0.1 * norm(target[~kept])
        assert left["free"] == pytest.approx((1 - 0.03) ** 30, rel=0.05)
        assert left["pinned"] > 2 * left["free"]

    def test_attach_adds_no_gradient_to_survivors_either(self) -> None:
        w = trainable()
        engine = one_group({"w": w}, 0.1, rho=2.0, survivors="free")
        optimizer = torch.optim.SGD([w], lr=0.1)
        engine.attach(optimizer)
        w.grad = torch.zeros(SHAPE)
        optimizer.step()
        kept = top(weights(), 30) != 0
        assert torch.equal(w.detach()[kept], weights()[kept])
        torch.testing.assert_close(w.detach()[~kept], 0.8 * weights()[~kept])

    def test_all_of_it_resumes_bit_for_bit_in_the_middle_of_an_iteration(self) -> None:
        options = {
            "rho": 0.5,
            "rho_growth": 50.0,
            "continuation": 0.5,
            "survivors": "free",
            "s0": 0.2,
            "s0_unit": "rho",
            "iterations": 6,
        }
        w = trainable()
        engine = one_group({"w": w}, 0.1, **options)
        train_quadratic(engine, w, weights(5), iterations=3, steps=7)
        state, at = copy.deepcopy(engine.state_dict()), w.detach().clone().requires_grad_()
        other = one_group({"w": at}, 0.1, **options)
        other.load_state_dict(state)
        for e, x in ((engine, w), (other, at)):
            train_quadratic(e, x, weights(5), iterations=3, steps=7)
        assert torch.equal(w, at) and torch.equal(engine.state.z["w"], other.state.z["w"])
        assert torch.equal(engine.state.multipliers["w"], other.state.multipliers["w"])
        with pytest.raises(CheckpointError, match="survivors"):
            one_group({"w": at}, 0.1, **{**options, "survivors": "pinned"}).load_state_dict(state)


class TestClosing:
    def test_rho_closes_by_the_exponent_that_was_asked_for(self) -> None:
        rho = rho_for(40.0, steps=741, lr=0.0105, momentum=0.9)
        assert rho is not None
        assert closing_exponent(741, 0.0105, rho, 0.9) == pytest.approx(40.0)
        assert rho_for(40.0, steps=741, lr=0.0) is None

    def test_an_engine_takes_the_rho_that_fits_its_run(self) -> None:
        w = trainable()
        engine = one_group({"w": w}, 0.1, closing=12.0, rho_growth=4.0, iterations=5)
        assert engine.fit_rho(lr=0.02, momentum=0.9, steps_per_iteration=30) == pytest.approx(0.4)
        d = w.detach() - engine.state.z["w"]
        assert float(engine.penalty().detach()) == pytest.approx(0.2 * float((d * d).sum()), rel=1e-4)
        record = end(engine, w, weights(1), 1.0)
        assert record["rho"] == pytest.approx(0.4)
        with pytest.raises(ConfigError, match="before its first iteration"):
            engine.fit_rho(lr=0.02)

    def test_the_quadratic_closes_as_the_exponent_says(self) -> None:
        """With no task loss W - Z shrinks by exp(-closing), to first order in the learning rate."""
        w = trainable()
        engine = one_group({"w": w}, 0.1, method="penalty", closing=3.0, iterations=1)
        engine.fit_rho(lr=0.01, steps_per_iteration=400)
        optimizer = torch.optim.SGD([w], lr=0.01)
        before = norm(w.detach() - engine.state.z["w"])
        for _ in range(400):
            optimizer.zero_grad()
            engine.penalty().backward()
            optimizer.step()
        assert norm(w.detach() - engine.state.z["w"]) / before == pytest.approx(math.exp(-3.0), rel=0.02)

    @pytest.mark.parametrize("method", ["gradual", "oneshot", "none"])
    def test_methods_without_a_penalty_have_nothing_to_fit(self, method: str) -> None:
        engine = one_group({"w": weights()}, method=method, closing=40.0)
        assert engine.fit_rho(lr=0.02) is None

    def test_a_learning_rate_of_zero_is_one_line(self) -> None:
        with pytest.raises(ConfigError, match="no rho closes W - Z"):
            one_group({"w": weights()}, closing=40.0).fit_rho(lr=0.0)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("rho_growth", 0.0, "rho_growth is 0.0, expected a finite number above 0"),
        ("continuation", 1.5, "continuation is 1.5, expected a fraction"),
        ("closing", -1.0, "closing is -1.0, expected a finite number of at least 0"),
        ("survivors", "fre", "did you mean 'free'"),
        ("s0_unit", "rhoo", "did you mean 'rho'"),
    ],
)
def test_values_out_of_range_are_named(field: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        Hyper(**{field: value})  # type: ignore[arg-type]

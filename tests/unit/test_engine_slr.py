"""SLR against the paper's equations: a naive float64 version, the contraction of s ||W - Z||, the quadratic problem."""

from __future__ import annotations

import itertools

import pytest
import torch
from engine_reference import NaiveADMM, NaiveSLR, norm, one_group, top, train_quadratic
from torch import Tensor

from slr_det.engine import Engine, Hyper
from slr_det.errors import ConfigError

SHAPE = (30, 20)
COUNT = 150  # a quarter of the weights


def walk_of_weights(seed: int, iterations: int, calm: bool = False) -> list[tuple[Tensor, float]]:
    """Weights and objectives that wander, so that condition (6) holds at some iterations and fails at others."""
    generator = torch.Generator().manual_seed(seed)
    w, f = torch.randn(SHAPE, generator=generator), 10.0
    out = []
    for _ in range(iterations + 1):
        out.append((w.clone(), f))
        w = (0.8 if calm else 1.0) * w + 0.3 * torch.randn(SHAPE, generator=generator)
        f += float(torch.randn((), generator=generator)) * 60.0
    return out


@pytest.mark.parametrize("objective", ["running", "fixed"])
@pytest.mark.parametrize("stepsize", ["contractive", "as_printed"])
def test_every_quantity_follows_the_equations(stepsize: str, objective: str) -> None:
    hyper = Hyper(rho=0.5, M=20, r=0.3, s0=0.2, stepsize=stepsize, objective=objective)
    seen = set()
    for seed in range(4):
        path = walk_of_weights(seed, 15)
        w = path[0][0].clone()
        engine = one_group({"w": w}, 0.25, **hyper.to_dict())
        naive = NaiveSLR(w, COUNT, hyper, path[0][1] if objective == "fixed" else None)
        engine.start(lambda path=path: path[0][1])
        for k, (new, f) in enumerate(path[1:], start=1):
            w.copy_(new)
            if objective == "running":
                # Two batches of different sizes whose weighted mean is f.
                engine.observe(torch.tensor(f - 2.0), weight=1.0)
                engine.observe(torch.tensor(f + 1.0), weight=2.0)
                record = engine.end_iteration()
            else:
                engine.observe(torch.tensor(float("nan")))  # not looked at
                record = engine.end_iteration(lambda f=f: f)
            before = norm(w.double() - naive.z)
            naive.end_iteration(w, f)
            assert record["iteration"] == k
            assert (record["condition_6"], record["condition_11"]) == naive.conditions
            assert record["objective"] == pytest.approx(f, rel=1e-6)
            assert record["a_k"] == pytest.approx(naive.a, rel=1e-12)
            assert record["step_size"] == pytest.approx(naive.s, rel=1e-5)
            assert record["distance"] == pytest.approx(norm(w - naive.z), rel=1e-6)
            assert record["distance_before"] == pytest.approx(before, rel=1e-6)
            assert record["penalty"] == pytest.approx(naive.lagrangian(0.0, w.double(), naive.z), rel=1e-4)
            assert record["keep"] == 0.25
            torch.testing.assert_close(engine.state.z["w"].double(), naive.z, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(
                engine.state.multipliers["w"].double(), naive.lam, rtol=1e-5, atol=1e-6
            )
            seen.add(naive.conditions)
    # (11) holds here always: the projection minimises its left side. Only an unchanged Z makes both sides equal.
    assert seen == {(True, True), (False, True)}


def test_the_first_objective_counts_as_larger_with_running_and_is_measured_with_fixed() -> None:
    w = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    running = one_group({"w": w.clone()})
    running.observe(torch.tensor(1e6))
    assert running.end_iteration()["condition_6"] is True
    fixed = one_group({"w": w.clone()}, objective="fixed")
    fixed.start(lambda: 1.0)
    assert fixed.end_iteration(lambda: 2.0)["condition_6"] is False
    unstarted = one_group({"w": w.clone()}, objective="fixed")
    assert unstarted.end_iteration(lambda: 2.0)["condition_6"] is True


def test_step_times_distance_contracts_by_a_k_at_each_update() -> None:
    """Only the multipliers themselves are read: Lam moves by s (W - Z), so ||dLam|| is s ||W - Z||."""
    torch.manual_seed(0)
    target = torch.randn(40, 10)
    w = torch.nn.Parameter(torch.zeros(40, 10))
    engine = one_group({"w": w}, rho=1.0, s0=0.01, M=50.0, iterations=30)
    before = 0.01 * norm(w.detach() - engine.state.z["w"])
    train_quadratic(engine, w, target, iterations=1)
    products = []
    for _ in range(29):
        z, w_old = engine.state.z["w"].clone(), w.detach().clone()
        products.append((engine.history[-1], norm(w_old - z)))
        train_quadratic(engine, w, target, iterations=1)
    assert before == 0.0  # zeros are feasible: the first iteration has nothing to contract from
    both = 0
    for (earlier, distance), (later, _) in itertools.pairwise(products):
        if later["condition_6"] and later["condition_11"]:
            both += 1
            # Two updates in one iteration: a_k at (8), a_k again at (13).
            assert later["step_size"] * later["distance"] == pytest.approx(
                later["a_k"] ** 2 * earlier["step_size"] * distance, rel=1e-6
            )
    assert both >= 15


def test_each_single_update_contracts_by_a_k() -> None:
    hyper = Hyper(rho=0.5, M=20, r=0.3, s0=0.2)
    path = walk_of_weights(7, 12, calm=True)
    w = path[0][0].clone()
    engine = one_group({"w": w}, 0.25, **hyper.to_dict())
    step, product = 0.2, 0.2 * norm(w - engine.state.z["w"])
    updates = 0
    for new, f in path[1:]:
        w.copy_(new)
        z, lam = engine.state.z["w"].clone(), engine.state.multipliers["w"].clone()
        engine.observe(torch.tensor(f))
        record = engine.end_iteration()
        # Lam moved by s' (W - Z_old), then by s (W - Z_new): solve for both steps.
        moves = torch.stack([(w - z).flatten(), (w - engine.state.z["w"]).flatten()], dim=1).double()
        change = (engine.state.multipliers["w"].double() - lam.double()).flatten()
        steps = torch.linalg.lstsq(moves, change).solution.tolist()
        if record["condition_6"]:
            assert steps[0] * norm(moves[:, 0]) == pytest.approx(record["a_k"] * product, rel=1e-5)
            product = steps[0] * norm(moves[:, 0])
            updates += 1
        else:
            assert abs(steps[0]) < 1e-6
            product = step * norm(moves[:, 0])
        step = record["step_size"]
        if record["condition_11"]:
            assert steps[1] * norm(moves[:, 1]) == pytest.approx(record["a_k"] * product, rel=1e-5)
            product = steps[1] * norm(moves[:, 1])
            updates += 1
    assert 12 < updates < 24  # (6) failed now and then


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_slr_reaches_the_largest_entries_of_a_quadratic(seed: int) -> None:
    """f(W) = 1/2 ||W - A||^2 under at most l nonzeros is solved by the l largest entries of A."""
    torch.manual_seed(seed)
    target = torch.randn(20, 10)
    w = torch.nn.Parameter(torch.zeros(20, 10))
    engine = one_group({"w": w}, rho=1.0, s0=0.01, iterations=80)
    train_quadratic(engine, w, target, iterations=80)
    assert engine.history[-1]["distance"] < 0.1 * engine.history[0]["distance"]
    engine.hard_prune()
    torch.testing.assert_close(w.detach(), top(target, 50), rtol=0, atol=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_slr_closes_the_distance_from_the_dense_optimum(seed: int) -> None:
    """Started where pruning starts, at the minimum of f, with f measured in full: W comes down to Z = top-l of A."""
    torch.manual_seed(seed)
    target = torch.randn(20, 10)
    w = torch.nn.Parameter(target.clone())
    engine = one_group({"w": w}, rho=2.0, s0=0.02, iterations=60, objective="fixed")
    engine.start(lambda: 0.0)
    train_quadratic(engine, w, target, iterations=60)
    assert engine.history[-1]["distance"] < 0.1 * engine.history[0]["distance"]
    assert engine.history[-1]["distance"] < 0.05 * norm(target - top(target, 50))
    engine.hard_prune()
    torch.testing.assert_close(w.detach(), top(target, 50), rtol=0, atol=1e-3)


def test_a_feasible_start_moves_nothing() -> None:
    w = top(torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)), COUNT)
    engine = one_group({"w": w}, 0.25, s0=0.02)
    for _ in range(3):
        engine.observe(torch.tensor(1.0))
        record = engine.end_iteration()
        assert record["distance"] == record["distance_before"] == 0.0
        assert record["step_size"] == 0.02
    assert not engine.state.multipliers["w"].any()


def test_leaving_a_feasible_point_starts_from_the_unchanged_step() -> None:
    w = top(torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)), COUNT)
    engine = one_group({"w": w}, 0.25, s0=0.02, M=20.0)
    w.add_(0.1 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)))
    moved = norm(w - engine.state.z["w"])
    engine.observe(torch.tensor(1.0))
    record = engine.end_iteration()
    # ||W^0 - Z^0|| = 0 forbids (8) although (6) counts as satisfied; (13) contracts from ||W^1 - Z^0||.
    assert record["condition_6"] is True and record["condition_11"] is True
    assert record["step_size"] * record["distance"] == pytest.approx(record["a_k"] * 0.02 * moved, rel=1e-6)


def test_norms_run_over_all_groups_together() -> None:
    """Two groups with their own budgets behave as the stacked problem: one distance, one step size."""
    from slr_det.groups import GroupSpec, build_groups
    from slr_det.projections import Projection

    path = walk_of_weights(3, 6)
    named = {"a": path[0][0][:10].clone(), "b": path[0][0][10:].clone()}
    specs = [GroupSpec(n, (n,), 0.25, Projection("unstructured")) for n in named]
    engine = Engine(build_groups(named, specs), iterations=6, hyper=Hyper(rho=0.5, s0=0.2))
    for new, _ in path[1:]:
        named["a"].copy_(new[:10])
        named["b"].copy_(new[10:])
        before = {n: engine.state.multipliers[n].clone() for n in named}
        z_old = {n: engine.state.z[n].clone() for n in named}
        engine.observe(torch.tensor(1.0))
        record = engine.end_iteration()
        parts = [norm(named[n] - engine.state.z[n]) for n in named]
        assert record["distance"] == pytest.approx((parts[0] ** 2 + parts[1] ** 2) ** 0.5, rel=1e-6)
        solved = []
        for n in named:
            moves = torch.stack(
                [(named[n] - z_old[n]).flatten(), (named[n] - engine.state.z[n]).flatten()], 1
            )
            change = (engine.state.multipliers[n] - before[n]).flatten().double()
            solved.append(torch.linalg.lstsq(moves.double(), change).solution)
        torch.testing.assert_close(solved[0], solved[1], rtol=1e-4, atol=1e-6)


def test_slr_without_an_objective_says_what_to_call() -> None:
    engine = one_group({"w": torch.randn(SHAPE)})
    with pytest.raises(ConfigError, match=r"iteration 1 ends without an objective.*engine.observe\(loss\)"):
        engine.end_iteration()
    assert engine.iteration == 0 and engine.history == []


def test_admm_follows_its_two_lines() -> None:
    path = walk_of_weights(5, 10)
    w = path[0][0].clone()
    engine = one_group({"w": w}, 0.25, method="admm", rho=0.3)
    naive = NaiveADMM(w, COUNT, 0.3)
    for new, _ in path[1:]:
        w.copy_(new)
        before = norm(w.double() - naive.z)
        record = engine.end_iteration()
        naive.end_iteration(w)
        torch.testing.assert_close(engine.state.z["w"].double(), naive.z, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(engine.state.multipliers["w"].double(), naive.lam, rtol=1e-5, atol=1e-6)
        d = w.double() - naive.z
        assert record["distance"] == pytest.approx(norm(d), rel=1e-6)
        assert record["distance_before"] == pytest.approx(before, rel=1e-6)
        assert record["penalty"] == pytest.approx(float((naive.lam * d + 0.15 * d * d).sum()), rel=1e-4)
        assert record["objective"] is None and record["rho"] == 0.3


def test_penalty_method_projects_the_weights_and_has_no_multipliers() -> None:
    path = walk_of_weights(6, 3)
    w = path[0][0].clone()
    engine = one_group({"w": w}, 0.25, method="penalty", rho=0.3)
    for new, _ in path[1:]:
        w.copy_(new)
        record = engine.end_iteration()
        assert torch.equal(engine.state.z["w"], top(w, COUNT))
        assert record["penalty"] == pytest.approx(0.15 * norm(w - top(w, COUNT)) ** 2, rel=1e-5)
    assert engine.state.multipliers == {}

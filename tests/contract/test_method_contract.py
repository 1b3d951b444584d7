"""What every method promises, checked on all of them and on one written the way an outsider would."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slr_det import methods
from slr_det.engine import Engine, Hyper
from slr_det.errors import CheckpointError, ConfigError, NumericsError
from slr_det.groups import GroupSpec, ParamGroup, build_groups
from slr_det.methods import MethodState, Record, protocol, record
from slr_det.projections import Projection

BUILT_IN = {"slr", "admm", "penalty", "gradual", "oneshot", "none"}
METHODS = [*methods.names(), "outsider"]
PROJECTIONS = ["unstructured", "2:4", "filter", "channel:coupled", "block:4x4", "kernel_pattern"]
KEEP = 0.25
ITERATIONS = 4


@pytest.fixture(autouse=True, scope="module")
def outsider() -> Iterator[None]:
    """One class in one file is all it takes: a penalty that pulls towards zero, whatever the projection."""

    @methods.register
    @dataclass(frozen=True)
    class Outsider:
        name: str = "outsider"
        uses_penalty: bool = True

        def init(self, groups: Sequence[ParamGroup], hyper: Hyper, iterations: int) -> MethodState:
            z = {n: torch.zeros_like(w, dtype=torch.float32) for g in groups for n, w in g.params}
            return MethodState(0, z, {}, {}, {"note": 1.0})

        def end_iteration(
            self, groups: Sequence[ParamGroup], hyper: Hyper, state: MethodState, objective: float | None
        ) -> tuple[MethodState, Record]:
            k = state.iteration + 1
            total = sum(float((w.double() ** 2).sum()) for g in groups for w in g.tensors)
            if not math.isfinite(total):
                bad = next(n for g in groups for n, w in g.params if not torch.isfinite(w).all())
                raise NumericsError(
                    f"parameter '{bad}' is not finite in iteration {k}; lower the learning rate"
                )
            done = record(
                self.name, k, objective=objective, distance=total**0.5, distance_before=total**0.5, keep=1.0
            )
            return state._replace(iteration=k), done

    yield
    del protocol._REGISTRY["outsider"]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Problem:
    """Two convolutions of one group under one budget and a third of its own, pulled towards random targets."""

    def __init__(
        self, method: str, projection: str = "unstructured", dtype: torch.dtype = torch.float32
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = {"a.weight": (8, 12, 3, 3), "b.weight": (8, 12, 3, 3), "c.weight": (16, 8, 3, 3)}
        self.named: dict[str, Tensor] = {
            n: nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for n, s in shapes.items()
        }
        self.targets = {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}
        specs = [
            GroupSpec("pair", ("a.weight", "b.weight"), KEEP, Projection.parse(projection)),
            GroupSpec("single", ("c.weight",), KEEP, Projection.parse(projection)),
        ]
        groups = build_groups(self.named, specs)
        self.engine = Engine(groups, method, iterations=ITERATIONS, hyper=Hyper(rho=0.5, s0=0.05, M=20))
        self.momenta = {n: torch.zeros_like(w) for n, w in self.named.items()}

    def iterate(self, count: int) -> None:
        for _ in range(count):
            for _ in range(3):
                loss = sum(0.5 * ((w - self.targets[n]) ** 2).sum() for n, w in self.named.items())
                assert isinstance(loss, Tensor)
                self.engine.observe(loss, 2.0)
                gradients = torch.autograd.grad(loss + self.engine.penalty(), list(self.named.values()))
                with torch.no_grad():
                    for (n, w), gradient in zip(self.named.items(), gradients, strict=True):
                        w.sub_(self.momenta[n].mul_(0.5).add_(gradient), alpha=0.1)
                self.engine.after_step()
            self.engine.end_iteration()

    def weights(self) -> dict[str, Tensor]:
        return {n: w.detach().clone() for n, w in self.named.items()}


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in value.items():
            assert isinstance(key, str)
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def tensors_of(engine: Engine) -> list[Tensor]:
    return [leaf for leaf in leaves(engine.state_dict()) if isinstance(leaf, Tensor)]


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in history]


def test_the_built_in_methods_are_found() -> None:
    assert set(methods.names()) - {"outsider"} == BUILT_IN
    for name in BUILT_IN:
        assert methods.get(name).name == name
        assert inspect.getdoc(methods.get(name))
    with pytest.raises(ConfigError, match=r"method is 'slrr', expected one of .*\(did you mean 'slr'\?\)"):
        methods.get("slrr")


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ConfigError, match="a method named 'slr' is already registered"):
        methods.register(type(methods.get("slr")))


def test_hyperparameters_report_every_problem_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Hyper(rho=0.0, M=1.0, r=float("nan"), s0=-1, stepsize="contractiv", objective="mean", ramp_start=0.9)
    assert len(caught.value.problems) == 7
    text = str(caught.value)
    assert "rho is 0.0, expected a finite number above 0" in text
    assert "M is 1.0, expected a finite number above 1" in text
    assert "did you mean 'contractive'?" in text
    assert "expected 0 <= ramp_start < ramp_end <= 1" in text


def test_an_engine_needs_groups_and_iterations(method: str) -> None:
    with pytest.raises(ConfigError, match="no parameter groups"):
        Engine([], method, iterations=1)
    with pytest.raises(ConfigError, match="iterations is 0, expected at least 1"):
        Engine(Problem(method).engine.groups, method, iterations=0)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_hard_pruning_ends_in_the_set(method: str, projection: str) -> None:
    problem = Problem(method, projection)
    problem.iterate(ITERATIONS)
    before = problem.weights()
    predicted = problem.engine.supports()
    masks = problem.engine.hard_prune()
    after = problem.weights()
    for group in problem.engine.groups:
        kept = group.projection.count([w.shape for w in group.tensors], group.keep)
        assert sum(int(masks[n].sum()) for n in group.names) == kept
        assert sum(int(torch.count_nonzero(after[n])) for n in group.names) <= (kept or 0)
        # In the set: projecting once more changes nothing.
        again = group.projection.project([after[n] for n in group.names], group.keep)
        assert all(torch.equal(z, after[n]) for z, n in zip(again, group.names, strict=True))
    for name, mask in masks.items():
        assert torch.equal(mask, predicted[name])
        assert torch.equal(after[name], torch.where(mask, before[name], 0.0))
    problem.iterate(1)
    assert all(not problem.named[n].detach()[~mask].any() for n, mask in masks.items())
    assert float(problem.engine.penalty()) == 0.0


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_run_can_be_repeated(method: str, projection: str) -> None:
    one, other = Problem(method, projection), Problem(method, projection)
    for problem in (one, other):
        problem.iterate(ITERATIONS)
    assert all(torch.equal(w, other.weights()[n]) for n, w in one.weights().items())
    assert without_times(one.engine.history) == without_times(other.engine.history)
    for a, b in zip(tensors_of(one.engine), tensors_of(other.engine), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_saved_state_goes_on_as_if_nothing_happened(method: str, projection: str, tmp_path: Path) -> None:
    whole, first, second = (Problem(method, projection) for _ in range(3))
    whole.iterate(ITERATIONS)
    first.iterate(2)
    first.engine.save(tmp_path / "engine.pt")
    for n, w in first.weights().items():
        second.named[n].data.copy_(w)
        second.momenta[n].copy_(first.momenta[n])
    second.engine.load(tmp_path / "engine.pt")
    second.iterate(ITERATIONS - 2)
    assert all(torch.equal(w, whole.weights()[n]) for n, w in second.weights().items())
    assert without_times(second.engine.history) == without_times(whole.engine.history)
    for a, b in zip(tensors_of(second.engine), tensors_of(whole.engine), strict=True):
        assert torch.equal(a, b)


def test_a_state_of_another_method_is_refused(method: str) -> None:
    other = next(name for name in METHODS if name != method)
    with pytest.raises(CheckpointError, match=f"method is '{other}' there and '{method}' here"):
        Problem(method).engine.load_state_dict(Problem(other).engine.state_dict())


def test_the_state_is_plain_data(method: str) -> None:
    problem = Problem(method)
    problem.iterate(2)
    for leaf in leaves(problem.engine.state_dict()):
        assert leaf is None or type(leaf) in {Tensor, bool, int, float, str}


@pytest.mark.parametrize("when", [0, 2, ITERATIONS])
def test_the_state_is_at_most_twice_the_weights(method: str, when: int) -> None:
    problem = Problem(method)
    problem.iterate(when)
    weights = sum(w.numel() for w in problem.named.values())
    assert sum(t.numel() for t in tensors_of(problem.engine)) <= 2 * weights + 1  # and the running loss
    size = sum(t.numel() * t.element_size() for t in tensors_of(problem.engine))
    assert size <= 2 * 4 * weights + 8


def test_the_tensors_of_the_state_are_reused(method: str) -> None:
    problem = Problem(method)
    state = problem.engine.state
    before = {n: t.data_ptr() for d in (state.z, state.multipliers) for n, t in d.items()}
    problem.iterate(2)
    state = problem.engine.state
    assert before == {n: t.data_ptr() for d in (state.z, state.multipliers) for n, t in d.items()}


def test_records_have_the_same_keys_and_json_types(method: str) -> None:
    problem = Problem(method)
    problem.iterate(ITERATIONS)
    keys = {*record("x", 1, distance=0.0, distance_before=0.0, keep=1.0, objective=None), "seconds"}
    for k, entry in enumerate(problem.engine.history, start=1):
        assert set(entry) == keys
        assert json.loads(json.dumps(entry)) == entry
        assert (entry["iteration"], entry["method"]) == (k, method)
        for key in ("objective", "distance", "distance_before", "penalty", "keep", "seconds"):
            assert type(entry[key]) is float and math.isfinite(entry[key])
        assert type(entry["condition_6"]) is type(entry["condition_11"])
        assert 0 <= entry["keep"] <= 1 and entry["distance"] >= 0 and entry["seconds"] > 0


def test_nothing_of_the_weights_is_changed_by_ending_an_iteration(method: str) -> None:
    """Beyond enforcing masks: what is not zero afterwards is what it was."""
    problem = Problem(method)
    problem.iterate(1)
    before = problem.weights()
    problem.engine.observe(torch.tensor(1.0))
    problem.engine.end_iteration()
    for name, w in problem.weights().items():
        assert torch.equal(w, torch.where(w != 0, before[name], 0.0))
        assert methods.get(method).uses_penalty is False or torch.equal(w, before[name])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_numbers_stop_the_run_by_name(method: str, value: float) -> None:
    problem = Problem(method)
    problem.iterate(1)
    problem.named["b.weight"].data[3, 2, 1, 0] = value
    problem.engine.observe(torch.tensor(1.0))
    with pytest.raises(NumericsError, match=r"'b.weight'.* in iteration 2;"):
        problem.engine.end_iteration()
    problem = Problem(method)
    problem.iterate(1)
    problem.engine.observe(torch.tensor(value))
    with pytest.raises(NumericsError, match=r"the training loss is .* in iteration 2;"):
        problem.engine.end_iteration()
    assert problem.engine.iteration == 1 and len(problem.engine.history) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_weight_dtypes_train(method: str, dtype: torch.dtype) -> None:
    problem = Problem(method, dtype=dtype)
    problem.iterate(2)
    assert all(w.dtype == dtype for w in problem.named.values())
    state = problem.engine.state
    assert all(t.dtype == torch.float32 for d in (state.z, state.multipliers) for t in d.values())


def test_averaged_copies_are_masked_like_the_weights(method: str) -> None:
    problem = Problem(method)
    problem.iterate(ITERATIONS)
    copies = {n: torch.ones_like(w) for n, w in problem.named.items()}
    problem.engine.after_step(copies)
    for name, tensor in copies.items():
        mask = problem.engine.state.masks.get(name)
        assert torch.equal(tensor, torch.ones_like(tensor) if mask is None else mask.to(tensor.dtype))

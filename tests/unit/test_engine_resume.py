"""Saving, resuming bit for bit, refusing states of other runs, and stopping on bad numbers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_reference import one_group
from torch import Tensor, nn

from slr_det.engine import Engine, Hyper
from slr_det.errors import CheckpointError, NumericsError
from slr_det.groups import GroupSpec, build_groups
from slr_det.projections import Projection

METHODS = ["slr", "admm", "penalty", "gradual", "oneshot", "none"]


class Run:
    """A small training run whose every state can be saved and taken over by a fresh one."""

    def __init__(self, method: str, objective: str = "running", **changes: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 4)
        )
        named = {n: p for n, p in self.model.named_parameters() if p.ndim > 1}
        specs = [
            GroupSpec(
                "convolutions", ("0.weight", "2.weight"), changes.get("keep", 0.3), Projection("unstructured")
            ),
            GroupSpec("linear", ("4.weight",), 0.5, Projection.parse(changes.get("projection", "2:4"))),
        ]
        if changes.get("names"):
            specs[1] = GroupSpec(changes["names"], ("4.weight",), 0.5, Projection.parse("2:4"))
        hyper = Hyper(rho=changes.get("rho", 0.2), s0=0.3, M=20, objective=objective)
        self.engine = Engine(
            build_groups(named, specs), method, iterations=changes.get("iterations", 6), hyper=hyper
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        self.fixed = (torch.randn(8, 3, 8, 8), torch.randn(8, 4))
        self.engine.start(self.objective)
        self.step = 0

    def objective(self) -> float:
        with torch.no_grad():
            return float(((self.model(self.fixed[0]) - self.fixed[1]) ** 2).mean())

    def advance(self, steps: int) -> None:
        """Train to step ``steps``; every fifth ends an iteration."""
        while self.step < steps:
            generator = torch.Generator().manual_seed(self.step)
            x, y = torch.randn(8, 3, 8, 8, generator=generator), torch.randn(8, 4, generator=generator)
            loss = ((self.model(x) - y) ** 2).mean()
            self.engine.observe(loss, 8)
            self.optimizer.zero_grad()
            (loss + self.engine.penalty()).backward()
            self.optimizer.step()
            self.engine.after_step()
            self.step += 1
            if self.step % 5 == 0:
                self.engine.end_iteration(self.objective)
                self.engine.history[-1]["epoch"] = self.step // 5

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "engine": self.engine.state_dict(),
            "step": self.step,
        }

    def take_over(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.engine.load_state_dict(state["engine"])
        self.step = state["step"]


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a state by its path, without the one thing that is a measurement: seconds."""
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items() if key != "seconds"]
    elif isinstance(value, list | tuple):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return {path: value}
    return {k: v for key, item in items for k, v in flatten(item, f"{path}/{key}").items()}


def assert_identical(one: Any, other: Any) -> None:
    a, b = flatten(one), flatten(other)
    assert a.keys() == b.keys()
    for key, value in a.items():
        same = torch.equal(value, b[key]) if isinstance(value, Tensor) else value == b[key]
        assert same, f"{key}: {value} and {b[key]}"


@pytest.mark.parametrize("stop", [0, 5, 13, 22])
@pytest.mark.parametrize(("method", "objective"), [*[(m, "running") for m in METHODS], ("slr", "fixed")])
def test_a_resumed_run_is_identical_bit_for_bit(
    method: str, objective: str, stop: int, tmp_path: Path
) -> None:
    whole = Run(method, objective)
    whole.advance(30)
    first = Run(method, objective)
    first.advance(stop)
    torch.save(first.state(), tmp_path / "state.pt")
    second = Run(method, objective)
    second.advance(3)  # dirt, to be replaced
    second.take_over(torch.load(tmp_path / "state.pt", weights_only=True))
    second.advance(30)
    assert_identical(second.state(), whole.state())
    assert_identical(second.engine.hard_prune(), whole.engine.hard_prune())
    assert_identical(second.state(), whole.state())


def test_the_zeros_stay_after_hard_pruning_and_a_resume(tmp_path: Path) -> None:
    run = Run("slr")
    run.advance(10)
    masks = run.engine.hard_prune()
    run.engine.save(tmp_path / "engine.pt")
    again = Run("slr")
    again.model.load_state_dict(run.model.state_dict())
    again.engine.load(tmp_path / "engine.pt")
    assert float(again.engine.penalty()) == 0.0
    for p in again.model.parameters():
        p.data.add_(1.0)
    again.engine.after_step()
    named = dict(again.model.named_parameters())
    for name, mask in masks.items():
        assert not named[name][~mask].any()
        assert named[name][mask].all()


def test_the_history_is_json() -> None:
    run = Run("slr")
    run.advance(10)
    assert json.loads(json.dumps(run.engine.history)) == run.engine.history
    assert [r["iteration"] for r in run.engine.history] == [1, 2]


@pytest.mark.parametrize(
    ("changes", "method", "words"),
    [
        ({}, "admm", "method is 'slr' there and 'admm' here"),
        ({"rho": 0.3}, "slr", "hyper.rho is 0.2 there and 0.3 here"),
        ({"iterations": 7}, "slr", "iterations is 6 there and 7 here"),
        ({"keep": 0.4}, "slr", "groups 'convolutions'.keep is 0.3 there and 0.4 here"),
        ({"projection": "1:4"}, "slr", "groups 'linear'.projection.n is 2 there and 1 here"),
        ({"names": "other"}, "slr", "groups 'other' exists only here"),
    ],
)
def test_a_state_of_another_run_is_refused_by_its_first_difference(
    changes: dict[str, Any], method: str, words: str
) -> None:
    saved = Run("slr")
    saved.advance(5)
    other = Run(method, **changes)
    other.advance(5)
    before = copy.deepcopy(other.engine.state_dict())
    with pytest.raises(CheckpointError) as caught:
        other.engine.load_state_dict(saved.engine.state_dict())
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert "start a new run" in str(caught.value)
    assert_identical(other.engine.state_dict(), before)


def test_another_shape_is_refused() -> None:
    small, large = one_group({"w": torch.randn(4, 4)}), one_group({"w": torch.randn(4, 5)})
    with pytest.raises(
        CheckpointError, match=r"groups 'all'.params 'w'.shape is \[4, 4\] there and \[4, 5\] here"
    ):
        large.load_state_dict(small.state_dict())


def test_a_state_that_lacks_a_tensor_or_a_key_is_refused() -> None:
    engine = one_group({"w": torch.randn(4, 4)})
    state = engine.state_dict()
    damaged = {**state, "state": {**state["state"], "multipliers": {}}}
    with pytest.raises(CheckpointError, match="damaged: multipliers.w exists only here"):
        engine.load_state_dict(damaged)
    with pytest.raises(CheckpointError, match="masks.other exists only there"):
        engine.load_state_dict({**state, "state": {**state["state"], "masks": {"other": torch.ones(2)}}})
    for bad in ({}, {**state, "version": 99}, {k: v for k, v in state.items() if k != "history"}):
        with pytest.raises(CheckpointError, match="expected a complete state of version 1"):
            engine.load_state_dict(bad)


# -- bad numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("method", METHODS)
def test_a_bad_weight_stops_the_run_by_name(method: str, value: float) -> None:
    run = Run(method)
    run.advance(8)
    run.model[2].weight.data[1, 2, 0, 0] = value
    run.engine.observe(torch.tensor(1.0))
    before = copy.deepcopy(run.engine.state_dict())
    with pytest.raises(
        NumericsError, match=r"parameter '2.weight': 1 of 432 values are NaN or infinite in iteration 2;"
    ):
        run.engine.end_iteration(run.objective)
    assert_identical(run.engine.state_dict(), before)
    with pytest.raises(NumericsError, match="'2.weight'"):
        run.engine.hard_prune()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_loss_stops_the_run(method: str, value: float) -> None:
    run = Run(method)
    run.advance(8)
    run.engine.observe(torch.tensor(value))
    with pytest.raises(NumericsError, match=r"the training loss is (nan|inf) in iteration 2;"):
        run.engine.end_iteration()


def test_a_bad_weight_is_named_rather_than_the_loss_it_spoils() -> None:
    run = Run("slr")
    run.advance(7)
    run.model[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(NumericsError, match="parameter '0.weight'"):
        run.advance(10)


@pytest.mark.parametrize("method", ["slr", "admm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_multiplier_stops_the_run_by_name(method: str, value: float) -> None:
    run = Run(method)
    run.advance(8)
    run.engine.state.multipliers["4.weight"][0, 0] = value
    with pytest.raises(
        NumericsError, match=r"the multipliers of '4.weight': 1 of 384 values .* in iteration 2;"
    ):
        run.engine.end_iteration()


def test_a_bad_initial_weight_stops_slr_at_once() -> None:
    with pytest.raises(
        NumericsError, match="parameter 'w': 1 of 4 values are NaN or infinite in iteration 1"
    ):
        one_group({"w": torch.tensor([[1.0, float("nan")], [0.0, 2.0]])})


def test_weights_whose_norm_overflows_are_named() -> None:
    w = torch.ones(4, 4)
    engine = one_group({"small": torch.ones(2, 2), "w": w})
    w[0, 0] = 1e30
    engine.observe(torch.tensor(1.0))
    with pytest.raises(
        NumericsError, match=r"parameter 'w' has grown to 1e\+30 in iteration 1 and its norm overflows"
    ):
        engine.end_iteration()


# -- files ------------------------------------------------------------------------------------------------


def test_a_saved_engine_loads_from_its_file(tmp_path: Path) -> None:
    run = Run("slr")
    run.advance(7)
    path = run.engine.save(tmp_path / "state" / "engine.pt")
    other = Run("slr")
    other.engine.load(path)
    assert_identical(other.engine.state_dict(), run.engine.state_dict())


def test_a_refused_file_is_named(tmp_path: Path) -> None:
    path = Run("slr").engine.save(tmp_path / "engine.pt")
    with pytest.raises(CheckpointError, match=r"engine.pt: the engine state is of another run: method"):
        Run("admm").engine.load(path)

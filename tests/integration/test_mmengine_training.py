"""The quiet Runner that the adapters share: what it shows and leaves, its schedule, its device and its precision."""

from __future__ import annotations

import json
import logging
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmengine", reason='needs mmengine: uv pip install "slr-det[classify]"')

import mmengine_runs as runs
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner

from slr_det.errors import CheckpointError, ConfigError
from slr_det_adapters.mmengine import ProgressHook, SafeCheckpointHook, ScheduleHook, build_runner
from slr_det_adapters.mmengine.checkpoints import last_checkpoint, make_plain, read_checkpoint, revive
from slr_det_adapters.mmengine.objective import HeldBatches
from slr_det_adapters.mmengine.plan import Plan
from slr_det_adapters.mmengine.runner import find_device
from slr_det_adapters.randomness import seed_of

VALIDATION = {"val_dataloader": runs.loader(False), "val_evaluator": {"type": "Right"}}


# -- what a run shows and leaves ------------------------------------------------------------------------------


def test_a_run_shows_a_bar_and_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs.make(tmp_path, runs.slr(hyper={"rho": 20.0}), title="slr training", **VALIDATION).train()
    out, err = capfd.readouterr()
    assert out == ""
    shown = err.split("\r")
    assert all(not line.strip() or line.startswith("slr training:") for line in shown), shown
    assert "18/18" in shown[-1] and "epoch 3/3, loss " in shown[-1] and "test/accuracy" in shown[-1]
    assert "<00:00" in shown[-1]  # the time that is left
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"train.log", "last_checkpoint", "epoch_3.pth", "pruned.pth", "slr_history.json"}
    assert "allocation: uniform" in (tmp_path / "train.log").read_text()


def test_a_run_that_is_too_short_is_warned_of_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hook = runs.slr(hyper={"rho": 0.001})
    runs.make(tmp_path, hook).train()
    _, err = capfd.readouterr()
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("warning:")]
    assert len(lines) == 1 and "raise rho from 0.001" in lines[0]
    assert hook.history[0]["warning"] in lines[0] and "warning" not in hook.history[1]
    # 18 steps of a cosine from 0.1 to 0, momentum 0.9: the formula's exponent is 18 x 0.05 x 0.001 / 0.1
    assert "is 0.0095, expected" in lines[0]


def test_any_number_of_runners_live_in_a_process_one_after_the_other(tmp_path: Path) -> None:
    runners = [runs.make(tmp_path / str(number), runs.slr()) for number in range(3)]
    for runner in reversed(runners):
        runner.train()
    weights = [runner.model.body.weight for runner in runners]
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])
    assert len({runner.experiment_name for runner in runners}) == 3
    for runner in runners:
        files = [handler for handler in runner.logger.handlers if isinstance(handler, logging.FileHandler)]
        assert len(files) == 1 and files[0].stream is None
    assert all((tmp_path / str(number) / "train.log").stat().st_size for number in range(3))


def test_a_run_that_fails_leaves_no_open_bar(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runner = runs.make(tmp_path, runs.slr(), runs.StopAt(4))
    bar = next(hook for hook in runner.hooks if isinstance(hook, ProgressHook))
    with pytest.raises(runs.Stopped):
        runner.train()
    assert bar._bar is None
    assert capfd.readouterr().err.endswith("\n")


def test_the_log_can_be_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs.make(tmp_path, runs.slr(), verbose=True, **VALIDATION).train()
    out = capfd.readouterr().out
    assert "Epoch(train)" in out and "allocation: uniform" in out


def test_weights_that_were_given_are_not_initialised_again(tmp_path: Path) -> None:
    class Part(torch.nn.Linear):
        def init_weights(self) -> None:
            self.weight.data.zero_()

    model = runs.tiny()
    model.fc = Part(8, runs.CLASSES)
    seen = []

    class Look(Hook):  # type: ignore[misc]
        def before_train(self, runner: Runner) -> None:
            seen.append(bool(runner.model.fc.weight.any()))

    runs.make(tmp_path, runs.slr(), Look(), model=model, epochs=1).train()
    assert seen == [True]


def test_plain_training_needs_no_slr_hook(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "work_dir": tmp_path,
        "epochs": 2,
        "train_dataloader": runs.loader(),
        "optim_wrapper": runs.sgd(),
        "device": "cpu",
    }
    build_runner(runs.tiny(), **arguments).train()
    assert {path.name for path in tmp_path.iterdir()} == {"train.log", "last_checkpoint", "epoch_2.pth"}
    again = build_runner(runs.tiny(seed=7), **{**arguments, "epochs": 3}, resume=True)
    again.train()
    assert (again.epoch, again.iter) == (3, 18)
    with pytest.raises(CheckpointError, match="of a longer run: 18 steps are done, and this run has 12"):
        build_runner(runs.tiny(), **arguments, resume=True).train()


def test_a_finished_run_is_read_back(tmp_path: Path) -> None:
    hook = runs.slr()
    runs.make(tmp_path, hook, **VALIDATION).train()
    pruned = (tmp_path / "pruned.pth").stat().st_mtime_ns
    (tmp_path / "pruned.pth").unlink()  # as if the process had been killed before it was written
    again = runs.slr()
    runs.make(tmp_path, again, resume=True, **VALIDATION).train()
    # The last checkpoint was written before the last validation; its score is in the file beside it.
    assert again.history == hook.history
    assert (tmp_path / "pruned.pth").stat().st_mtime_ns > pruned


def test_the_penalty_closes_the_distance(tmp_path: Path) -> None:
    def distance(method: str) -> float:
        hook = runs.slr(method=method, hyper={"rho": 2.0})
        runs.make(tmp_path / method, hook, epochs=8).train()
        return float(hook.history[-1]["distance"])

    assert distance("slr") < 0.2 * distance("none")


# -- the learning rate ----------------------------------------------------------------------------------------


class Rates(Hook):  # type: ignore[misc]
    priority = "LOWEST"

    def __init__(self) -> None:
        self.rates: list[float] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.rates.append(runner.optim_wrapper.optimizer.param_groups[0]["lr"])


def rates_of(folder: Path, schedule: ScheduleHook, **changes: Any) -> list[float]:
    rates = Rates()
    build_runner(
        runs.tiny(),
        work_dir=folder,
        train_dataloader=runs.loader(),
        optim_wrapper=runs.sgd(),
        hooks=[schedule, rates],
        device="cpu",
        **{"epochs": 2, **changes},
    ).train()
    return rates.rates


def test_the_learning_rate_follows_its_formula(tmp_path: Path) -> None:
    cosine = rates_of(tmp_path / "a", ScheduleHook("cosine", final=0.1, warmup=3))
    expected = [
        0.1 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * t / 12))) * min(1, (t + 1) / 4) for t in range(12)
    ]
    assert cosine == pytest.approx(expected)
    step = rates_of(tmp_path / "b", ScheduleHook("step", milestones=(0.5, 0.75), gamma=0.2))
    assert step == pytest.approx([0.1] * 6 + [0.02] * 3 + [0.004] * 3)
    assert rates_of(tmp_path / "c", ScheduleHook("constant")) == [0.1] * 12


def test_two_phases_share_a_schedule(tmp_path: Path) -> None:
    whole = rates_of(tmp_path / "whole", ScheduleHook("cosine", warmup=2), epochs=3)
    first = rates_of(tmp_path / "first", ScheduleHook("cosine", warmup=2, part=(0, 2 / 3)))
    second = rates_of(tmp_path / "second", ScheduleHook("cosine", warmup=2, start=12, total=18), epochs=1)
    assert first + second == pytest.approx(whole)


def test_the_learning_rate_needs_no_state(tmp_path: Path) -> None:
    """A run that is resumed goes on at the step, from the rate that is configured now."""
    arguments: dict[str, Any] = {"train_dataloader": runs.loader(), "device": "cpu", "work_dir": tmp_path}
    build_runner(
        runs.tiny(), hooks=[ScheduleHook("step")], optim_wrapper=runs.sgd(), epochs=1, **arguments
    ).train()
    rates = Rates()
    hooks = [ScheduleHook("step", milestones=(0.75,)), rates]
    build_runner(
        runs.tiny(), hooks=hooks, optim_wrapper=runs.sgd(), epochs=2, resume=True, **arguments
    ).train()
    assert rates.rates == pytest.approx([0.1] * 3 + [0.01] * 3)


def test_wrong_schedules_are_named_together() -> None:
    with pytest.raises(ConfigError) as raised:
        ScheduleHook("cosin", final=2, milestones=(50,), gamma=-1, start=3, part=(0.5, 0.2))
    for problem in (
        "did you mean 'cosine'",
        "final is 2",
        "milestones are [50]",
        "gamma is -1",
        "both given",
        "part",
    ):
        assert problem in str(raised.value)


# -- device and precision -------------------------------------------------------------------------------------


def test_the_users_device_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("") == torch.device("cuda")
    assert find_device("1") == find_device("cuda:1") == torch.device("cuda:1")
    assert find_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="device is '2', and this machine has 2 GPUs"):
        find_device("2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("") == torch.device("cpu")
    with pytest.raises(ConfigError, match="device is '0,1', expected cpu or the number of one GPU"):
        find_device("0,1")


def test_a_model_stays_on_the_users_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mmengine itself would move model and checkpoint to the GPU that it believes to be there."""
    monkeypatch.setattr("mmengine.runner.runner.get_device", lambda: "cuda")
    with pytest.raises(runs.Stopped):
        runs.make(tmp_path, runs.slr(), runs.StopAt(8)).train()
    runner = runs.make(tmp_path, runs.slr(), resume=True)
    runner.train()
    assert runner.model.body.weight.device.type == "cpu" and runner.epoch == 3


def test_bf16_computes_in_bfloat16(tmp_path: Path) -> None:
    types = []
    model = runs.tiny()
    model.body.register_forward_hook(lambda module, args, output: types.append(output.dtype))
    runs.make(tmp_path, runs.slr(), model=model, amp="bf16", epochs=1).train()
    assert set(types) == {torch.bfloat16}
    assert model.body.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"amp": "fp16"}, "amp is 'fp16', which needs a GPU, and the device is cpu; use amp=bf16"),
        ({"amp": "fp32"}, "amp is 'fp32'"),
        ({"amp": "bf16", "optim_wrapper": {**runs.sgd(), "type": "OptimWrapper"}}, "has a type of its own"),
    ],
)
def test_a_precision_that_is_not_there_is_refused(
    changes: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=match):
        runs.make(tmp_path, runs.slr(), **changes)


# -- parts ----------------------------------------------------------------------------------------------------


def test_what_a_checkpoint_holds_becomes_plain_and_comes_back(tmp_path: Path) -> None:
    buffer = HistoryBuffer([0.1, 2], [1, 3], 50)
    buffer.update(0.7)
    hub = {
        "log_scalars": {"train/loss": buffer},
        "runtime_info": {"eta": np.float64(0.1), "odd": object(), "names": ("a", "b"), "map": np.eye(2)},
        "resumed_keys": {"train/loss": True, "eta": True, "odd": True},
    }
    torch.save({"state_dict": {}, "hub": make_plain(hub)}, tmp_path / "file.pth")
    found = revive(read_checkpoint(tmp_path / "file.pth")["hub"])
    back = found["log_scalars"]["train/loss"]
    assert isinstance(back, HistoryBuffer) and back.max_length == 50
    for mine, theirs in zip(buffer.data, back.data, strict=True):
        assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs)
    back.update(1.5)
    assert found["runtime_info"] == {"eta": 0.1, "names": ("a", "b"), "map": [[1.0, 0.0], [0.0, 1.0]]}
    assert found["resumed_keys"] == {"train/loss": True, "eta": True}


def draw(*args: object) -> None:
    random.random(), np.random.rand(), torch.rand(1)


def test_the_fixed_objective_is_a_mean_over_batches_that_stay(tmp_path: Path) -> None:
    runner = runs.make(tmp_path, runs.slr())
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    held = HeldBatches(runner.train_dataloader, 2, seed=5, rank=0)
    model = runner.model.train()
    model.norm.eval()
    model.fc.register_forward_hook(draw)
    values = [held.loss(model, runner.optim_wrapper) for _ in range(2)]
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == (
        random.Random(1).random(),
        np.random.RandomState(2).rand(),
        torch.rand(1, generator=torch.Generator().manual_seed(3)).item(),
    )
    assert model.training and model.fc.training and not model.norm.training
    model.eval()
    with torch.no_grad():
        expected = sum(model(*batch, mode="loss")["loss"].item() for batch in held._batches) / 2
    assert values == [pytest.approx(expected)] * 2
    assert [len(labels) for _, labels in held._batches] == [runs.BATCH] * 2
    again = HeldBatches(runner.train_dataloader, 2, seed=5, rank=0)
    assert torch.equal(again._batches[1][0], held._batches[1][0])
    other = HeldBatches(runner.train_dataloader, 2, seed=5, rank=1)
    assert not torch.equal(other._batches[0][0], held._batches[0][0])


def test_the_plan_of_a_run() -> None:
    plan = Plan(20, 3, 10)
    assert plan.ends == [7, 13, 20]
    assert [plan.ended(step) for step in (0, 6, 7, 13, 19, 20)] == [0, 0, 1, 2, 2, 3]
    # Windows end with iterations (7, 13, 20) and epochs (10, 20).
    assert [plan.window(step) for step in (0, 6, 7, 9, 10, 13, 20)] == [
        (0, 7),
        (6, 7),
        (0, 3),
        (2, 3),
        (0, 3),
        (0, 7),
        (7, 7),
    ]
    assert Plan(7, 7, None).ends == [1, 2, 3, 4, 5, 6, 7]
    assert (
        len({seed_of(seed, epoch, rank) for seed in range(5) for epoch in range(5) for rank in range(5)})
        == 125
    )


def test_files_that_are_not_checkpoints_are_named(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_1.pth"))
    with pytest.raises(
        CheckpointError, match=r"last_checkpoint: names 'epoch_1.pth', which is not in that folder"
    ):
        last_checkpoint(tmp_path)
    torch.save({"model": {}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="other.pth: is not a checkpoint of mmengine"):
        read_checkpoint(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match=r"text.pth: truncated or damaged, or not a checkpoint"):
        read_checkpoint(tmp_path / "text.pth")
    for arguments in ({"backend_args": {"backend": "petrel"}}, {"out_dir": "s3://bucket"}):
        with pytest.raises(ConfigError, match="local folder"):
            SafeCheckpointHook(**arguments)

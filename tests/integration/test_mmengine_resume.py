"""Runs of mmengine that are stopped and resumed end in the bits of the run that was left alone."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmengine", reason='needs mmengine: uv pip install "slr-det[classify]"')

import mmengine_runs as runs
from mmengine.runner import Runner, load_checkpoint

from slr_det.errors import CheckpointError, StorageError
from slr_det_adapters.mmengine.checkpoints import last_checkpoint
from slr_det_adapters.mmengine.objective import HeldBatches

VALIDATION = {"val_dataloader": runs.loader(False), "val_evaluator": {"type": "Right"}}
HOOKS: dict[str, dict[str, Any]] = {
    "slr": {},
    "slr, two iterations an epoch": {"iterations_per_epoch": 2},
    "slr, fixed objective": {"hyper": {"objective": "fixed", "rho": 0.2, "s0": 0.3}, "fixed_batches": 2},
    "slr, all options": {
        "hyper": {
            "closing": 4.0,
            "survivors": "free",
            "continuation": 0.7,
            "rho_growth": 3.0,
            "s0_unit": "rho",
            "s0": 0.5,
        }
    },
    "admm": {"method": "admm"},
    "gradual": {"method": "gradual"},
    "oneshot": {"method": "oneshot"},
    "zeros held": {"keep_zeros": True},
    "plain": {"method": None},
}


def stop_and_resume(
    folder: Path, arguments: dict[str, Any], step: int, model: dict[str, Any], **changes: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a whole run ends with, and what one ends with that was stopped after ``step`` steps and resumed."""
    hook = runs.slr(**arguments)
    runner = runs.make(folder / "whole", hook, model=runs.tiny(**model), **changes)
    runner.train()
    whole = runs.everything(runner, hook)
    with pytest.raises(runs.Stopped):
        runs.make(
            folder / "parts", runs.slr(**arguments), runs.StopAt(step), model=runs.tiny(**model), **changes
        ).train()
    hook = runs.slr(**arguments)
    torch.manual_seed(99)  # neither the new model's weights nor the generators may matter
    runner = runs.make(folder / "parts", hook, model=runs.tiny(seed=7), resume=True, **changes)
    runner.train()
    assert runner.iter == runner.max_iters
    return whole, runs.everything(runner, hook)


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "") for name in HOOKS), ("slr", "bf16"), ("zeros held", "bf16")]
)
def test_a_stopped_run_ends_in_the_same_bits(name: str, precision: str, tmp_path: Path) -> None:
    model = {"zeros": name == "zeros held"}
    changes = {"amp": precision, **VALIDATION}
    whole, parts = stop_and_resume(tmp_path, HOOKS[name], runs.STEPS + 4, model, **changes)
    assert runs.different(whole, parts) == []
    if "slr" in name or name == "admm":
        assert whole["multipliers.body.weight"].any()


@pytest.mark.parametrize(
    "changes",
    [
        {
            "optim_wrapper": runs.sgd(accumulative_counts=4, clip_grad={"max_norm": 1.0})
        },  # 4 does not divide 6
        {"train_dataloader": runs.loader(num_workers=1, persistent_workers=True)},
        {"optim_wrapper": {"optimizer": {"type": "AdamW", "lr": 0.01}}},
    ],
    ids=["accumulation and clipping", "persistent workers", "AdamW"],
)
def test_no_feature_keeps_state_that_a_checkpoint_lacks(changes: dict[str, Any], tmp_path: Path) -> None:
    whole, parts = stop_and_resume(tmp_path, {}, 2 * runs.STEPS + 1, {}, **changes)
    assert runs.different(whole, parts) == []


def test_what_becomes_zero_by_chance_is_not_held_after_a_resume(tmp_path: Path) -> None:
    class Chance(runs.Hook):  # type: ignore[misc]
        priority = 85

        def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
            if runner.iter + 1 == runs.STEPS:
                with torch.no_grad():
                    runner.model.body.weight.zero_()

    hook = runs.slr(keep_zeros=True)
    with pytest.raises(runs.Stopped):
        runs.make(tmp_path, hook, Chance(), runs.StopAt(8), model=runs.tiny(zeros=True)).train()
    again = runs.slr(keep_zeros=True)
    runner = runs.make(tmp_path, again, resume=True)
    runner.train()
    assert hook.masks is not None and again.masks is not None
    assert torch.equal(again.masks.masks["body.weight"], hook.masks.masks["body.weight"])
    assert 0 < runner.model.body.weight.count_nonzero() <= hook.masks.masks["body.weight"].sum()


def test_epochs_draw_different_augmentations_in_workers(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    class Look(runs.Hook):  # type: ignore[misc]
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            seen.append(data_batch[0])

    hook = runs.slr(method=None)
    data = runs.loader(shuffle=False, num_workers=1, batch_size=runs.SAMPLES)
    runs.make(tmp_path, hook, Look(), train_dataloader=data, epochs=2).train()
    assert not torch.equal(seen[0], seen[1])


# -- a Runner as users configure it ---------------------------------------------------------------------------


def plain(folder: Path, *, resume: bool = False, stop: int | None = None, **changes: Any) -> dict[str, Any]:
    runner = Runner.from_cfg(runs.config(folder, resume=resume, **changes))
    if stop is not None:
        runner.register_hook(runs.StopAt(stop))
        with pytest.raises(runs.Stopped):
            runner.train()
        return {}
    runner.train()
    hook = next(hook for hook in runner.hooks if isinstance(hook, runs.SLRHook))
    return runs.everything(runner, hook)


def test_mmengines_own_runner_resumes_from_its_own_checkpoint_hook(tmp_path: Path) -> None:
    whole = plain(tmp_path / "whole")
    plain(tmp_path / "parts", stop=runs.STEPS + 2)
    checkpoint = torch.load(tmp_path / "parts" / "epoch_1.pth", weights_only=True)
    assert {
        "meta",
        "state_dict",
        "ema_state_dict",
        "optimizer",
        "message_hub",
        "slr_det",
    } <= checkpoint.keys()
    found = plain(tmp_path / "parts", resume=True)
    assert runs.different(whole, found) == []


def test_the_log_goes_on_where_it_was(tmp_path: Path) -> None:
    plain(tmp_path, stop=runs.STEPS + 2)
    runner = Runner.from_cfg(runs.config(tmp_path, resume=True))
    runner.train()
    log, count = runner.message_hub.get_scalar("train/loss").data
    assert len(log) == len(count) == 3 * runs.STEPS


def test_a_run_without_a_seed_goes_on_in_the_order_it_began_in(tmp_path: Path) -> None:
    plain(tmp_path, stop=runs.STEPS + 2, randomness={"seed": None})
    saved = torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    runner = Runner.from_cfg(runs.config(tmp_path, resume=True, randomness={"seed": None}))
    runner.train()
    assert runner.train_dataloader.sampler.seed == saved["slr_det"]["sampler_seed"] == saved["meta"]["seed"]


@pytest.mark.parametrize(("stop", "objective"), [(9, "running"), (5, "fixed")])
def test_a_loop_without_epochs_resumes_in_the_middle_of_an_iteration(
    stop: int, objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[float] = []
    real = HeldBatches.loss
    monkeypatch.setattr(HeldBatches, "loss", lambda *args: measured.append(real(*args)) or measured[-1])
    hyper = {"s0": 0.3, "objective": objective}
    hooks = [{"type": "SLRHook", "keep": 0.3, "heads": ["fc.*"], "iterations": 3, "hyper": hyper}]
    loop: dict[str, Any] = {
        "train_cfg": {"by_epoch": False, "max_iters": 15},
        "train_dataloader": runs.loader(sampler={"type": "InfiniteSampler"}),
        "param_scheduler": None,
        "default_hooks": {"checkpoint": {"type": "SafeCheckpointHook", "by_epoch": False, "interval": 4}},
        "custom_hooks": hooks,
    }
    whole = plain(tmp_path / "whole", **loop)
    plain(tmp_path / "parts", stop=stop, **loop)
    assert last_checkpoint(tmp_path / "parts") == tmp_path / "parts" / f"iter_{stop - 1}.pth"
    found = plain(tmp_path / "parts", resume=True, **loop)
    assert runs.different(whole, found) == []
    assert [record["step"] for record in found["history"]] == [5, 10, 15]
    if objective == "fixed":
        # Before the first step and at each end: four values, the second of which the resumed run measures again.
        assert measured == [*measured[:4], *measured[:2], *measured[1:4]]
    else:
        assert measured == []


def test_pruned_files_and_checkpoints_load_in_plain_mmengine(tmp_path: Path) -> None:
    plain(tmp_path)
    for name, nonzero in (("pruned.pth", round(0.3 * runs.BODY)), ("epoch_3.pth", runs.BODY)):
        model = runs.tiny(seed=7)
        load_checkpoint(model, str(tmp_path / name), map_location="cpu", strict=True)
        assert int(model.body.weight.count_nonzero()) == nonzero
    pruned = torch.load(tmp_path / "pruned.pth")
    assert pruned.keys() == {"meta", "state_dict"}
    assert pruned["meta"]["epoch"] == 3
    fine_tuning = runs.config(tmp_path / "more", load_from=str(tmp_path / "pruned.pth"))
    fine_tuning["custom_hooks"] = [{"type": "SLRHook", "keep_zeros": True}]
    Runner.from_cfg(fine_tuning).train()
    retrained = torch.load(tmp_path / "more" / "retrained.pth")
    assert int(retrained["state_dict"]["body.weight"].count_nonzero()) == round(0.3 * runs.BODY)


# -- what cannot be resumed -----------------------------------------------------------------------------------


def test_checkpoints_of_other_runs_are_refused_in_one_line(tmp_path: Path) -> None:
    plain(tmp_path / "foreign", stop=runs.STEPS + 2, custom_hooks=[])
    plain(tmp_path / "slr", stop=runs.STEPS + 2)
    damaged = tmp_path / "slr" / "damaged.pth"
    damaged.write_bytes((tmp_path / "slr" / "epoch_1.pth").read_bytes()[:-5000])

    def refused(match: str, folder: str = "slr", **changes: Any) -> None:
        with pytest.raises(CheckpointError, match=match) as raised:
            plain(tmp_path / folder, resume=True, **changes)
        assert "\n" not in str(raised.value)

    refused(r"epoch_1.pth: was written without SLRHook", folder="foreign")
    refused(r"damaged.pth: truncated or damaged", load_from=str(damaged))
    refused(r"nowhere.pth: no such checkpoint", load_from=str(tmp_path / "nowhere.pth"))
    other = [{"type": "SLRHook", "method": "admm", "keep": 0.3, "heads": ["fc.*"]}]
    refused(r"of another run: method is 'slr' there and 'admm' here", custom_hooks=other)
    refused(
        r"under a method, and this is one with zeros held",
        custom_hooks=[{"type": "SLRHook", "keep_zeros": True}],
    )
    refused(r"iterations is 3 there and 4 here", train_cfg={"by_epoch": True, "max_epochs": 4})
    refused(r"which is not the end of epoch 1 with these data", train_dataloader=runs.loader(batch_size=8))
    (tmp_path / "slr" / "last_checkpoint").write_text("")
    refused(r"last_checkpoint: is empty")
    plain(tmp_path / "whole")
    refused(r"holds weights alone", load_from=str(tmp_path / "whole" / "pruned.pth"))


def test_a_checkpoint_from_the_middle_of_an_epoch_is_refused(tmp_path: Path) -> None:
    hooks = {"checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 4}}
    plain(tmp_path, stop=5, default_hooks=hooks)
    with pytest.raises(CheckpointError, match="after 4 steps, which is not the end of epoch 0"):
        plain(tmp_path, resume=True, default_hooks=hooks)


# -- the disk -------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync
    written: list[int] = []

    def fsync(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 5000:  # checkpoints, not the small files beside them
            written.append(descriptor)
            if len(written) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("slr_det.files.os.fsync", fsync)
    with pytest.raises(StorageError, match=r"epoch_2.pth: cannot be written \(No space left"):
        runs.make(tmp_path, runs.slr()).train()
    monkeypatch.undo()
    assert last_checkpoint(tmp_path) == tmp_path / "epoch_1.pth"
    assert sorted(path.name for path in tmp_path.glob("*epoch*")) == ["epoch_1.pth"]
    hook = runs.slr()
    runs.make(tmp_path, hook, resume=True).train()
    assert len(hook.history) == 3


def test_old_checkpoints_go_after_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At no moment is there no checkpoint, although only one is kept."""
    complete: list[list[str]] = []
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".pth":
            complete.append(sorted(other.name for other in tmp_path.glob("*.pth")))
            torch.load(tmp_path / (tmp_path / "last_checkpoint").read_text(), weights_only=True)
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    left_over = tmp_path / ".epoch_9.pth.abc.tmp"
    left_over.write_bytes(b"of a killed process")
    runs.make(tmp_path, runs.slr()).train()
    assert complete == [["epoch_1.pth", "epoch_2.pth"], ["epoch_2.pth", "epoch_3.pth"]]
    assert not left_over.exists()


def test_a_moved_run_is_found(tmp_path: Path) -> None:
    with pytest.raises(runs.Stopped):
        runs.make(tmp_path / "old", runs.slr(), runs.StopAt(runs.STEPS + 1)).train()
    (tmp_path / "old").rename(tmp_path / "new")
    hook = runs.slr()
    runs.make(tmp_path / "new", hook, resume=True).train()
    assert len(hook.history) == 3


PROGRAM = """
import sys, time
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
import mmengine_runs as runs

folder, what = Path(sys.argv[2]), sys.argv[3]

class Slow(runs.Hook):
    priority = "LOWEST"
    def after_train_iter(self, runner, *args, **kwargs):
        (folder / "steps").write_text(str(runner.iter + 1))
        time.sleep(0.05)

hook = runs.slr()
model = runs.tiny(seed=7) if what == "resume" else None
more = [Slow()] if what == "slow" else []
runner = runs.make(folder, hook, *more, model=model, resume=what == "resume")
runner.train()
torch.save(runs.everything(runner, hook), folder / "everything.pt")
"""


def test_a_killed_process_goes_on_in_the_same_bits(tmp_path: Path) -> None:
    """Every run in a process of its own: what tests before this one have switched on in torch rounds differently."""

    def start(folder: Path, what: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(folder), what],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, "whole").wait() == 0
    process = start(killed, "slow")
    steps = killed / "steps"
    while process.poll() is None and not (steps.is_file() and int(steps.read_text() or 0) >= runs.STEPS + 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert last_checkpoint(killed) == killed / "epoch_1.pth"
    assert start(killed, "resume").wait() == 0
    one, other = (torch.load(folder / "everything.pt") for folder in (whole, killed))
    assert runs.different(one, other) == []


def test_the_history_file_is_what_the_hook_says(tmp_path: Path) -> None:
    hook = runs.slr()
    runs.make(tmp_path, hook, **VALIDATION).train()
    written = json.loads((tmp_path / "slr_history.json").read_text())
    assert written == hook.history
    assert [record["epoch"] for record in written] == [1, 2, 3]
    assert all(0.0 <= record["metric"]["test/accuracy"] <= 1.0 for record in written)

"""Classifiers trained in several processes, and runs whose processes are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from slr_det.adapter import EngineSpec, TrainJob
from slr_det.allocation import allocate
from slr_det.classify import main
from slr_det.errors import NumericsError

pytest.importorskip("timm", reason='needs the classify extra: uv pip install "slr-det[classify]"')

from classify_runs import SMALL, assert_same, make_photographs, run

from slr_det_adapters.mmengine.launching import launch
from slr_det_adapters.timm import ClassifierAdapter

ADAPTER = ClassifierAdapter()
# Layer norms, no batch norm: then two processes with half a batch each compute what one does with all of it.
NORM_FREE = {"size": 32, "augment": "none", "batch": 40, "train_images": 200, "val_images": 50, "lr": 0.02}
NORM_FREE |= {"threads": 1, "warmup_epochs": 0.5, "momentum": 0.9}
CHECKPOINTS = ["dense.pt", "slr/hard_pruned.pt", "slr/recalibrated.pt", "slr/retrained.pt", "pruned.pt"]

# The worker, which also writes down the masks that its own process would prune with.
WORKER = """\
import os, sys
import torch
from slr_det_adapters.mmengine.hook import SLRHook
from slr_det_adapters.mmengine import worker
end = SLRHook.after_train
def after_train(hook, runner):
    masks = hook.engine.supports(dict(runner.model.module.named_parameters()))
    torch.save(masks, os.path.join(runner.work_dir, f"rank-{runner.rank}.pt"))
    end(hook, runner)
SLRHook.after_train = after_train
sys.exit(worker.main(sys.argv[1]))
"""


def method_job(folder: Path, epochs: int = 2, **args: object) -> TrainJob:
    info = ADAPTER.inspect("test_convnext", 10)
    groups = tuple(allocate(info.layers, keep=0.2, model_parameters=info.parameters).specs())
    engine = EngineSpec("slr", epochs, groups, {})
    given = {**NORM_FREE, **args}
    return TrainJob("test_convnext", "digits", str(folder), epochs, given, engine, seed=3, device="cpu")


def test_two_processes_agree_with_each_other_and_with_one(tmp_path: Path) -> None:
    one, two = method_job(tmp_path / "one"), method_job(tmp_path / "two", processes=2)
    alone = ADAPTER.train(one, resume=False)
    launch(two, 2, False, "slr_det_adapters.timm.training", [sys.executable, "-c", WORKER])
    ranks = [torch.load(tmp_path / "two" / f"rank-{rank}.pt") for rank in range(2)]
    assert ranks[0].keys() == ranks[1].keys() and len(ranks[0]) > 5
    for name, mask in ranks[0].items():
        assert torch.equal(mask, ranks[1][name]), name
    first, second = (ADAPTER.averaged(ADAPTER.last(job.folder)) for job in (one, two))
    start = ADAPTER.inspect("test_convnext", 10).weights
    for name, weight in first.items():
        moved = float((weight - start[name]).abs().max())
        assert float((weight - second[name]).abs().max()) < 1e-3 * max(moved, 1e-3), name
    # `train` itself, told that all is done, reads the history that the processes left.
    together = ADAPTER.train(two, resume=True)
    for a, b in zip(alone, together, strict=True):
        assert b["objective"] == pytest.approx(a["objective"], rel=1e-3)
        assert b["distance"] == pytest.approx(a["distance"], rel=1e-3)
        assert (a["condition_6"], a["condition_11"]) == (b["condition_6"], b["condition_11"])
        assert b["metric"]["top1"] == pytest.approx(a["metric"]["top1"], abs=0.021)


@pytest.mark.slow
def test_an_error_of_two_processes_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NumericsError, match="learning rate") as caught:
        ADAPTER.train(method_job(tmp_path, processes=2, lr=1e8, val_every=0), resume=False)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_in_two_processes_from_end_to_end(tmp_path: Path) -> None:
    """Photographs, workers, an average, a teacher: and, stopped in the middle, continued to the same bits."""
    data = make_photographs(tmp_path / "data", 40, 16)
    settings = [
        "model=test_resnet",
        f"data={data}",
        "size=48",
        "batch=8",
        "workers=1",
        "processes=2",
        "ema=0.9",
    ]
    settings += [
        "device=cpu",
        "dense_epochs=1",
        "epochs=2",
        "retrain_epochs=1",
        "prune.keep=0.5",
        "distill=0.5",
    ]
    settings += ["recalibration_images=16", "threads=1", "recipe=paper"]
    whole = run(tmp_path / "whole", *settings)
    command = [
        sys.executable,
        "-m",
        "slr_det.classify",
        *settings,
        f"project={tmp_path / 'killed'}",
        "name=run",
    ]
    killed = kill_when(command, tmp_path / "killed" / "run" / "slr" / "train" / "epoch_1.pth")
    time.sleep(1.5)  # its workers notice that they are alone
    assert main(["--resume", str(killed)]) == 0
    assert_same(whole, killed, CHECKPOINTS)


def kill_when(command: list[str], file: Path) -> Path:
    """Start a run, kill its process (not those it started) as soon as a file is there, and return its folder."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not file.is_file() and process.poll() is None:
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    folder = next(parent for parent in file.parents if (parent / "state.json").is_file())
    assert not (folder / "report.json").exists(), "the run ended before it could be killed"
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("place", ["dense/epoch_2.pth", "slr/train/epoch_1.pth", "slr/retrain/epoch_1.pth"])
def test_a_killed_run_ends_in_the_same_bits(place: str, tmp_path: Path) -> None:
    """Adam, an average, accumulation, clipping, smoothing, a teacher and iterations within epochs, all at once."""
    settings = [
        *SMALL,
        "optimizer=adam",
        "lr=0.005",
        "ema=0.9",
        "accumulate=2",
        "clip=1",
        "label_smoothing=0.1",
    ]
    settings += [
        "distill=0.5",
        "dense_epochs=3",
        "epochs=3",
        "retrain_epochs=3",
        "prune.keep=0.2",
        "threads=1",
    ]
    whole = run(tmp_path / "whole", *settings)
    command = [
        sys.executable,
        "-m",
        "slr_det.classify",
        *settings,
        f"project={tmp_path / 'killed'}",
        "name=run",
    ]
    killed = kill_when(command, tmp_path / "killed" / "run" / place)
    assert main(["--resume", str(killed)]) == 0
    assert_same(whole, killed, CHECKPOINTS)


@pytest.mark.slow
def test_an_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    settings = [*SMALL, "dense_epochs=2", "epochs=200", "retrain_epochs=0", "prune.keep=0.2", "threads=1"]
    command = [sys.executable, "-m", "slr_det.classify", *settings, f"project={tmp_path}", "name=run"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "run" / "slr" / "train" / "epoch_1.pth").is_file() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 2 and "Traceback" not in errors
    said = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(said) == 1 and f"slr_det.classify compress --resume {tmp_path / 'run'}" in said[0]

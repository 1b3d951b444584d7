"""Runs that are stopped, by Ctrl-C or by force, end in the weights of the run that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

KILLS = 20
SETTINGS = {"imgsz": 64, "batch": 10, "nbs": 20, "optimizer": "SGD", "lr0": 0.01, "warmup_epochs": 1}
SETTINGS |= {"mosaic": 0.5, "close_mosaic": 1, "workers": 0, "prune.keep": 0.3}
OPTIONS = ["--device", "cpu", "--epochs", "4", "--retrain-epochs", "2"]
ARGUMENTS = [*(f"{key}={value}" for key, value in SETTINGS.items()), *OPTIONS]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "slr_det.yolo", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def fresh(project: Path, model: Path, data: Path) -> list[str]:
    return command("compress", f"model={model}", f"data={data}", f"project={project}", "name=run", *ARGUMENTS)


def weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name in ("slr/hard_pruned.pt", "slr/recalibrated.pt", "slr/retrained.pt"):
        state = torch.load(run / name, map_location="cpu", weights_only=False)["model"].state_dict()
        found |= {f"{name}/{key}": value for key, value in state.items()}
    return found


def finish(run: Path, start: list[str]) -> subprocess.CompletedProcess[str]:
    """Continue the run; where it was stopped before it had a folder, start it again."""
    begun = (run / "state.json").is_file()
    again = command("compress", "--resume", str(run)) if begun else start
    return subprocess.run(again, capture_output=True, text=True, env=environment(), check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> tuple[Path, float]:
    """A run that nobody stops, and how long it takes."""
    project = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    done = subprocess.run(
        fresh(project, tiny_model, tiny_data), capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return project / "run", time.monotonic() - began


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_random_moments(
    whole: tuple[Path, float], tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    reference, seconds = weights(whole[0]), whole[1]
    draw = random.Random(0)
    # One moment in each twentieth of the run, so that every phase is hit, checkpoint writing included.
    moments = [(i + draw.random()) / KILLS * seconds for i in range(KILLS)]
    for number, moment in enumerate(moments):
        project = tmp_path / f"kill-{number}"
        start = fresh(project, tiny_model, tiny_data)
        process = subprocess.Popen(
            start,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
        )
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        run = project / "run"
        done = finish(run, start)
        assert done.returncode == 0, f"killed after {moment:.1f} s: {done.stderr[-2000:]}"
        if not (run / "slr" / "retrained.pt").is_file():
            run = project / "run-2"  # killed between making the folder and writing its state
        found = weights(run)
        assert found.keys() == reference.keys()
        different = [name for name, value in found.items() if not torch.equal(value, reference[name])]
        assert not different, f"killed after {moment:.1f} of {seconds:.1f} s: {different[:3]}"


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_says_how_to_go_on(
    whole: tuple[Path, float], tmp_path: Path, tiny_model: Path, tiny_data: Path, which: signal.Signals
) -> None:
    start = fresh(tmp_path, tiny_model, tiny_data)
    process = subprocess.Popen(
        start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    last = tmp_path / "run" / "slr" / "train" / "weights" / "last.pt"
    while not last.is_file() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(which)
    _, errors = process.communicate()
    assert process.returncode == 2
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "Traceback" not in errors
    assert f"slr_det.yolo compress --resume {tmp_path / 'run'}" in lines[0]
    assert finish(tmp_path / "run", start).returncode == 0
    found = weights(tmp_path / "run")
    assert all(torch.equal(value, found[name]) for name, value in weights(whole[0]).items())

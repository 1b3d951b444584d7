"""Real studies on handwritten digits: run, continued after kills, checked, with a cell that fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from slr_det.bench.__main__ import main

pytest.importorskip("timm", reason="needs the classify extra")
pytest.importorskip("mmengine", reason="needs the classify extra")
pytest.importorskip("sklearn", reason="needs the classify extra")

STUDY: dict[str, Any] = {
    "task": "classify",
    "seeds": [0, 1],
    "rates": [10],
    "target": {"top1": 0.05},
    "base": {
        "model": "digits_cnn",
        "data": "digits",
        "dense_epochs": 1,
        "epochs": 1,
        "retrain_epochs": 1,
        "prune": {"dense_first": False, "dense_head": False},
        "train": {
            "batch": 32,
            "lr": 0.05,
            "train_images": 200,
            "val_images": 100,
            "recalibration_images": 64,
        },
    },
    "entries": {
        "slr": {"method": "slr", "iterations_per_epoch": 3},
        "oneshot": {"method": "oneshot"},
    },
    "baselines": ["oneshot"],
}


def study(folder: Path, **changes: Any) -> list[str]:
    """Write a study and return the command that runs it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "arena.yaml").write_text(
        yaml.safe_dump({**STUDY, **changes}, sort_keys=False), encoding="utf-8"
    )
    return [sys.executable, "-m", "slr_det.bench", "methods", "arena.yaml", "--jobs", "2"]


def run(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)


def start(folder: Path, command: list[str]) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command, cwd=folder, stdout=quiet, stderr=quiet, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (folder / "runs" / "arena" / "results.json").read_text(encoding="utf-8")
    )
    return found


def stamps(folder: Path) -> dict[str, int]:
    """When each cell's report was written."""
    cells = folder / "runs" / "arena" / "cells"
    return {str(p.relative_to(cells)): p.stat().st_mtime_ns for p in sorted(cells.rglob("report.json"))}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of every cell's final model."""
    cells = folder / "runs" / "arena" / "cells"
    found: dict[str, torch.Tensor] = {}

    def collect(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                collect(f"{name}/{key}", item)

    for path in sorted(cells.rglob("seed*/pruned.pt")):
        collect(str(path.relative_to(cells)), torch.load(path, map_location="cpu", weights_only=False))
    return found


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 900
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_study_is_run_once_and_a_failed_cell_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # 5000x leaves less than the biases hold: that rate's cells fail, and the other rate's do not.
    entries = {"slr": STUDY["entries"]["slr"]}
    words = study(tmp_path, seeds=[0], rates=[10, 5000], entries=entries, baselines=None)[3:]
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, errors = capsys.readouterr()
    (error,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "slr 5000x seed 0: target_compression 5000x cannot be reached" in error
    assert "compression 10x" in out and "note: 1 of 2 cells are not finished" in out

    cell = tmp_path / "runs" / "arena" / "cells" / "slr" / "10x" / "seed0"
    dense = tmp_path / "runs" / "arena" / "dense-seed0"
    assert (cell / "dense.pt").read_bytes() == (dense / "dense.pt").read_bytes()
    phases = json.loads((cell / "state.json").read_text())["phases"]
    assert phases["dense"] == json.loads((dense / "state.json").read_text())["phases"]["dense"]
    assert not (cell / "dense").exists()  # nothing was trained again, and nothing evaluated
    log = (cell / "log.txt").read_text()
    assert "slr/hard_prune: top1" in log and "dense: top1" not in log

    found = results(tmp_path)
    (one,) = found["cells"]
    report = json.loads((cell / "report.json").read_text())
    assert one["scores"]["final"] == report["phases"]["retrain"]["metrics"]["top1"]
    assert one["scores"]["hard_prune"] == report["phases"]["hard_prune"]["metrics"]["top1"]
    assert one["reached"] == pytest.approx(10, rel=0.01)
    # One epoch under the method with three iterations, of which the last is scored, and one of retraining.
    assert [(p["epoch"], p["phase"]) for p in one["curve"]] == [(1, "train"), (2, "retrain")]
    assert one["epochs_to_target"] == 1
    assert [entry["state"].partition(":")[0] for entry in found["unfinished"]] == ["failed"]
    assert (tmp_path / "runs/arena/plots/accuracy_by_epoch.png").is_file()

    before = stamps(tmp_path)
    assert main([*words, "--rates", "10"]) == 0
    again = capsys.readouterr().out
    assert "note: 1 of 2" in again and stamps(tmp_path) == before and len(before) == 1
    (tmp_path / "runs/arena/results.md").unlink()
    assert main([*words, "--report"]) == 0
    assert capsys.readouterr().out == again and (tmp_path / "runs/arena/results.md").is_file()
    assert main([*words, "lr=0.5"]) == 2
    assert "train.lr was 0.05, not 0.5" in capsys.readouterr().err and stamps(tmp_path) == before


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_killed_study_goes_on_and_ends_in_the_same_numbers(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = run(whole, study(whole, dense="shared"))
    assert done.returncode == 0, done.stderr
    command = study(broken, dense="shared")
    cells = broken / "runs" / "arena" / "cells"
    moments: list[Callable[[], bool]] = [
        lambda: bool(list(cells.rglob("slr/train/*.pth"))),  # while a cell trains
        lambda: bool(list(cells.rglob("oneshot/retrain/*.pth"))),
    ]
    for number, moment in enumerate(moments):
        process = start(broken, command)
        wait_for(moment, process)
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.wait()
        if number == 1:
            for child in children:
                child.kill()
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive, "a cell outlived its study"
    done = run(broken, command)
    assert done.returncode == 0, done.stderr
    one, other = results(whole), results(broken)
    for key in ("verdicts", "dense_score"):
        assert one[key] == other[key]
    for first, second in zip(one["cells"], other["cells"], strict=True):
        for key in ("label", "rate", "seed", "scores", "reached"):
            assert first[key] == second[key]
        # A kill between an epoch and its score leaves a gap, which a note mentions; the others are the same.
        assert [point for point in second["curve"] if point not in first["curve"]] == []
        if len(second["curve"]) < len(first["curve"]):
            assert any("was scored, and went on without" in note for note in other["notes"])
    expected, found = weights(whole), weights(broken)
    assert len(expected) > 40 and found.keys() == expected.keys()
    assert [name for name, value in found.items() if not torch.equal(value, expected[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.timeout(900)
def test_an_interrupt_ends_the_cells_and_says_how_to_go_on(which: signal.Signals, tmp_path: Path) -> None:
    command = study(tmp_path, seeds=[0])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment)
    log = tmp_path / "runs" / "arena" / "dense-seed0" / "log.txt"
    while not log.is_file() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.5)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(which)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "continue with: python -m slr_det.bench methods arena.yaml --jobs 2" in line
    assert not [child for child in children if child.is_running()]

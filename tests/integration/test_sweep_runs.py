"""Real sweeps on handwritten digits: a cell that fails, an interrupt, what is missing alone, and jobs by submitit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

for package in ("timm", "mmengine", "sklearn"):
    pytest.importorskip(package, reason="needs the classify extra")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: The second rate cannot be reached: more layers stay dense than it leaves.
SWEEP: dict[str, Any] = {
    "task": "classify",
    "methods": ["oneshot"],
    "rates": [5, 5000],
    "seeds": [0],
    "settings": {
        "dense_epochs": 1,
        "epochs": 1,
        "retrain_epochs": 0,
        "train": {"train_images": 200, "val_images": 100, "recalibration_images": 64},
    },
}
CELLS = Path("runs/grid/cells/oneshot")


def command(folder: Path, *words: str, **changes: Any) -> list[str]:
    (folder / "grid.yaml").write_text(yaml.safe_dump({**SWEEP, **changes}), encoding="utf-8")
    return [sys.executable, "-m", "slr_det.sweep", "grid.yaml", "--threads", "1", *words]


def run(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs" / "grid" / "results.json").read_text())
    return found


def test_a_sweep_goes_on_after_a_failure_and_runs_what_is_missing_alone(tmp_path: Path) -> None:
    started = subprocess.Popen(
        command(tmp_path), cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    report = tmp_path / CELLS / "5x" / "seed0" / "report.json"
    state = report.with_name("state.json")
    deadline = time.monotonic() + 240
    while not (state.is_file() and "dense/train" in state.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    children = psutil.Process(started.pid).children(recursive=True)
    started.send_signal(signal.SIGINT)
    said = started.communicate(timeout=120)[1]
    assert started.returncode == 2 and "0 of 2 cells are finished" in said and "continue with: " in said
    assert children and not any(child.is_running() for child in children)
    assert not report.exists()

    first = run(tmp_path, command(tmp_path))
    (line,) = errors(first)
    assert first.returncode == 1 and line.startswith("error: oneshot 5000x seed 0: ")
    assert "1/2  oneshot 5x seed 0: top1 0." in first.stderr and "left" in first.stderr
    assert "1 of 2 cells are finished, 1 failed" in first.stdout
    found = results(tmp_path)
    assert [cell["state"] for cell in found["cells"]] == ["finished", "failed"]
    assert found["cells"][0]["reached"] == pytest.approx(5, rel=0.01)
    assert (tmp_path / "runs" / "grid" / found["cells"][0]["folder"] / "report.md").is_file()
    assert (tmp_path / "runs" / "grid" / "plots" / "score_by_rate.png").is_file()

    stamp = report.stat().st_mtime_ns
    again = run(tmp_path, command(tmp_path))
    assert again.returncode == 1 and len(errors(again)) == 1 and "1/1  oneshot 5000x" in again.stderr
    assert report.stat().st_mtime_ns == stamp
    changed = run(tmp_path, command(tmp_path, "epochs=2", rates=[5]))
    (line,) = errors(changed)
    assert changed.returncode == 2 and "epochs was 1, not 2" in line
    assert report.stat().st_mtime_ns == stamp


def test_the_same_cells_are_jobs_of_submitit(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs the sweep extra")
    submitit = ["--submitit", "local", "timeout_min=5", "partition=only-slurm-has-it"]
    handed = run(tmp_path, command(tmp_path, *submitit))
    assert handed.returncode == 0 and "2 jobs were handed over" in handed.stdout
    jobs = [json.loads(path.read_text()) for path in sorted((tmp_path / CELLS).glob("*/seed0/job.json"))]
    assert len({job["number"] for job in jobs}) == 2
    report = tmp_path / CELLS / "5x" / "seed0" / "report.json"
    deadline = time.monotonic() + 240
    failed = tmp_path / CELLS / "5000x" / "seed0" / "failed.txt"
    while not (report.is_file() and failed.is_file()) and time.monotonic() < deadline:
        time.sleep(0.5)
    # What has finished is not handed over again; what has failed is.
    waited = run(tmp_path, command(tmp_path, *submitit, "--wait"))
    assert "1 jobs were handed over" in waited.stdout
    (line,) = errors(waited)
    assert waited.returncode == 1 and line.startswith("error: oneshot 5000x seed 0: ")
    assert "1 of 2 cells are finished, 1 failed" in waited.stdout
    shown = run(tmp_path, command(tmp_path, "--table"))
    assert shown.returncode == 1 and "1 of 2 cells are finished" in shown.stdout
    assert [cell["state"] for cell in results(tmp_path)["cells"]] == ["finished", "failed"]
    for job in jobs:
        assert not _runs(int(job["number"]))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return psutil.Process(process).status() != psutil.STATUS_ZOMBIE

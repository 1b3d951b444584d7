"""Sweeps: every file in configs/sweeps loads, cells are recognised by config and report, and tables tell medians."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_example import make_classifier_report

from slr_det.config.schema import TASKS
from slr_det.errors import CheckpointError, ConfigError
from slr_det.plots.sweep import draw_sweep
from slr_det.report import build_report
from slr_det.sweep.__main__ import main
from slr_det.sweep.cells import (
    Job,
    State,
    clear,
    fail,
    prepare,
    refuse_changed,
    state_of,
)
from slr_det.sweep.grid import Cell, Grid, load_grid
from slr_det.sweep.results import document, gather, spread_of
from slr_det.sweep.submit import read_parameters
from slr_det.sweep.tables import markdown, text

for package in ("timm", "mmengine", "ultralytics"):
    pytest.importorskip(package, reason="needs the classify and yolo extras")

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))
#: What those need that are for files of the user's own.
WORDS = {"yolo": ["model=yolov3-tiny.pt", "data=coco.yaml"]}
SWEEP: dict[str, Any] = {
    "task": "classify",
    "methods": ["slr", "oneshot"],
    "rates": ["10x", 20],
    "seeds": [0, 1],
    "settings": {"epochs": 2, "train": {"lr": 0.03}},
}


def load(folder: Path, *words: str, **changes: Any) -> Grid:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, **changes}, sort_keys=False), encoding="utf-8")
    return load_grid(path, [f"project={folder / 'runs'}", *words])


def refusal(folder: Path, *words: str, **changes: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        load(folder, *words, **changes)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def finish(cell: Cell, top1: float) -> None:
    """Put a report where the cell's run would have written its own; without its pictures, which take time."""
    prepare(cell)
    report = make_classifier_report((cell.method,), 3)
    report["phases"][report["final_phase"]]["metrics"]["top1"] = top1
    (cell.folder / "report.json").write_text(json.dumps(build_report(**report)), encoding="utf-8")


# -- the file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_of_the_repository_loads(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("yolov3-tiny.pt").touch()
    grid = load_grid(path, WORDS.get(path.stem, []))
    assert len(grid.cells) == len(grid.methods) * len(grid.rates) * len(grid.seeds) >= 6
    assert {cell.config.task for cell in grid.cells} == {grid.task.name}


def test_there_is_a_sweep_for_every_task() -> None:
    assert {yaml.safe_load(path.read_text())["task"] for path in SWEEPS} == set(TASKS)


def test_a_cell_is_a_run_with_the_grids_method_rate_and_seed(tmp_path: Path) -> None:
    grid = load(tmp_path, "dense_epochs=3")
    assert [cell.title for cell in grid.cells[:3]] == [
        "slr 10x seed 0",
        "oneshot 10x seed 0",
        "slr 20x seed 0",
    ]
    assert len({cell.folder for cell in grid.cells}) == 8
    last = grid.cells[-1].config
    assert (last.method, last.prune.target_compression, last.seed) == (("oneshot",), 20.0, 1)
    # The embedded default lies below the sweep's settings, and those below the command line's.
    assert (last.data, last.epochs, last.dense_epochs) == ("digits", 2, 3)
    assert (last.train["lr"], last.train["batch"]) == (0.03, 32)
    assert grid.folder == tmp_path / "runs" / "grid" and last.name == "seed1"
    assert load(tmp_path, "name=other").folder == tmp_path / "runs" / "other"


def test_settings_of_ones_own_data_have_nothing_of_the_default(tmp_path: Path) -> None:
    model = str(tmp_path / "a.pt")
    Path(model).touch()
    grid = load(tmp_path, settings={"model": model, "data": "pictures"})
    config = grid.cells[0].config
    assert (config.model, config.dense_epochs, dict(config.train)) == (model, 0, {})
    assert config.recipe == grid.task.recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["slr", "amdm"]}, r"methods names 'amdm', expected some of"),
        ({"methods": ["slr", "slr"]}, "expected each method once"),
        ({"methods": []}, "methods is not given"),
        ({"rates": [10, 10]}, "expected each rate once"),
        ({"rates": [4.8740001, 4.8740002]}, "expected rates that differ in their first six digits"),
        ({"seeds": [0, 0]}, "expected different whole numbers"),
        ({"seeds": None}, "seeds is not given"),
        ({"method": "slr"}, "unknown key 'method' (did you mean 'methods'?)"),
        ({"task": "yollo"}, "grid.yaml: task is 'yollo', expected one of"),
        ({"settings": [1]}, "expected a section with keys of its own"),
        ({"settings": {"seed": 3}}, "seed is set by the sweep: 'seeds' lists them"),
        ({"settings": {"prune": {"keep": 0.1}}}, "prune.keep is set by the sweep: 'rates' says"),
        ({"settings": {"epohcs": 3}}, "grid.yaml: settings: unknown key 'epohcs'"),
        ({"settings": {"train": {"lr": "fast"}, "epochs": 0}}, "grid.yaml: settings: epochs"),
        ({"settings": {"backend": "ufld"}}, "backend is 'ufld', and this task has one only"),
        ({"name": "../up"}, "name is '../up', a folder of the runs"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refusal(tmp_path, **changes)


def test_a_word_that_is_wrong_names_the_command_line(tmp_path: Path) -> None:
    assert "command line: seed is set by the sweep" in refusal(tmp_path, "seed=3")
    assert "command line: unknown key 'epohcs'" in refusal(tmp_path, "epohcs=3")


# -- states -----------------------------------------------------------------------------------------------


def test_a_cell_is_known_by_its_config_and_its_report(tmp_path: Path) -> None:
    grid = load(tmp_path)
    cell = grid.cells[0]
    assert state_of(cell) == State("waiting")
    prepare(cell)
    assert state_of(cell) == State("started")
    fail(cell.folder, "out of memory")
    assert state_of(cell) == State("failed", "out of memory")
    finish(cell, 0.9)  # begun again: the line of the failure is gone
    assert state_of(cell) == State("finished")
    (cell.folder / "report.json").write_text("{")
    assert state_of(cell) == State("started")
    (cell.folder / "config.yaml").write_text("epochs: [")
    assert state_of(cell).name == "changed"
    clear(cell)
    assert state_of(cell) == State("waiting")


def test_a_changed_setting_is_named(tmp_path: Path) -> None:
    for cell in load(tmp_path).cells[:3]:
        finish(cell, 0.9)
    grid = load(tmp_path, "lr=0.04")
    states = [(cell, state_of(cell)) for cell in grid.cells]
    assert [str(state) for _, state in states[:4]] == [
        *["changed: train.lr was 0.03, not 0.04"] * 3,
        "waiting",
    ]
    with pytest.raises(
        CheckpointError, match=r"slr 10x seed 0 was run with other settings \(train.lr was"
    ) as caught:
        refuse_changed(states)
    assert "and so were 2 more" in str(caught.value) and "--rerun-changed" in str(caught.value)
    # What does not change a result is no change.
    same = load(tmp_path, "device=cpu", "min.top1=0.5")
    assert [state_of(cell).name for cell in same.cells[:3]] == ["finished"] * 3


def test_another_model_file_is_another_run(tmp_path: Path) -> None:
    from slr_det.sweep import cells

    model = tmp_path / "a.pt"
    model.write_bytes(b"one")
    grid = load(tmp_path, settings={"model": str(model), "data": "digits"})
    finish(grid.cells[0], 0.9)
    assert state_of(grid.cells[0]) == State("finished")
    model.write_bytes(b"another")
    cells._fingerprint.cache_clear()  # as in a new process
    assert state_of(grid.cells[0]) == State("changed", f"the content of model='{model}' was another one")


def test_a_cell_with_a_scheduler_is_left_to_it_while_the_job_lives(tmp_path: Path) -> None:
    cell = load(tmp_path).cells[0]
    prepare(cell)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        Job("local", str(process.pid), "jobs").write(cell.folder)
        assert state_of(cell) == State("handed over", f"local {process.pid}")
        fail(cell.folder, "no space left")
        assert state_of(cell).name == "failed"
        (cell.folder / "failed.txt").unlink()
    finally:
        process.kill()
        process.wait()
    assert state_of(cell) == State("started")


def test_a_job_that_nobody_can_ask_about_keeps_its_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = load(tmp_path).cells[0]
    prepare(cell)
    Job("slurm", "12_3", str(tmp_path)).write(cell.folder)
    monkeypatch.setitem(sys.modules, "submitit", None)  # as where it is not installed
    assert state_of(cell) == State("handed over", "slurm 12_3")
    for content in ("[]", "{", '{"scheduler": "slurm", "number": 12, "folder": 3}'):
        (cell.folder / "job.json").write_text(content)
        assert state_of(cell) == State("started")


def test_what_stands_in_the_place_of_a_cell_is_cleared(tmp_path: Path) -> None:
    cell = load(tmp_path).cells[0]
    prepare(cell)
    (cell.folder / "config.yaml").unlink()  # a state without its settings continues nowhere
    prepare(cell)
    assert state_of(cell) == State("started")
    clear(cell)
    cell.folder.write_text("a file")
    prepare(cell)
    assert state_of(cell) == State("started")


# -- results ----------------------------------------------------------------------------------------------


def test_median_and_range() -> None:
    found = spread_of([0.3, None, 0.1, 0.2])
    assert (found.n, found.median, found.low, found.high) == (3, 0.2, 0.1, 0.3)
    assert spread_of([]).median is None


def test_tables_and_pictures_are_made_of_whatever_has_finished(tmp_path: Path) -> None:
    grid = load(tmp_path, seeds=[0, 1, 2])
    scores = {0: 0.90, 1: 0.94, 2: 0.91}
    for cell in grid.cells:
        if cell.method == "slr" and cell.rate == 10:
            finish(cell, scores[cell.seed])
    prepare(grid.cells[1])
    fail(grid.cells[1].folder, "a | pipe")
    findings = gather(grid, [(cell, state_of(cell)) for cell in grid.cells])
    found = document(findings, "python -m slr_det.sweep grid.yaml")
    assert found["schema"] == "slr_det.sweep/1"
    (row,) = found["table"]
    assert (row["method"], row["rate"], row["n"]) == ("slr", 10.0, 3)
    assert row["scores"]["final"] == {"n": 3, "median": 0.91, "low": 0.90, "high": 0.94}
    assert row["packed"]["n"] in (0, 3)
    json.dumps(found, allow_nan=False)
    states = [cell["state"] for cell in found["cells"]]
    assert (states.count("finished"), states.count("failed"), states.count("waiting")) == (3, 1, 8)
    drawn = draw_sweep(tmp_path / "out", found)
    assert "rates" in drawn and all(
        (tmp_path / "out" / file).stat().st_size > 5000 for file in drawn.values()
    )
    page = markdown(findings, "COMMAND", drawn)
    assert "3 of 12 cells are finished, 1 failed" in page and "a \\| pipe" in page
    assert "cells/slr/10x/seed0/report.md" in page and "0.9000-0.9400" in page
    shown = text(findings)
    assert "note: oneshot 10x seed 0: failed: a | pipe" in shown and max(map(len, shown.splitlines())) <= 120


def test_a_table_of_nothing_is_refused_and_a_list_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = load(tmp_path)
    command = [grid.path, f"project={tmp_path / 'runs'}"]
    assert main([*command, "--table"]) == 2
    assert "no cell is finished yet" in capsys.readouterr().err
    finish(grid.cells[0], 0.9)
    fail(grid.cells[1].folder, "never begun")  # without a state it is no run
    assert main([*command, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["slr", "10x", "seed", "0", "finished"] and lines[1].endswith("waiting")
    assert main([*command, "--table"]) == 0
    assert "1 of 8 cells are finished" in capsys.readouterr().out
    prepare(grid.cells[2])
    fail(grid.cells[2].folder, "no space left")
    assert main([*command, "--table"]) == 1
    assert "error: slr 20x seed 0: no space left" in capsys.readouterr().err


# -- schedulers -------------------------------------------------------------------------------------------


def test_parameters_of_a_scheduler() -> None:
    found = read_parameters("slurm", ["partition=gpu", "timeout_min=240", "setup=[module load cuda]"])
    assert found == {"partition": "gpu", "timeout_min": 240, "setup": ["module load cuda"]}
    assert read_parameters("local", [])["timeout_min"] > 1000
    for words, message in (
        (("pbs",), "--submitit pbs: expected one of slurm, local"),
        (("slurm", "gpu"), "'gpu' is not a parameter; write name=value"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_parameters(words[0], words[1:])


def test_a_scheduler_that_is_not_here_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("submitit", reason="needs the sweep extra")
    import shutil

    if shutil.which("srun"):
        pytest.skip("SLURM is here")
    grid = load(tmp_path)
    command = [grid.path, f"project={tmp_path / 'runs'}", "--submitit", "slurm", "partition=gpu"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "error: --submitit slurm: the jobs were not taken" in error and "srun" in error
    assert "Traceback" not in error
    assert main([*command[:-2], "local", "partitoin=gpu"]) == 2
    assert "partitoin" in capsys.readouterr().err
    assert {state_of(cell).name for cell in grid.cells} == {"waiting"}

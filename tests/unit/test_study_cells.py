"""The runs of a study: their order, what they start from, whether they are what is asked for, and how they are run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slr_det.bench import __main__ as bench
from slr_det.bench.study import command, run
from slr_det.bench.study.cells import (
    Cell,
    Mark,
    cells_of,
    change,
    clear,
    dense_cell,
    fail,
    finish,
    prepare,
    read_mark,
    refuse_changed,
    state,
    wanted,
)
from slr_det.bench.study.child import Child, error_in, outcome
from slr_det.bench.study.findings import Findings
from slr_det.bench.study.model import Entry, Study
from slr_det.bench.study.run import How, run_cells, unfinished
from slr_det.bench.study.worker import alone
from slr_det.classify import TASK
from slr_det.errors import CheckpointError, ConfigError
from slr_det.runstate import RunState


def make(tmp_path: Path, **changes: Any) -> Study:
    base = {"model": "digits_cnn", "data": "digits", "dense_epochs": 2, "epochs": 3, "retrain_epochs": 1}
    study = Study(
        path="arena.yaml",
        words=(),
        name="arena",
        task=TASK,
        trainer_keys=frozenset({"lr"}),
        unsupported={},
        base={**base, "project": str(tmp_path), "train.lr": 0.1},
        seeds=(3, 4),
        rates=(10.0, 20.0),
        target=None,
        shared_dense=False,
        entries=(),
        baselines=(),
        sweep_of="",
        plots=(),
    )
    labels = {"slr": {"method": "slr"}, "admm two": {"method": "admm"}}
    entries = tuple(Entry(label, own, study.config(own, 10.0, 3)) for label, own in labels.items())
    return replace(study, entries=entries, **changes)


def trained(cell: Cell, content: bytes = b"weights") -> Cell:
    """The cell's dense model, as its run would have left it."""
    dense = cell.start
    assert dense is not None
    prepare(dense, "digits")
    state = RunState.open(dense.folder)
    state.finish("dense/train", {"seconds": 5.0})
    state.finish("dense", {"metrics": {"top1": 0.9}, "checkpoint": "dense.pt", "epochs": 2, "seconds": 5.0})
    (dense.folder / "dense.pt").write_bytes(content)
    finish(dense)
    return cell


# -- which cells there are --------------------------------------------------------------------------------


def test_all_entries_of_a_seed_and_rate_come_before_the_next(tmp_path: Path) -> None:
    found = [(cell.seed, cell.rate, cell.label) for cell in cells_of(make(tmp_path))]
    assert found == [
        (seed, rate, label) for seed in (3, 4) for rate in (10.0, 20.0) for label in ("slr", "admm two")
    ]


def test_a_cell_is_a_run_of_its_entry_rate_and_seed(tmp_path: Path) -> None:
    cell = cells_of(make(tmp_path))[3]
    assert cell.folder == tmp_path / "arena" / "cells" / "admm two" / "20x" / "seed3"
    config = cell.config
    assert (config.method, config.prune.target_compression, config.seed) == (("admm",), 20.0, 3)
    assert (Path(config.project) / config.name, cell.title) == (cell.folder, "admm two 20x seed 3")


def test_each_seed_has_a_dense_model_unless_it_is_shared(tmp_path: Path) -> None:
    own = {cell.start.folder.name: cell.start.seed for cell in cells_of(make(tmp_path)) if cell.start}
    assert own == {"dense-seed3": 3, "dense-seed4": 4}
    shared = {
        cell.start.folder.name: cell.start.seed
        for cell in cells_of(make(tmp_path, shared_dense=True))
        if cell.start
    }
    assert shared == {"dense": 3}


def test_dense_models_are_trained_before_the_first_cell_that_needs_them(tmp_path: Path) -> None:
    cells = cells_of(make(tmp_path))
    assert [cell.title for cell in unfinished(cells)][:2] == ["dense model (dense-seed3)", "slr 10x seed 3"]
    assert len(unfinished(cells)) == 10
    prepare(trained(cells[0]), "digits")
    finish(cells[0])
    left = unfinished(cells)
    assert len(left) == 8 and cells[0] not in left and cells[0].start not in left
    assert unfinished([cells[0]]) == []


# -- what a cell starts from ------------------------------------------------------------------------------


def test_a_cell_is_handed_the_dense_model_and_its_scores(tmp_path: Path) -> None:
    cells = cells_of(make(tmp_path))
    first, second = trained(cells[0]), cells[1]
    for cell in (first, second):
        prepare(cell, "digits")
        assert (cell.folder / "dense.pt").read_bytes() == b"weights"
        phases = RunState.open(cell.folder).phases
        assert phases["dense"]["metrics"] == {"top1": 0.9} and phases["dense/train"] == {"seconds": 5.0}
        assert set(phases) == {"dense/train", "dense"}
    assert read_mark(first.folder) == Mark(wanted(first), read_mark(dense_folder(first)).start)  # type: ignore[union-attr]


def dense_folder(cell: Cell) -> Path:
    assert cell.start is not None
    return cell.start.folder


def test_where_the_disk_has_no_links_the_dense_model_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*names: Any) -> None:
        raise OSError("no links")

    monkeypatch.setattr(os, "link", refuse)
    cell = trained(cells_of(make(tmp_path))[0])
    prepare(cell, "digits")
    assert (cell.folder / "dense.pt").read_bytes() == b"weights"


def test_a_begun_cell_is_kept_and_one_without_a_state_is_made_again(tmp_path: Path) -> None:
    cell = trained(cells_of(make(tmp_path))[0])
    prepare(cell, "digits")
    RunState.open(cell.folder).finish("slr/train", {"seconds": 1.0})
    fail(cell, "disk full")
    prepare(cell, "digits")
    assert "slr/train" in RunState.open(cell.folder).phases
    assert read_mark(cell.folder).error == ""  # type: ignore[union-attr]
    (cell.folder / "state.json").unlink()  # killed while the folder was made
    prepare(cell, "digits")
    assert set(RunState.open(cell.folder).phases) == {"dense/train", "dense"}


# -- whether a folder is what is asked for ----------------------------------------------------------------


def test_the_state_of_a_cell(tmp_path: Path) -> None:
    cell = trained(cells_of(make(tmp_path))[0])
    assert state(cell) == "waiting"
    prepare(cell, "digits")
    assert state(cell) == "started"
    fail(cell, "disk full")
    assert state(cell) == "failed: disk full"
    finish(cell)
    assert state(cell) == "finished"
    clear(cell)
    assert state(cell) == "waiting"


def test_a_changed_setting_is_named_and_refused_unless_the_entry_is_run_again(tmp_path: Path) -> None:
    study = make(tmp_path)
    prepare(trained(cells_of(study)[0]), "digits")
    finish(cells_of(study)[0])
    cells = cells_of(replace(study, base={**study.base, "slr.rho": 0.5}))
    assert state(cells[0]) == "changed: slr.rho was 0.1, not 0.5"
    with pytest.raises(CheckpointError, match=r"slr\.rho was 0\.1, not 0\.5.*--rerun slr$"):
        refuse_changed(cells)
    refuse_changed(cells, rerun=["slr"])
    assert unfinished([cells[0]]) == []  # a mark alone does not make it run: it is refused before
    two = cells_of(study)[1]
    prepare(two, "digits")
    with pytest.raises(CheckpointError, match="--rerun 'admm two'"):
        refuse_changed(cells_of(replace(study, base={**study.base, "train.lr": 0.5}))[1:2])


@pytest.mark.parametrize("key", ["device", "project"])
def test_what_changes_no_result_is_free(key: str, tmp_path: Path) -> None:
    study = make(tmp_path)
    cell = trained(cells_of(study)[0])
    prepare(cell, "digits")
    other = cells_of(replace(study, base={**study.base, key: "1"}))[0]
    assert wanted(other) == wanted(cell)


def test_the_dense_model_does_not_depend_on_how_it_is_pruned(tmp_path: Path) -> None:
    study = make(tmp_path)
    before = wanted(dense_cell(study, 3))
    assert wanted(dense_cell(replace(study, base={**study.base, "epochs": 9, "slr.rho": 1}), 3)) == before
    for key, value in {"train.lr": 0.5, "dense.lr": 0.5, "dense_epochs": 3, "model": "x"}.items():
        assert wanted(dense_cell(replace(study, base={**study.base, key: value}), 3)) != before


def test_a_cell_that_started_from_another_dense_model_is_refused(tmp_path: Path) -> None:
    cell = trained(cells_of(make(tmp_path))[0])
    prepare(cell, "digits")
    finish(cell)
    clear(cell.start)  # type: ignore[arg-type]
    assert state(cell) == "finished"  # its own copy is still there
    trained(cell, b"others")
    assert state(cell) == "changed: the dense model was another one"


def test_a_setting_of_a_later_version_had_its_default(tmp_path: Path) -> None:
    cell = cells_of(make(tmp_path))[0]
    older = {key: value for key, value in wanted(cell).items() if key != "slr.continuation"}
    assert change(cell, Mark(older)) is None
    older["slr.gone"] = 3
    assert change(cell, Mark(older)) == "slr.gone was 3, not None"


def test_a_damaged_mark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cell.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"is damaged .*remove"):
        read_mark(tmp_path)
    (tmp_path / "cell.json").write_text('{"version": 9}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="another version"):
        read_mark(tmp_path)


# -- running them -----------------------------------------------------------------------------------------

CHILD = """
import sys, time, pathlib
folder = pathlib.Path(sys.argv[-1])
(folder / "seen").write_text(sys.argv[-2])
print("noise"); print("error: " + "it broke" if "admm" in str(folder) else "fine")
sys.exit(2 if "admm" in str(folder) else 0)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells whose process is a small script."""
    script = tmp_path / "child.py"
    script.write_text(CHILD, encoding="utf-8")
    real = subprocess.Popen

    def start(words: list[str], **options: Any) -> Any:
        return real([sys.executable, str(script), *words[-2:]], **options)

    monkeypatch.setattr("slr_det.bench.study.child.subprocess.Popen", start)
    monkeypatch.setattr(run, "_POLL", 0.01)


def how(jobs: int = 2) -> How:
    return How(jobs, 1, "digits")


@pytest.mark.usefixtures("fake")
def test_a_failed_cell_does_not_stop_the_others(tmp_path: Path) -> None:
    cells = cells_of(make(tmp_path, seeds=(3,), rates=(10.0,)))
    trained(cells[0])
    said: list[str] = []
    failures = run_cells(unfinished(cells), how(), say=said.append, after=lambda cell: "0.9")
    assert [(f.cell.title, f.error) for f in failures] == [("admm two 10x seed 3", "it broke")]
    assert [state(cell) for cell in cells] == ["finished", "failed: it broke"]
    assert len(said) == 2 and any("slr 10x seed 3: 0.9, " in line for line in said)
    assert any("admm two 10x seed 3: failed (it broke)" in line for line in said)
    assert (cells[0].folder / "seen").read_text() == "compress"


@pytest.mark.usefixtures("fake")
def test_cells_without_a_dense_model_are_left_out(tmp_path: Path) -> None:
    study = make(tmp_path, seeds=(3,), rates=(10.0,))
    # The folder's name holds "admm", so that the script fails for it.
    cells = [
        replace(cell, start=replace(cell.start, folder=tmp_path / "dense-admm"))
        for cell in cells_of(study)
        if cell.start is not None
    ]
    failures = run_cells(unfinished(cells), how(1), say=lambda line: None, after=lambda cell: "")
    assert [f.error for f in failures] == ["it broke", *["left out, since its dense model failed"] * 2]
    assert [state(cell) for cell in cells] == ["waiting", "waiting"]


def test_the_last_error_line_of_this_attempt_is_found(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"error: old\n")
    offset = log.stat().st_size
    assert error_in(log, offset) == ""
    log.write_bytes(b"error: old\n bar 1\r bar 2\nerror: new\nlast\n")
    assert error_in(log, offset) == "new"
    log.write_bytes(b"error: old\nTraceback\nValueError: x\n")
    assert error_in(log, offset) == "ValueError: x"


@pytest.mark.parametrize(
    ("signal", "said"),
    [("KILL", "was killed by SIGKILL; out of memory?; see its log.txt"), ("SEGV", "was killed by SIGSEGV")],
)
def test_a_run_that_is_killed_is_not_told_by_the_last_line_of_its_log(
    signal: str, said: str, tmp_path: Path
) -> None:
    code = f"import os, signal; print('epoch 1 of 3', flush=True); os.kill(os.getpid(), signal.SIG{signal})"
    log = (tmp_path / "log.txt").open("ab")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log)
    process.wait()
    assert outcome(Child(tmp_path, process, log, 0, 0.0)).startswith(said)


def test_only_one_process_is_let_into_a_folder(tmp_path: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from slr_det.bench.study.worker import alone
with alone(Path({str(tmp_path)!r})):
    print("in", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "in\n"
    with pytest.raises(CheckpointError, match="another process works on it"), alone(tmp_path):
        pass
    other.kill()  # by force: the system lifts the lock
    other.wait()
    began = time.monotonic()
    with alone(tmp_path, 5.0):
        assert time.monotonic() - began < 5.0


# -- the command line -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "slrr"], "--only: the study has no 'slrr', only slr, admm two"),
        (["--rates", "30"], "--rates: the study has no '30', only 10, 20"),
        (["--seeds", "1"], "--seeds: the study has no '1', only 3, 4"),
        (["--seeds", "one"], "--seeds one: expected numbers with commas"),
        (["--rerun", "amm"], "--rerun amm: the study has no such entry"),
        (["--check", "--report"], "no cell is finished yet"),
    ],
)
def test_wrong_options_are_refused(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "load_study", lambda path, settings: make(tmp_path))
    assert bench.main(["methods", "arena.yaml", *words]) == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1 and not (tmp_path / "arena" / "cells").exists()


def test_cells_are_chosen_and_listed_with_their_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "load_study", lambda path, settings: make(tmp_path))
    prepare(trained(cells_of(make(tmp_path))[0]), "digits")
    assert bench.main(["methods", "arena.yaml", "--list", "--quick"]) == 0
    lines = [re.split(" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert [tuple(line) for line in lines] == [
        ("slr 10x seed 3", "started"),
        ("admm two 10x seed 3", "waiting"),
    ]
    assert (
        bench.main(["methods", "a.yaml", "--list", "--only", "slr", "--rates", "20x", "--seeds", "4,3"]) == 0
    )
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "slr 20x seed 3",
        "slr 20x seed 4",
    ]


def test_an_interrupt_says_how_to_go_on_without_starting_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "load_study", lambda path, settings: make(tmp_path))
    monkeypatch.setattr(command, "run_cells", stop)
    words = ["methods", "arena.yaml", "--only", "slr", "--jobs", "2", "--rerun", "slr", "lr=0.1"]
    assert bench.main(words) == 2
    line = capsys.readouterr().err
    assert "0 of 4 cells are finished" in line
    assert line.rstrip().endswith("python -m slr_det.bench methods arena.yaml lr=0.1 --only slr --jobs 2")


def test_words_behind_an_option_are_settings_and_others_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = bench._parse(["methods", "a.yaml", "x=1", "--jobs", "2", "y=2"])
    assert options.settings == ["x=1", "y=2"]
    for words in (
        ["methods", "a.yaml", "--jobs", "0"],
        ["methods", "a.yaml", "--job-count=3"],
        ["engine", "x"],
    ):
        with pytest.raises(SystemExit) as ended:
            bench._parse(words)
        assert ended.value.code == 2
    assert "'0' is not a number of 1 or more" in capsys.readouterr().err


def test_a_study_without_baselines_cannot_be_checked(tmp_path: Path) -> None:
    methods = command.Methods(bench._parse(["methods", "a.yaml", "--check"]))
    with pytest.raises(ConfigError, match="--check needs 'baselines'"):
        methods._check(Findings(make(tmp_path), (), ()))

"""The runs of a study: where each lies, what it starts from, and whether what lies there is what is asked for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slr_det.bench.study.model import DENSE, Study
from slr_det.bench.study.rules import settings_of
from slr_det.config import RunConfig
from slr_det.errors import CheckpointError
from slr_det.files import atomic_write
from slr_det.runstate import CONFIG_FILE, STATE_FILE, RunState, fingerprint_of

MARK = "cell.json"
VERSION = 1
#: Phases of the dense model's run that a cell takes over.
_TAKEN = ("dense/train", "dense")
_DENSE_SETTINGS = ("task", "model", "weights", "data", "seed", "dense_epochs")


@dataclass(frozen=True)
class Cell:
    """One run: an entry at a rate with a seed, or the training of a dense model.

    Attributes:
        label: The entry's label, or ``dense``.
        rate: Compression rate; None for a dense model.
        seed: The seed.
        folder: The run's folder.
        config: What the run does.
        start: The dense model's run that a cell starts from; None for that run itself.
    """

    label: str
    rate: float | None
    seed: int
    folder: Path
    config: RunConfig
    start: Cell | None = None

    @property
    def verb(self) -> str:
        """What its command line is told to do."""
        return "train" if self.start is None else "compress"

    @property
    def title(self) -> str:
        """What messages call it, such as ``slr 20x seed 0``."""
        if self.rate is None:
            return f"dense model ({self.folder.name})"
        return f"{self.label} {self.rate:g}x seed {self.seed}"


@dataclass(frozen=True)
class Mark:
    """What a cell's folder says about itself.

    Attributes:
        settings: What the run was started with, by dotted key.
        start: SHA-256 of the dense model that it started from; for a dense model's run, of what that run made.
        finished: Whether it came to its end.
        error: The line it failed with; empty where it did not.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    start: str = ""
    finished: bool = False
    error: str = ""

    def write(self, folder: Path) -> None:
        """Store it in the folder."""
        atomic_write(folder / MARK, json.dumps({"version": VERSION, **self.__dict__}, indent=1) + "\n")


def read_mark(folder: Path) -> Mark | None:
    """What the folder says about itself; None where no cell was begun. CheckpointError where it is damaged."""
    path = folder / MARK
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("version") != VERSION:
            raise CheckpointError(
                f"{path}: written by another version of slr_det; remove {folder} to run it again"
            )
        return Mark(**content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: is damaged ({error}); remove {folder} to run it again") from error


def cells_of(study: Study) -> list[Cell]:
    """Every cell, in the order in which they run: all entries of one seed and rate before the next."""
    cells = []
    for seed in study.seeds:
        dense = dense_cell(study, seed)
        for rate in study.rates:
            for entry in study.entries:
                folder = study.folder / "cells" / entry.label / f"{rate:g}x" / f"seed{seed}"
                config = study.config(entry.settings, rate, seed)
                cells.append(Cell(entry.label, rate, seed, folder, _placed(config, folder), dense))
    return cells


def dense_cell(study: Study, seed: int) -> Cell:
    """The run that trains the dense model of a seed; of all seeds, where it is shared."""
    used = study.seeds[0] if study.shared_dense else seed
    folder = study.folder / (DENSE if study.shared_dense else f"{DENSE}-seed{seed}")
    return Cell(DENSE, None, used, folder, _placed(study.config({}, study.rates[0], used), folder))


def _placed(config: RunConfig, folder: Path) -> RunConfig:
    return replace(config, name=folder.name, project=str(folder.parent))


def wanted(cell: Cell) -> dict[str, Any]:
    """The settings that decide a cell's result, as JSON has them."""
    settings = settings_of(cell.config)
    if cell.start is None:
        settings = {
            key: value
            for key, value in settings.items()
            if key in _DENSE_SETTINGS or key.startswith(("train.", "dense."))
        }
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def change(cell: Cell, mark: Mark) -> str | None:
    """The first setting in which a cell's folder is not what is asked for, and how; None where it is.

    A setting that the folder does not know is one of a later version, and had its default then.
    """
    now, default = wanted(cell), json.loads(json.dumps(settings_of(RunConfig())))
    for key in dict.fromkeys([*now, *mark.settings]):
        before = mark.settings.get(key, default.get(key))
        if before != now.get(key):
            return f"{key} was {before!r}, not {now.get(key)!r}"
    if cell.start is not None:
        dense = read_mark(cell.start.folder)
        if dense is not None and dense.finished and dense.start != mark.start:
            return "the dense model was another one"
    return None


def state(cell: Cell) -> str:
    """``finished``, ``failed``, ``started``, ``waiting`` or ``changed: WHAT``."""
    mark = read_mark(cell.folder)
    if mark is None:
        return "waiting"
    changed = change(cell, mark)
    if changed is not None:
        return f"changed: {changed}"
    return "finished" if mark.finished else f"failed: {mark.error}" if mark.error else "started"


def refuse_changed(cells: Sequence[Cell], rerun: Collection[str] = ()) -> None:
    """Raise CheckpointError for the first cell that was run with other settings, unless it is run again anyway."""
    for cell in cells:
        mark = read_mark(cell.folder)
        changed = None if mark is None or cell.label in rerun else change(cell, mark)
        if changed is not None:
            raise CheckpointError(
                f"{cell.folder}: {cell.title} was run with other settings ({changed}); undo that, give the study "
                f"another name, or run these cells again with --rerun {_quoted(cell.label)}"
            )


def clear(cell: Cell) -> None:
    """Throw away what a cell has done."""
    shutil.rmtree(cell.folder, ignore_errors=True)


def prepare(cell: Cell, data: str) -> None:
    """Make the folder that the cell's command line then continues; a folder that is there already is kept.

    Args:
        cell: The cell; the dense model that it starts from has been trained.
        data: The data file that the trainer reads.
    """
    config = replace(cell.config, data=data)
    mark = read_mark(cell.folder)
    if mark is not None and (cell.folder / STATE_FILE).is_file():
        RunState.open(cell.folder).check_start(config)
        replace(mark, error="").write(cell.folder)
        return
    clear(cell)
    cell.folder.mkdir(parents=True)
    phases: dict[str, dict[str, Any]] = {}
    start = ""
    if cell.start is not None:
        # Entries must differ in nothing but what the study compares. So no cell trains or evaluates a dense model:
        # each is given the same file and the same numbers, as if its own dense phase had just ended with them.
        dense = read_mark(cell.start.folder)
        start = "" if dense is None else dense.start
        done = RunState.open(cell.start.folder).phases
        phases = {phase: done[phase] for phase in _TAKEN}
        _link(cell.start.folder / "dense.pt", cell.folder / "dense.pt")
    Mark(wanted(cell), start).write(cell.folder)
    config.dump(cell.folder / CONFIG_FILE)
    # Written last: with it the run can be continued, and before it the folder is made again.
    RunState(cell.folder, phases, fingerprint_of(config.model, config.weights), cell.verb).save()


def finish(cell: Cell) -> None:
    """Note that a cell came to its end."""
    mark = read_mark(cell.folder) or Mark(wanted(cell))
    start = fingerprint_of(str(cell.folder / "dense.pt")) if cell.start is None else mark.start
    replace(mark, finished=True, error="", start=start).write(cell.folder)


def fail(cell: Cell, error: str) -> None:
    """Note what a cell failed with; the next start of the study tries again."""
    mark = read_mark(cell.folder)
    if mark is not None:
        replace(mark, error=error).write(cell.folder)


def _link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the disk has none; nobody writes into a checkpoint in place."""
    try:
        os.link(source, target)
    except OSError:
        atomic_write(target, source.read_bytes())


def _quoted(label: str) -> str:
    return f"'{label}'" if " " in label else label

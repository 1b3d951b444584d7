"""The cells of a sweep on the disk: which are finished, which were something else, and how one is begun."""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from slr_det.bench.study.rules import differences
from slr_det.config import load_config
from slr_det.errors import CheckpointError, ConfigError, DataError, SlrDetError, StorageError
from slr_det.files import atomic_write
from slr_det.report import load_report
from slr_det.runstate import CONFIG_FILE, STATE_FILE, RunState, fingerprint_of
from slr_det.sweep.grid import Cell

FAILED_FILE = "failed.txt"
JOB_FILE = "job.json"

WAITING, STARTED, FINISHED, FAILED, CHANGED, HANDED_OVER = (
    *("waiting", "started", "finished"),
    *("failed", "changed", "handed over"),
)


@dataclass(frozen=True)
class State:
    """How far a cell is.

    Attributes:
        name: ``waiting``, ``started``, ``finished``, ``failed``, ``changed`` or ``handed over``.
        detail: What it failed with, which setting was another one, or which job has it.
    """

    name: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


@dataclass(frozen=True)
class Job:
    """A job that a scheduler has for a cell.

    Attributes:
        scheduler: ``slurm`` or ``local``.
        number: The job's id there.
        folder: Where submitit keeps its files.
    """

    scheduler: str
    number: str
    folder: str

    def write(self, folder: Path) -> None:
        """Store it in the cell's folder."""
        atomic_write(folder / JOB_FILE, json.dumps(asdict(self)) + "\n")

    def alive(self) -> bool:
        """Whether the scheduler still has it, waiting or running; True where it cannot be asked."""
        if self.scheduler == "local":
            return _runs(self.number)
        try:
            import submitit
        except (
            ModuleNotFoundError
        ):  # nobody here can ask; two processes in one cell would be worse than waiting
            return True
        logging.getLogger("submitit").setLevel(
            logging.ERROR
        )  # it warns on stdout where SLURM keeps no accounts
        return not submitit.SlurmJob(folder=self.folder, job_id=self.number).done(force_check=True)


def state_of(cell: Cell) -> State:
    """How far a cell is, judged by its own configuration and its report.

    A report that is damaged makes it an unfinished run, which continues from its finished phases.
    """
    if not (cell.folder / CONFIG_FILE).is_file() or not (cell.folder / STATE_FILE).is_file():
        return State(WAITING)
    changed = _change(cell)
    if changed:
        return State(CHANGED, changed)
    with suppress(DataError):
        load_report(cell.folder)
        return State(FINISHED)
    with suppress(OSError):
        return State(FAILED, (cell.folder / FAILED_FILE).read_text(encoding="utf-8").strip())
    job = _job_of(cell)
    if job is not None and job.alive():
        return State(HANDED_OVER, f"{job.scheduler} {job.number}")
    return State(STARTED)


def refuse_changed(cells: Iterable[tuple[Cell, State]]) -> None:
    """Raise CheckpointError that names the cells that were run with other settings, and the settings of the first."""
    changed = [(cell, state) for cell, state in cells if state.name == CHANGED]
    if changed:
        cell, state = changed[0]
        more = f", and so were {len(changed) - 1} more" if len(changed) > 1 else ""
        raise CheckpointError(
            f"{cell.folder}: {cell.title} was run with other settings ({state.detail}){more}; undo that, give the "
            "sweep another name (name=...), or run these cells again with --rerun-changed"
        )


def prepare(cell: Cell) -> None:
    """Make the folder that the cell's command line then continues; a run that was begun is kept."""
    if all((cell.folder / name).is_file() for name in (CONFIG_FILE, STATE_FILE)):
        (cell.folder / FAILED_FILE).unlink(missing_ok=True)
        (cell.folder / JOB_FILE).unlink(missing_ok=True)
        return
    clear(cell)
    cell.folder.mkdir(parents=True)
    RunState.create(cell.folder, cell.config, "compress")


def clear(cell: Cell) -> None:
    """Throw away what a cell has done; StorageError where that cannot be removed."""
    try:
        if cell.folder.is_dir():
            shutil.rmtree(cell.folder)
        else:
            cell.folder.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{cell.folder}: cannot be cleared ({error.strerror or error}); remove it yourself"
        ) from error


def fail(folder: Path, line: str) -> None:
    """Note the line that a cell failed with; the next start of the sweep tries it again."""
    atomic_write(folder / FAILED_FILE, line + "\n")


def _change(cell: Cell) -> str:
    """The first setting in which the folder's run is another one, and how; empty where it is the same."""
    try:
        saved = load_config(cell.folder / CONFIG_FILE, [], defaults={})
        state = RunState.open(cell.folder)
    except (ConfigError, SlrDetError) as error:
        return str(error)
    for key, before, now in differences(saved, cell.config):
        return f"{key} was {before!r}, not {now!r}"
    if state.fingerprint != _fingerprint(cell.config.model, cell.config.weights):
        return f"the content of model='{cell.config.model}' was another one"
    return ""


@functools.cache
def _fingerprint(*names: str) -> str:
    """Of the files that a run starts from: all cells have the same, and a checkpoint can be large."""
    return fingerprint_of(*names)


def _job_of(cell: Cell) -> Job | None:
    try:
        job = Job(**json.loads((cell.folder / JOB_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return job if all(isinstance(value, str) for value in asdict(job).values()) else None


def _runs(process: str) -> bool:
    """Whether a process of this machine runs; one that has ended and that nobody has collected does not."""
    try:
        os.kill(int(process), 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, ValueError):
        return False
    except OSError:  # somebody else's, or a system without /proc
        return True

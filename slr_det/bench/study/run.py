"""Running the cells of a study: several at a time, each in a process of its own, none twice."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from slr_det.bench.study.cells import LOG, Cell, fail, finish, prepare, read_mark
from slr_det.bench.study.worker import end_group
from slr_det.cli import BELOW_MINIMUM, OK
from slr_det.report.table import duration

_POLL = 0.2
_GRACE = 20.0  # seconds in which a stopped cell may finish writing


@dataclass(frozen=True)
class How:
    """How cells are run.

    Attributes:
        jobs: How many at a time.
        threads: CPU threads of each.
        data: The data file that the trainer reads.
    """

    jobs: int
    threads: int
    data: str


@dataclass(frozen=True)
class Failure:
    """A cell that did not come to its end, and the line that says why."""

    cell: Cell
    error: str


@dataclass(frozen=True)
class _Child:
    cell: Cell
    process: subprocess.Popen[bytes]
    log: BinaryIO
    written: int  # size of the log before this attempt
    began: float


def unfinished(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that are left to run, each dense model before the first cell that needs it."""
    needed: dict[Path, Cell] = {}
    for cell in cells:
        if not _finished(cell):
            if cell.start is not None and not _finished(cell.start):
                needed.setdefault(cell.start.folder, cell.start)
            needed[cell.folder] = cell
    return list(needed.values())


def run_cells(
    cells: Sequence[Cell],
    how: How,
    *,
    say: Callable[[str], None],
    after: Callable[[Cell], str],
) -> list[Failure]:
    """Run cells to their end; one that fails does not stop the others.

    Args:
        cells: From :func:`unfinished`.
        how: Processes and threads.
        say: Called with a line for each cell that has ended, where no progress bar can be shown.
        after: Called with each cell that has finished; returns a word on its result.

    Returns:
        What failed. Every child has ended when this returns or raises.
    """
    waiting = list(cells)
    running: list[_Child] = []
    failures: list[Failure] = []
    shown = sys.stderr.isatty()
    # Without smoothing: the time left follows from all cells so far, since their order is not random.
    # The size is asked for here, because tqdm shows nothing on a terminal that does not tell its own.
    width, height = shutil.get_terminal_size()
    with tqdm(
        total=len(cells), unit="cell", smoothing=0, disable=not shown, ncols=width, nrows=height
    ) as bar:

        def ended(cell: Cell, text: str) -> None:
            bar.update(1)
            bar.set_postfix_str(f"{cell.title}: {text}"[:60])
            if not shown:
                say(f"{len(cells) - len(waiting) - len(running)}/{len(cells)}  {cell.title}: {text}")

        try:
            while waiting or running:
                for lost in [cell for cell in waiting if _lost(cell, failures)]:
                    waiting.remove(lost)
                    failures.append(Failure(lost, "left out, since its dense model failed"))
                    ended(lost, "left out")
                while len(running) < how.jobs and (cell := _next(waiting)) is not None:
                    running.append(_begin(cell, how))
                    waiting.remove(cell)
                time.sleep(_POLL)
                bar.refresh()
                for child in [child for child in running if child.process.poll() is not None]:
                    running.remove(child)
                    error = _outcome(child)
                    if error:
                        failures.append(Failure(child.cell, error))
                        fail(child.cell, error)
                        ended(child.cell, f"failed ({error})")
                    else:
                        finish(child.cell)
                        spent = duration(time.monotonic() - child.began)
                        ended(child.cell, f"{after(child.cell)}, {spent}")
        finally:
            _stop(running)
    return failures


def _finished(cell: Cell) -> bool:
    mark = read_mark(cell.folder)
    return mark is not None and mark.finished


def _lost(cell: Cell, failures: Sequence[Failure]) -> bool:
    return cell.start is not None and any(failure.cell.folder == cell.start.folder for failure in failures)


def _next(waiting: Sequence[Cell]) -> Cell | None:
    """The first cell whose dense model is there."""
    return next((cell for cell in waiting if cell.start is None or _finished(cell.start)), None)


def _begin(cell: Cell, how: How) -> _Child:
    prepare(cell, how.data)
    threads = str(how.threads)
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads),
        "TQDM_MININTERVAL": "30",  # nobody watches these bars, and each redraw is a line of the log
    }
    log = (cell.folder / LOG).open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "slr_det.bench.study.worker", cell.config.task, cell.verb, str(cell.folder)],
        stdin=subprocess.PIPE,  # never written to: it closes with this process, and the child then ends
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # so that Ctrl-C reaches the study alone, which then ends all that a cell started
    )
    return _Child(cell, process, log, log.tell(), time.monotonic())


def _outcome(child: _Child) -> str:
    """Empty for a cell that came to its end, else the line it failed with."""
    _close(child)
    code = child.process.returncode
    if code in (OK, BELOW_MINIMUM):
        return ""
    return error_in(child.cell.folder / LOG, child.written) or f"ended with code {code}; see its {LOG}"


def error_in(log: Path, offset: int) -> str:
    """The last error line after ``offset`` bytes of a log, or failing that its last line."""
    text = log.read_bytes()[offset:].decode("utf-8", errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (said or lines or [""])[-1]


def _stop(running: Sequence[_Child]) -> None:
    for child in running:
        end_group(child.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    for child in running:
        try:
            child.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            end_group(child.process.pid, signal.SIGKILL)
            child.process.wait()
        _close(child)


def _close(child: _Child) -> None:
    child.log.close()
    if child.process.stdin is not None:
        child.process.stdin.close()

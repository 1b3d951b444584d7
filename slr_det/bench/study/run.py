"""Running the cells of a study: several at a time, each in a process of its own, none twice."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from slr_det.bench.study.cells import Cell, fail, finish, prepare, read_mark
from slr_det.bench.study.child import Child, begin, outcome, stop
from slr_det.report.table import duration

_POLL = 0.2


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
class _Running:
    cell: Cell
    child: Child


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
    running: list[_Running] = []
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
                for run in [run for run in running if run.child.process.poll() is not None]:
                    running.remove(run)
                    error = outcome(run.child)
                    if error:
                        failures.append(Failure(run.cell, error))
                        fail(run.cell, error)
                        ended(run.cell, f"failed ({error})")
                    else:
                        finish(run.cell)
                        spent = duration(time.monotonic() - run.child.began)
                        ended(run.cell, f"{after(run.cell)}, {spent}")
        finally:
            stop([run.child for run in running])
    return failures


def _finished(cell: Cell) -> bool:
    mark = read_mark(cell.folder)
    return mark is not None and mark.finished


def _lost(cell: Cell, failures: Sequence[Failure]) -> bool:
    return cell.start is not None and any(failure.cell.folder == cell.start.folder for failure in failures)


def _next(waiting: Sequence[Cell]) -> Cell | None:
    """The first cell whose dense model is there."""
    return next((cell for cell in waiting if cell.start is None or _finished(cell.start)), None)


def _begin(cell: Cell, how: How) -> _Running:
    prepare(cell, how.data)
    return _Running(cell, begin(cell.config.task, cell.verb, cell.folder, how.threads))

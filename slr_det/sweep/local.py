"""Cells on this machine, one after the other, each in a process of its own."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import TimeoutExpired

from tqdm import tqdm

from slr_det.bench.study.child import begin, outcome, stop
from slr_det.report.table import duration
from slr_det.sweep.cells import fail, prepare
from slr_det.sweep.grid import Cell

_REFRESH = 1.0  # seconds


@dataclass(frozen=True)
class Failure:
    """A cell that did not come to its end, and the line that says why."""

    cell: Cell
    error: str


def run_in_order(
    cells: Sequence[Cell],
    threads: int | None,
    *,
    say: Callable[[str], None],
    after: Callable[[Cell], str],
) -> list[Failure]:
    """Run cells to their end; one that fails does not stop the others.

    Args:
        cells: Those that are left to run.
        threads: CPU threads of each; None leaves them to torch.
        say: Called with a line for each cell that has ended, where no progress bar can be shown.
        after: Called with each cell that has finished; returns a word on its result.

    Returns:
        What failed. No child runs any more when this returns or raises.
    """
    failures: list[Failure] = []
    shown = sys.stderr.isatty()
    width, height = shutil.get_terminal_size()
    began = time.monotonic()
    # Without smoothing: the time left follows from all cells so far.
    with tqdm(
        total=len(cells), unit="cell", smoothing=0, disable=not shown, ncols=width, nrows=height
    ) as bar:
        for number, cell in enumerate(cells, start=1):
            bar.set_postfix_str(cell.title[:60])
            started = time.monotonic()
            error = _run(cell, threads, bar)
            if error:
                failures.append(Failure(cell, error))
                fail(cell.folder, error)
            told = f"failed ({error})" if error else after(cell)
            now = time.monotonic()
            bar.update(1)
            if shown:
                bar.set_postfix_str(f"{cell.title}: {told}"[:60])
            else:
                left = (now - began) / number * (len(cells) - number)
                rest = f"; about {duration(left)} left" if number < len(cells) else ""
                say(f"{number}/{len(cells)}  {cell.title}: {told}, {duration(now - started)}{rest}")
    return failures


def run_one(task: str, folder: Path, threads: int | None) -> str:
    """Continue the run in a folder to its end; empty where that is reached, else the line that it failed with."""
    child = begin(task, "compress", folder, threads)
    try:
        child.process.wait()
        return outcome(child)
    finally:
        stop([child])


def _run(cell: Cell, threads: int | None, bar: tqdm[None]) -> str:
    prepare(cell)
    child = begin(cell.config.task, "compress", cell.folder, threads)
    try:
        while child.process.poll() is None:
            with suppress(TimeoutExpired):
                child.process.wait(_REFRESH)
            bar.refresh()
        return outcome(child)
    finally:
        stop([child])

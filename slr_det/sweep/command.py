"""``python -m slr_det.sweep SWEEP.yaml``: run a grid, hand it to a scheduler, or say what it has found so far."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slr_det.bench.study.worker import PATIENCE, alone
from slr_det.cli import BELOW_MINIMUM, OK, complain
from slr_det.errors import CheckpointError
from slr_det.files import atomic_write
from slr_det.sweep.cells import CHANGED, FAILED, FINISHED, HANDED_OVER, State, clear, refuse_changed, state_of
from slr_det.sweep.grid import Cell, Grid, load_grid
from slr_det.sweep.local import run_in_order
from slr_det.sweep.results import Findings, document, gather
from slr_det.sweep.submit import SCHEDULERS, hand_over, read_parameters
from slr_det.sweep.tables import markdown, text

MODULE = "python -m slr_det.sweep"
RESULTS_JSON, RESULTS_MARKDOWN = "results.json", "results.md"

DESCRIPTION = """\
Run a grid of compressions: every method at every rate with every seed, each a whole run with a report of its own. A
sweep is one YAML file; docs/sweep.md has the format. Cells run one after the other; the same command again runs what is
missing, and --submitit hands the same cells to a scheduler instead."""

EXAMPLES = f"""\
examples:
  {MODULE} configs/sweeps/digits.yaml                     everything that is missing, in order; table and plots
  {MODULE} configs/sweeps/digits.yaml --list              every cell and its state
  {MODULE} configs/sweeps/digits.yaml --table             table and plots from whatever has finished
  {MODULE} configs/sweeps/digits.yaml epochs=4 name=x     key=value words override the sweep's settings
  {MODULE} configs/sweeps/yolo.yaml --submitit slurm partition=gpu gpus_per_node=1 timeout_min=240
      a job for each missing cell; --table shows what they have found, at any time

exit codes: 0 fine, 1 a cell failed, 2 something is wrong (one line on stderr says what)"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog=MODULE,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweep", metavar="SWEEP.yaml", type=Path, help="the sweep's file")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings that override the sweep's own"
    )
    parser.add_argument("--list", action="store_true", help="print the cells and their states; run nothing")
    parser.add_argument(
        "--table", action="store_true", help="write table and plots from what has finished; run nothing"
    )
    parser.add_argument(
        "--threads", type=_count, metavar="N", help="CPU threads of each cell (as many as torch takes)"
    )
    parser.add_argument(
        "--rerun-changed",
        action="store_true",
        help="throw away cells that were run with other settings, and run them again",
    )
    parser.add_argument(
        "--submitit",
        nargs="+",
        metavar=("SCHEDULER", "name=value"),
        help=f"hand the cells to {' or '.join(SCHEDULERS)} by submitit, with its parameters",
    )
    parser.add_argument(
        "--wait", action="store_true", help="with --submitit: wait for the jobs, then write table and plots"
    )
    options, rest = parser.parse_known_args(arguments)
    if any(word.startswith("-") or "=" not in word for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)} (settings are written key=value)")
    options.settings = [*options.settings, *rest]
    if options.wait and not options.submitit:
        parser.error("--wait belongs to --submitit")
    if sum((options.list, options.table, options.submitit is not None)) > 1:
        parser.error("--list, --table and --submitit are three different things; give one of them")
    return options


class Sweep:
    """One invocation of the command line."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.line = shlex.join([*MODULE.split(), str(options.sweep), *options.settings])
        self.grid: Grid | None = None

    def interrupted(self) -> str:
        """The line that says what is saved and how to go on."""
        if self.grid is None:
            return "interrupted; nothing was started"
        done = sum(state_of(cell).name == FINISHED for cell in self.grid.cells)
        if self.options.submitit:
            return f"interrupted; the jobs go on, and {self.line} --table shows what they have found"
        return (
            f"interrupted; {done} of {len(self.grid.cells)} cells are finished, and every finished epoch of the one "
            f"that ran is saved in {self.grid.folder}; continue with: {self.line}"
        )

    def run(self) -> int:
        """Do what the options say and return the exit code."""
        options = self.options
        grid = load_grid(options.sweep, options.settings)
        states = _states(grid)
        if options.list:
            width = max(len(cell.title) for cell in grid.cells)
            for cell, state in states:
                print(f"{cell.title:{width}s}  {state}")
            return OK
        if options.table:
            return self._table(grid, states)
        with alone(grid.folder):
            if options.rerun_changed:
                for cell, state in states:
                    if state.name == CHANGED:
                        with alone(cell.folder, PATIENCE):
                            clear(cell)
                states = _states(grid)
            refuse_changed(states)
            left = [cell for cell, state in states if state.name not in (FINISHED, HANDED_OVER)]
            elsewhere = sum(state.name == HANDED_OVER for _, state in states)
            if elsewhere:
                _say(f"{elsewhere} cells are with a scheduler already and are left alone (see --list)")
            self.grid = grid
            if options.submitit:
                return self._submit(grid, left)
            return self._run(grid, left)

    def _run(self, grid: Grid, left: Sequence[Cell]) -> int:
        def after(cell: Cell) -> str:
            findings = gather(grid, _states(grid))
            self._write(findings, plots=False)
            metric = grid.task.metric
            scores = [f.score("final", metric) for f in findings.found if f.cell.folder == cell.folder]
            return f"{metric} {scores[0]:.4f}" if scores and scores[0] is not None else "done"

        failures = run_in_order(left, self.options.threads, say=_say, after=after)
        self._show(gather(grid, _states(grid)))
        for failure in failures:
            complain(f"{failure.cell.title}: {failure.error} ({failure.cell.folder})")
        return BELOW_MINIMUM if failures else OK

    def _submit(self, grid: Grid, left: Sequence[Cell]) -> int:
        scheduler, *words = self.options.submitit
        parameters = read_parameters(scheduler, words)
        jobs: list[tuple[Cell, Any]] = []
        if left:
            jobs = hand_over(left, scheduler, parameters, grid.folder / "jobs", self.options.threads)
        for cell, job in jobs:
            print(f"{cell.title}: {scheduler} {job.job_id}")
        print(f"{len(jobs)} jobs were handed over; {self.line} --table shows what has finished")
        if not self.options.wait:
            return OK
        for cell, job in jobs:
            while not job.done():
                time.sleep(1.0)
            _say(f"{cell.title}: {state_of(cell)}")
        states = _states(grid)
        self._show(gather(grid, states))
        missing = [(cell, state) for cell, state in states if state.name != FINISHED]
        for cell, state in missing:
            complain(f"{cell.title}: {state.detail or state.name} ({cell.folder})")
        return BELOW_MINIMUM if missing else OK

    def _table(self, grid: Grid, states: Sequence[tuple[Cell, State]]) -> int:
        findings = gather(grid, states)
        if not findings.found:
            raise CheckpointError(
                f"{grid.folder}: no cell is finished yet; run the sweep without --table first"
            )
        self._show(findings)
        failed = [(cell, state) for cell, state in states if state.name == FAILED]
        for cell, state in failed:
            complain(f"{cell.title}: {state.detail} ({cell.folder})")
        return BELOW_MINIMUM if failed else OK

    def _show(self, findings: Findings) -> None:
        self._write(findings, plots=True)
        print(text(findings))
        print(f"\nresults: {findings.grid.folder / RESULTS_MARKDOWN}")

    def _write(self, findings: Findings, *, plots: bool) -> None:
        folder = findings.grid.folder
        found = document(findings, self.line)
        atomic_write(folder / RESULTS_JSON, json.dumps(found, indent=1, allow_nan=False) + "\n")
        drawn: dict[str, str] = {}
        if plots:
            from slr_det.plots.sweep import draw_sweep  # matplotlib takes a second to import

            drawn = draw_sweep(folder, found)
        atomic_write(folder / RESULTS_MARKDOWN, markdown(findings, self.line, drawn))


def _states(grid: Grid) -> list[tuple[Cell, State]]:
    return [(cell, state_of(cell)) for cell in grid.cells]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _count(value: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number of 1 or more")
    return int(value)

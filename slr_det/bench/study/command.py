"""``python -m slr_det.bench methods STUDY.yaml``: run a study, or say what it has found so far."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeVar

from slr_det.adapter import load_adapter
from slr_det.allocation import parse_rate
from slr_det.bench.study.cells import Cell, cells_of, clear, dense_cell, refuse_changed, state
from slr_det.bench.study.findings import Findings, document, gather
from slr_det.bench.study.load import load_study
from slr_det.bench.study.model import DENSE, Study
from slr_det.bench.study.run import Failure, How, run_cells, unfinished
from slr_det.bench.study.tables import markdown, text
from slr_det.bench.study.worker import PATIENCE, alone
from slr_det.cli import BELOW_MINIMUM, FAILED, OK, complain
from slr_det.errors import CheckpointError, ConfigError, nearest
from slr_det.files import atomic_write

MODULE = "python -m slr_det.bench methods"
RESULTS_JSON, RESULTS_MARKDOWN = "results.json", "results.md"

_T = TypeVar("_T")

DESCRIPTION = """\
Compare pruning methods. A study is one YAML file; every method starts from the same dense model and gets the same
data order, augmentation, optimizer, learning-rate schedule and number of epochs, retraining included. See
docs/studies.md for the format and the rules. The same command again continues a study that was interrupted."""

EXAMPLES = f"""\
examples:
  {MODULE} configs/studies/digits.yaml                  everything; table, results.md and plots in runs/digits
  {MODULE} configs/studies/digits.yaml --quick          one seed, the first rate: does everything run?
  {MODULE} configs/studies/digits.yaml --list           every cell and its state
  {MODULE} configs/studies/digits.yaml --report         table and plots from what is there
  {MODULE} configs/studies/digits.yaml --check          exit code 1 unless the first entry beats every baseline
  {MODULE} configs/studies/digits.yaml epochs=4 name=x  key=value words override the study's base"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("study", metavar="STUDY.yaml", type=Path, help="the study's file")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings that override the study's base"
    )
    parser.add_argument("--jobs", type=_count, metavar="N", help="cells at a time (cores / threads)")
    parser.add_argument("--threads", type=_count, metavar="N", help="CPU threads of each cell (1)")
    parser.add_argument(
        "--only", action="append", metavar="LABEL", help="run these entries only (repeatable)"
    )
    parser.add_argument("--rates", metavar="R,R", help="run these of the study's rates only")
    parser.add_argument("--seeds", metavar="N,N", help="run these of the study's seeds only")
    parser.add_argument("--quick", action="store_true", help="run the first rate with the first seed only")
    parser.add_argument(
        "--rerun",
        action="append",
        default=[],
        metavar="LABEL",
        help=f"throw away what this entry has done and run it again ('{DENSE}': the dense models; repeatable)",
    )
    parser.add_argument("--list", action="store_true", help="print the cells and their states; run nothing")
    parser.add_argument("--report", action="store_true", help="write table and plots again; run nothing")
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit with 1 unless the first entry beats every baseline at every rate",
    )
    parser.add_argument(
        "--min-margin",
        type=float,
        default=0.0,
        metavar="POINTS",
        help="by how many points, besides the spread, for --check (0)",
    )


class Methods:
    """One invocation of the command line."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.line = shlex.join([*MODULE.split(), str(options.study), *options.settings])
        self.study: Study | None = None
        self.chosen: list[Cell] = []

    def interrupted(self) -> str:
        """The line that says what is saved and how to go on; without --rerun, which would start over."""
        if self.study is None:
            return "interrupted; nothing was started"
        done = sum(state(cell) == "finished" for cell in self.chosen)
        limits = [
            word
            for name in ("only", "rates", "seeds", "jobs", "threads")
            if (value := getattr(self.options, name))
            for item in (value if isinstance(value, list) else [value])
            for word in (f"--{name}", str(item))
        ]
        limits += ["--quick"] if self.options.quick else []
        return (
            f"interrupted; {done} of {len(self.chosen)} cells are finished, and every finished epoch of the others is "
            f"saved in {self.study.folder}; continue with: {self.line} {shlex.join(limits)}".rstrip()
        )

    def run(self) -> int:
        """Do what the options say and return the exit code."""
        options = self.options
        study = load_study(options.study, options.settings)
        cells = cells_of(study)
        self.chosen = self._choose(study, cells)
        if options.list:
            width = max(len(cell.title) for cell in self.chosen)
            for cell in self.chosen:
                print(f"{cell.title:{width}s}  {state(cell)}")
            return OK
        failures: list[Failure] = []
        if not options.report:
            with alone(study.folder):
                self.study = study
                failures = self._run(study, cells)
        refuse_changed([*cells] if options.report else self.chosen)
        findings = gather(study, cells)
        if options.report and not findings.results:
            raise CheckpointError(
                f"{study.folder}: no cell is finished yet; run the study without --report first"
            )
        self._write(findings, plots=True)
        print(text(findings))
        print(f"\nresults: {study.folder / RESULTS_MARKDOWN}")
        for failure in failures:
            complain(f"{failure.cell.title}: {failure.error} ({failure.cell.folder})")
        if failures:
            return FAILED
        return self._check(findings) if options.check else OK

    def _run(self, study: Study, everything: Sequence[Cell]) -> list[Failure]:
        options = self.options
        known = [DENSE, *(entry.label for entry in study.entries)]
        for label in options.rerun:
            if label not in known:
                raise ConfigError(f"--rerun {label}: the study has no such entry{nearest(label, known)}")
        dense = {cell.folder: cell for cell in (dense_cell(study, cell.seed) for cell in self.chosen)}
        if DENSE in options.rerun:  # the cells that start from a dense model go with it
            options.rerun = known
        refuse_changed([*dense.values(), *self.chosen], options.rerun)
        for cell in [*dense.values(), *self.chosen]:
            if cell.label in options.rerun and cell.folder.is_dir():
                with alone(cell.folder, PATIENCE):
                    clear(cell)
        data = load_adapter(study.task.adapter).prepare_data(
            self.chosen[0].config.data, study.folder / "data"
        )
        threads = options.threads or int(study.base.get("train.threads") or 1)
        how = How(options.jobs or max(1, _cores() // threads), threads, str(data))

        def after(cell: Cell) -> str:
            findings = gather(study, everything)
            self._write(findings, plots=False)
            scores = [r.scores["final"] for r in findings.results if r.cell.folder == cell.folder]
            known = [score for score in scores if score is not None]
            return f"{study.task.metric} {known[0]:.4f}" if known else "done"

        def say(line: str) -> None:
            print(line, file=sys.stderr, flush=True)

        return run_cells(unfinished(self.chosen), how, say=say, after=after)

    def _choose(self, study: Study, cells: Sequence[Cell]) -> list[Cell]:
        options = self.options
        labels = _part("--only", options.only, [entry.label for entry in study.entries])
        rates = _part("--rates", _numbers("--rates", options.rates), study.rates)
        seeds = _part("--seeds", _numbers("--seeds", options.seeds), study.seeds)
        if options.quick:
            rates, seeds = rates[:1], seeds[:1]
        return [cell for cell in cells if cell.label in labels and cell.rate in rates and cell.seed in seeds]

    def _write(self, findings: Findings, *, plots: bool) -> None:
        folder = findings.study.folder
        found = document(findings, self.line)
        atomic_write(folder / RESULTS_JSON, json.dumps(found, indent=1) + "\n")
        drawn: dict[str, str] = {}
        if plots:
            from slr_det.plots.study import draw_study  # matplotlib takes a second to import

            drawn = draw_study(folder, found, findings.study.plots)
        atomic_write(folder / RESULTS_MARKDOWN, markdown(findings, self.line, drawn))

    def _check(self, findings: Findings) -> int:
        study = findings.study
        if not study.baselines:
            raise ConfigError(
                f"{study.path}: --check needs 'baselines', the entries that the first has to beat"
            )
        missed = False
        for rate in dict.fromkeys(cell.rate for cell in self.chosen):
            for baseline in study.baselines:
                verdict = findings.verdict(rate or 0.0, [baseline])
                if verdict is not None and not verdict.beats(self.options.min_margin / 100):
                    complain(f"check: {verdict.text()}")
                    missed = True
        return BELOW_MINIMUM if missed else OK


def _part(option: str, given: Collection[_T] | None, known: Sequence[_T]) -> list[_T]:
    if not given:
        return list(known)
    for item in given:
        if item not in known:
            names = ", ".join(map(_shown, known))
            raise ConfigError(f"{option}: the study has no '{_shown(item)}', only {names}")
    return [item for item in known if item in given]


def _shown(item: object) -> str:
    return f"{item:g}" if isinstance(item, float) else str(item)


def _numbers(option: str, given: str | None) -> list[float] | None:
    if given is None:
        return None
    try:
        return [parse_rate(part) if option == "--rates" else int(part) for part in given.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option} {given}: expected numbers with commas") from error


def _cores() -> int:
    """Cores that this process may use; a container often has fewer than the machine."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def _count(value: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number of 1 or more")
    return int(value)

"""The options of ``eval`` that make it a CI job, and what they do."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from slr_det.adapter import Adapter, EvalJob
from slr_det.cli import BELOW_MINIMUM, OK, complain
from slr_det.config import RunConfig
from slr_det.errors import SlrDetError, StorageError
from slr_det.gate.baseline import Baseline, read_baseline
from slr_det.gate.checks import Limits, judge, parse_limits
from slr_det.gate.files import STDOUT, Files
from slr_det.gate.measures import MEASURES, measure, size_of
from slr_det.gate.outcome import Outcome
from slr_det.gate.quantities import Quantity
from slr_det.task import Task

#: What the files say while nothing else is known: of a process that was killed they must not hold an older verdict.
UNFINISHED = "it did not come to its end: the process was killed, or the machine went down"


def add_gate_options(parser: argparse.ArgumentParser, task: Task) -> None:
    """Declare the options."""
    lines = "\n".join(f"  {name:13s} {measure.says}" for name, measure in MEASURES.items())
    usual = f"  {task.module} eval model=pruned.pt data={task.preset['data']}"
    parser.epilog = (
        f"{parser.epilog or ''}\n\nwhat --min, --max and --tolerance can name, besides the metrics:\n{lines}\n\n"
        f"examples:\n{usual} --min {task.minimum} --max bytes=12MB --junit eval.xml\n"
        f"{usual} --baseline baseline.json --tolerance 0.005 --json eval.json\n\n"
        "exit codes: 0 every limit is kept, 1 one is not, 2 it could not run (both files then hold the error)"
    )
    group = parser.add_argument_group("pass or fail, for CI (docs/ci.md)")
    group.add_argument(
        "--min",
        action="append",
        default=[],
        metavar="METRIC=VALUE",
        help=f"fail below it: {task.minimum} (repeatable)",
    )
    group.add_argument(
        "--max",
        action="append",
        default=[],
        metavar="METRIC=VALUE",
        help="fail above it: bytes=12MB, latency=30ms, seconds=10min (repeatable)",
    )
    group.add_argument(
        "--baseline",
        metavar="FILE",
        help="fail where the task's metrics are worse than in this report.json of a run, or --json file",
    )
    group.add_argument(
        "--tolerance",
        action="append",
        default=[],
        metavar="[METRIC=]VALUE",
        help="by how much they may be worse: 0.005, or for one metric bytes=1%% (repeatable; default 0)",
    )
    group.add_argument(
        "--json",
        nargs="?",
        const=STDOUT,
        metavar="FILE",
        help="write metrics and verdicts as JSON; without FILE to stdout, in place of the table",
    )
    group.add_argument("--junit", metavar="FILE", help="write the verdicts as JUnit XML")


def give_back_setting(options: argparse.Namespace) -> None:
    """``--json model=a.pt``: the word behind ``--json`` is a setting, not a file, and goes to the settings."""
    word = getattr(options, "json", None)
    if isinstance(word, str) and "=" in word and "/" not in word.partition("=")[0]:
        options.json = STDOUT
        options.settings = [*options.settings, word]


class Gate:
    """One evaluation with its limits, and the files that tell of it, whatever comes of it.

    Args:
        task: The command line.
        options: Of the verb, with :func:`add_gate_options`.
        command: The command line as it was given.
    """

    def __init__(self, task: Task, options: argparse.Namespace, command: str) -> None:
        self.task = task
        self.options = options
        self.began = time.monotonic()
        self.limits = Limits()
        self.baseline: Baseline | None = None
        self.outcome = Outcome(task.report_task, task.metric, command)
        suite = f"{task.module.removeprefix('python -m ')}.eval"
        self.files = Files(options.json, options.junit, suite)

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Whatever ends the block early is in the files before it goes on: a CI system then shows why.

        Both are written before anything takes time, so that one that cannot be written is known then.
        """
        self.files.refuse(self.options.baseline)
        try:
            self._write_files(replace(self.outcome, error=UNFINISHED), kind="Unfinished")
            yield
        except BaseException as error:
            message = str(error) if isinstance(error, SlrDetError) else f"{type(error).__name__}: {error}"
            self.outcome = replace(self.outcome, error=message.strip().rstrip(":"), checks=())
            try:
                self._write_files(self.outcome, kind=type(error).__name__)
            except StorageError as second:  # the first one is what the user has to know
                if str(second) != str(error):
                    complain(str(second))
            if self.options.json == STDOUT:
                self._print_json()
            raise

    def read(self) -> None:
        """Look at the options and the baseline, before anything takes time; ConfigError or DataError."""
        options = self.options
        against = options.baseline is not None
        self.limits = parse_limits(
            options.min, options.max, options.tolerance, against=against, example=self.task.minimum
        )
        if against:
            self.baseline = read_baseline(options.baseline, self.task)
            self.outcome = replace(self.outcome, baseline=self.baseline.source)

    def configured(self, config: RunConfig) -> None:
        """Take in the run's configuration; its ``min`` counts where the command line has none of that name."""
        given = {name.lower() for name in self.limits.least}
        own = {name: Quantity(value) for name, value in config.minimum.items() if name.lower() not in given}
        self.limits = replace(self.limits, least={**own, **self.limits.least})
        self.outcome = replace(self.outcome, model=config.weights or config.model, data=config.data)
        if self.baseline is not None and self.baseline.data not in ("", config.data):
            self._say(
                f"warning: the baseline was measured on data={self.baseline.data}, this is data={config.data}; "
                "compare them only where both are the same"
            )

    def judge(self, adapter: Adapter, job: EvalJob, metrics: Mapping[str, Any], seconds: float) -> int:
        """Measure what is asked for, judge it, tell of it, and return the exit code."""
        named = self.limits.named()
        saved = self.options.json is not None
        measures = {**size_of(self.outcome.model), "seconds": seconds}
        measures |= measure(adapter, job, named, everything=saved)
        measures = {name: measures[name] for name in MEASURES if name in measures and name not in metrics}
        self.outcome = replace(self.outcome, metrics=metrics, measures=measures)
        numbers = None if self.baseline is None else self.baseline.numbers
        checks = judge(self.task, {**metrics, **measures}, self.limits, numbers)
        self.outcome = replace(self.outcome, checks=checks)
        self._write_files(self.outcome)
        if self.options.json == STDOUT:
            self._print_json()
        else:
            print(self.outcome.table())
        for check in checks:
            if not check.passed:
                complain(check.failure)
        return OK if self.outcome.passed else BELOW_MINIMUM

    def _write_files(self, outcome: Outcome, kind: str = "") -> None:
        self.files.write(outcome, time.monotonic() - self.began, kind)

    def _print_json(self) -> None:
        print(json.dumps(self.outcome.document(), indent=1, allow_nan=False))

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

"""The command line that every task shares: what each verb does, and with which settings."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slr_det.adapter import Adapter, EvalJob, load_adapter
from slr_det.arguments import parse
from slr_det.cli import BELOW_MINIMUM, OK, complain, run, with_default_verb
from slr_det.config import RunConfig, load_config
from slr_det.config.sources import read_content
from slr_det.engines.verb import bench_network, bench_settings, bench_words
from slr_det.engines.verb import lines_of as bench_lines
from slr_det.errors import CheckpointError, ConfigError
from slr_det.export import check_settings, export_network
from slr_det.export.verb import lines_of, settings_of, target_of
from slr_det.gate import Gate
from slr_det.metrics.minimum import check_minimum
from slr_det.pipeline import Pipeline, allocations_for
from slr_det.ranks import current, together
from slr_det.report import load_report, refresh_report, summary_table
from slr_det.runstate import CONFIG_FILE, RunState, new_folder
from slr_det.sensitivity import SensitivityTable
from slr_det.sensitivity_scan import scan_checkpoint
from slr_det.task import Task
from slr_det.upstream.seams import require_at_start

# What may differ between a run and its continuation without changing what it computes.
FREE_ON_RESUME = frozenset({"device", "min", "paper"})
# `retrain` knows the pruned checkpoint alone: a recipe goes without its distillation there, a user who asks is told.
NO_TEACHER = {
    "distill": "`retrain` has no dense model to learn from; leave it out, or run `compress`, which has one"
}


def start(task: Task, arguments: Sequence[str] | None = None) -> int:
    """Run the command line of a task and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def action() -> int:
        command = Command(task, parse(task, with_default_verb(given, task.verbs, "compress")), given)
        return run(command.run, on_interrupt=command.interrupted, memory=task.memory)

    return together(action)


class Command:
    """One invocation of the command line."""

    def __init__(self, task: Task, options: argparse.Namespace, given: Sequence[str]) -> None:
        self.task = task
        self.options = options
        team = current()
        launcher = "python -m" if team is None else team.place.launcher
        #: How the command line is started, without its arguments.
        self.module = task.module.replace("python -m", launcher, 1)
        self.line = shlex.join([*shlex.split(self.module), *given])
        self.pipeline: Pipeline | None = None
        self._adapter: Adapter | None = None

    @property
    def adapter(self) -> Adapter:
        """The task's adapter, loaded when first needed: `report` and other verbs do without."""
        if self._adapter is None:
            name = self.task.adapter_of(self._backend())
            if current() is not None and name not in self.task.ranks:
                raise ConfigError(
                    f"the trainer of {self.task.module} ({name}) does not run under torchrun; start it with python -m, "
                    "and where it can use several GPUs, name them: --device 0,1"
                )
            self._adapter = load_adapter(name)
        return self._adapter

    def run(self) -> int:
        """Do what the verb says."""
        shared = {
            "compress": self._compress,
            "train": self._train,
            "analyze": self._analyze,
            "retrain": self._retrain,
            "eval": self._eval,
            "report": self._report,
            "export": self._export,
            "bench": self._bench,
        }
        if self.options.verb in shared:
            return shared[self.options.verb]()
        (extra,) = (verb for verb in self.task.extra if verb.name == self.options.verb)
        return extra.run(self.options)

    def interrupted(self) -> str:
        """The line that says what is saved and how to go on."""
        team = current()
        reason = "interrupted" if team is None else team.reason()
        if self.pipeline is None:
            return f"{reason}; nothing was started"
        return f"{reason} during {self.pipeline.current}; {self._how_to_go_on(self.pipeline.folder)}"

    def _how_to_go_on(self, folder: Path) -> str:
        return (
            f"every finished epoch is saved in {folder}; "
            f"continue with: {self.module} {self.options.verb} --resume {shlex.quote(str(folder))}"
        )

    # -- verbs --------------------------------------------------------------------------------------------

    def _compress(self) -> int:
        report = self._open_pipeline().compress()
        print(summary_table(report))
        print(f"report: {self._folder() / 'report.md'}")
        return self._check(report["phases"][report["final_phase"]]["metrics"])

    def _train(self) -> int:
        result = self._open_pipeline().train_dense()
        print(f"model: {self._folder() / 'dense.pt'}")
        return self._check(result["metrics"])

    def _retrain(self) -> int:
        before, after = self._open_pipeline().retrain()
        metric = self.task.metric
        print(f"{metric} {before['metrics'][metric]:.4f} -> {after['metrics'][metric]:.4f}")
        print(f"model: {self._folder() / 'retrained.pt'}")
        return self._check(after["metrics"])

    def _analyze(self) -> int:
        config = self._config()
        classes = None
        if not self.adapter.is_checkpoint(config.model) and config.data and self._data_given():
            classes = self.adapter.classes(self._data(config))
        info = self.adapter.inspect(config.model, classes, config.weights)
        if self.options.sensitivity:
            print(self._scan(config))
        allocations = allocations_for(self.task, config, info)
        if self.options.json:
            rows: Any = {name: allocation.rows() for name, allocation in allocations.items()}
            print(json.dumps(rows if len(rows) > 1 else next(iter(rows.values())), indent=1))
            return OK
        for name, allocation in allocations.items():
            if len(allocations) > 1:
                print(f"prune.scope={name}: {self.task.scopes[name].says}")
            print(allocation.table(), end="\n" if name == list(allocations)[-1] else "\n\n")
        return OK

    def _eval(self) -> int:
        gate = Gate(self.task, self.options, self.line)
        with gate.telling():
            gate.read()
            config = self._config()
            gate.configured(config)
            data = self._data(config)
            with self._start_of(config, data) as model:
                job = EvalJob(model, str(data), config.train, config.device, self.options.verbose)
                began = time.monotonic()
                metrics = self.adapter.evaluate(job)
                return gate.judge(self.adapter, job, metrics, time.monotonic() - began)

    def _report(self) -> int:
        report = load_report(self.options.run)
        if self.options.json:
            print(json.dumps(report, indent=1))
            return OK
        path = refresh_report(self.options.run)
        print(summary_table(report))
        print(f"report: {path}")
        return OK

    def _export(self) -> int:
        settings = settings_of(self.options)
        config = self._config()
        target = target_of(self.options, config.model)
        check_settings(target, settings)
        data = self._data(config)
        with self._start_of(config, data) as model:
            job = EvalJob(model, str(data), config.train, config.device, self.options.verbose)
            found = export_network(self.adapter.exportable(job), target, settings, say=self._say)
        if self.options.json:
            print(json.dumps(found.to_dict(), indent=1))
            return OK
        print("\n".join(lines_of(found, self.task.scores)))
        print(f"{self.options.format:9s} {found.file}")
        return OK

    def _bench(self) -> int:
        settings = bench_settings(self.options)
        if self.options.config is None:
            self.options.settings = bench_words(self.options.settings, self.task.preset["data"])
        config = self._config()
        data = self._data(config)
        with self._start_of(config, data) as model:
            job = EvalJob(model, str(data), config.train, "cpu", self.options.verbose)
            found = bench_network(
                self.adapter.exportable(job), settings, Path(config.model).name, say=self._say
            )
        if self.options.json:
            print(json.dumps(found.to_dict(), indent=1))
        else:
            print(bench_lines(found, settings.folder))
        return OK

    # -- parts --------------------------------------------------------------------------------------------

    def _scan(self, config: RunConfig) -> SensitivityTable:
        trained = self.adapter.is_checkpoint(config.model) or config.weights
        if not trained or not config.data:
            raise ConfigError("--sensitivity evaluates a trained model: give model=FILE.pt and data=...")
        folder = Path(self.options.sensitivity)
        data = self.adapter.prepare_data(config.data, folder / "data")
        cache = folder / "sensitivity.json"
        with self._start_of(config, data) as model:
            info = self.adapter.inspect(model)
            return scan_checkpoint(config, self.adapter, info, model, data, cache, self.task.metric)

    @contextmanager
    def _start_of(self, config: RunConfig, data: Path) -> Iterator[str]:
        """The model to look at; weights that were given for an architecture become a checkpoint for the time being."""
        if not config.weights:
            yield config.model
            return
        with tempfile.TemporaryDirectory(prefix="slr-det-start-") as scratch:
            yield self.adapter.given(config.model, config.weights, data, Path(scratch) / "start.pt")

    def _data(self, config: RunConfig) -> Path:
        return self.adapter.prepare_data(config.data, Path(config.project) / "data")

    def _check(self, metrics: dict[str, Any]) -> int:
        minimum = dict(self.pipeline.config.minimum) if self.pipeline else {}
        failures = check_minimum(metrics, minimum, self.task.metric_aliases, self.task.lower_is_better)
        for failure in failures:
            complain(failure)
        return BELOW_MINIMUM if failures else OK

    def _open_pipeline(self) -> Pipeline:
        verb = self.options.verb
        if self.options.resume:
            folder = Path(self.options.resume)
            state = RunState.open(folder)
            config = self._config(folder / CONFIG_FILE)
            self._refuse_changes(folder, config)
            if state.verb != verb:
                raise CheckpointError(
                    f"{folder} is a run of '{state.verb}'; continue it with: {self.task.module} {state.verb} "
                    f"--resume {folder}"
                )
            state.check_start(config)
        else:
            config = self._config()
            if verb == "train" and config.dense_epochs == 0:
                raise ConfigError("nothing says how long to train; give --epochs N")
            folder = new_folder(config.project, config.name)
            state = RunState.create(folder, config, verb)
        self.pipeline = Pipeline(
            self.task, config, self.adapter, state, command=self.line, verbose=self.options.verbose
        )
        team = current()
        if team is not None:
            team.hint = self._how_to_go_on(folder)
            team.prepare(self.task.adapter_of(config.backend), config.data)
        return self.pipeline

    def _refuse_changes(self, folder: Path, config: RunConfig) -> None:
        """A run continues as it was begun: anything else would mix two experiments in one set of weights."""
        saved = load_config(
            folder / CONFIG_FILE, [], defaults={}, trainer_keys=self.adapter.trainer_keys()
        ).to_dict()
        changed = [
            key
            for key, value in config.to_dict().items()
            if value != saved[key] and key not in FREE_ON_RESUME
        ]
        if changed:
            key = changed[0]
            raise CheckpointError(
                f"{folder}: the run was started with {key}={saved[key]!r}, not {config.to_dict()[key]!r}; "
                "leave it out to continue, or start a new run"
            )

    def _config(self, path: Path | None = None) -> RunConfig:
        """Settings of this invocation: those of ``path`` (or --config, or the defaults), then the command line's."""
        options = self.options
        file = path or options.config
        named = {
            "method": "method",
            "compression": "prune.target_compression",
            "backend": "backend",
            "device": "device",
            "name": "name",
        }
        # `epochs=` on the command line, like --epochs, means those of the verb: it would go unheard otherwise.
        epochs = {"train": "dense_epochs", "retrain": "retrain_epochs"}.get(options.verb, "epochs")
        named["epochs"] = epochs
        named["retrain_epochs"] = "retrain_epochs"
        extra = [
            f"{key}={getattr(options, option)}"
            for option, key in named.items()
            if getattr(options, option, None) is not None
        ]
        given = [
            f"{epochs}={word.removeprefix('epochs=')}" if word.startswith("epochs=") else word
            for word in options.settings
        ]
        settings = [*given, *extra]
        usual = self.task.adapter_of(self._backend()) == self.task.adapter
        embedded = usual and file is None and not any(s.startswith(("data=", "model=")) for s in settings)
        config = load_config(
            file,
            settings,
            defaults=self.task.preset if embedded else {"recipe": self.task.recipe},
            trainer_keys=self.adapter.trainer_keys(),
            required=("model",) if options.verb == "analyze" else ("model", "data"),
            task=self.task.name,
            unsupported={**self.adapter.unsupported(), **(NO_TEACHER if options.verb == "retrain" else {})},
            scopes=self.task.scope_settings,
        )
        for phase in ({}, config.dense, config.retrain):
            self.adapter.check_arguments({**config.train, **phase})
        require_at_start(self.adapter, config.model, config.train)
        return config

    def _backend(self) -> str:
        """The backend that is asked for, which has to be known before the rest of the settings can be read."""
        options = self.options
        if getattr(options, "backend", None):
            return str(options.backend)
        words = [word.partition("=")[2] for word in options.settings if word.startswith("backend=")]
        if words:
            return str(words[-1])
        resumed = getattr(options, "resume", None)
        file = Path(resumed) / CONFIG_FILE if resumed else options.config
        found = None if file is None else read_content(file, []).get("backend")
        return "" if found is None else str(found)

    def _data_given(self) -> bool:
        return bool(self.options.config) or any(s.startswith("data=") for s in self.options.settings)

    def _say(self, line: str) -> None:
        if not self.options.json:
            print(f"{line} ...", file=sys.stderr, flush=True)

    def _folder(self) -> Path:
        if self.pipeline is None:
            raise ConfigError("no run was started")
        return self.pipeline.folder

"""The road from a dense model to a compressed one, in phases that each leave a file and can be continued.

dense -> train under the method -> hard pruning -> batch-norm recalibration -> masked retraining -> report
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from slr_det.adapter import Adapter, ModelInfo, TrainJob
from slr_det.allocation import Allocation, allocate
from slr_det.config import RunConfig
from slr_det.errors import CheckpointError, ConfigError
from slr_det.files import atomic_write
from slr_det.groups import build_groups
from slr_det.jobs import Jobs
from slr_det.masks import supports
from slr_det.report import compression, write_report
from slr_det.runstate import RunState
from slr_det.sensitivity_scan import scan_checkpoint
from slr_det.storage import pack
from slr_det.task import Task

PHASES = ("dense", "hard_prune", "bn_recalibrated", "retrain")


def allocate_for(task: Task, config: RunConfig, info: ModelInfo, scanned: Path | None = None) -> Allocation:
    """Decide how much of each layer is kept; ``scanned`` is the file of a sensitivity scan."""
    prune = config.prune
    return allocate(
        info.layers,
        projection=prune.projection,
        method=prune.allocation,
        keep=prune.keep,
        target_compression=prune.target_compression,
        compression_over=prune.compression_over,
        model_parameters=info.parameters,
        weights=info.weights,
        ratios=prune.ratios,
        sensitivity=scanned or prune.sensitivity or None,
        include=prune.include,
        exclude=prune.exclude,
        dense_first=prune.dense_first,
        dense_head=prune.dense_head,
        head=task.head,
        groups=prune.groups,
    )


def allocations_for(task: Task, config: RunConfig, info: ModelInfo) -> dict[str, Allocation]:
    """What is kept under each of the task's scopes, by name; one alone where the user has chosen.

    Raises:
        ConfigError: No scope allows what is asked for; that of the first.
    """
    prune = config.prune
    chosen = prune.scope or prune.include or prune.exclude or prune.groups or prune.ratios
    usual = next(iter(task.scope_settings.values()), {})
    if not task.scopes or chosen or any(getattr(prune, key) != value for key, value in usual.items()):
        return {prune.scope: allocate_for(task, config, info)}
    found: dict[str, Allocation] = {}
    failed: list[ConfigError] = []
    for name, settings in task.scope_settings.items():
        try:
            found[name] = allocate_for(task, replace(config, prune=replace(prune, **settings)), info)
        except ConfigError as error:
            failed.append(error)
    if not found:
        raise failed[0]
    return found


class Pipeline:
    """One run: a configuration, an adapter and a folder.

    Args:
        task: What is compressed and by which metric it is judged.
        config: The validated configuration.
        adapter: The trainer to work in.
        state: The run's folder and what has been done in it.
        command: The command line, for the report.
        verbose: Show the trainer's own log.
        say: Where progress lines go.
    """

    def __init__(
        self,
        task: Task,
        config: RunConfig,
        adapter: Adapter,
        state: RunState,
        *,
        command: str,
        verbose: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.task = task
        self.config = config
        self.adapter = adapter
        self.state = state
        self.folder = state.folder
        self.command = command
        self.say = say or (lambda line: print(line, file=sys.stderr, flush=True))
        self.current = "start"
        self.data = adapter.prepare_data(config.data, self.folder / "data")
        self.jobs = Jobs(config, self.data, verbose)
        self.start = self.folder / "start.pt"

    # -- the two jobs of the command line -----------------------------------------------------------------

    def train_dense(self) -> dict[str, Any]:
        """Train a dense model and evaluate it; returns the phase's result."""
        return self._dense()

    def compress(self) -> dict[str, Any]:
        """Run every phase for every method and write the report; returns the report."""
        self._refuse_early()
        self._dense()
        info = self.adapter.inspect(str(self.folder / "dense.pt"))
        allocation = allocate_for(self.task, self.config, info, self._scan(info))
        self.say(allocation.table())
        for method in self.config.method:
            self._compress_with(method, allocation)
            report = self._report(allocation, info)
        return report

    def retrain(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Train a pruned model on, its zeros held; returns the phases before and after."""
        given = self._given()
        info = self.adapter.inspect(given)
        body = [info.weights[layer.name] for layer in info.layers if layer.role == "body"]
        zeros = sum(int((w == 0).sum()) for w in body)
        # A dense layer may hold a chance zero, and constants of a head do.
        if zeros < 0.001 * sum(w.numel() for w in body):
            raise ConfigError(f"model={given} has no pruned weights; `train` is the verb for a dense model")
        job = self.jobs.retraining(self.folder / "retrain", "masked retraining", given, None)
        before = self._evaluate("before", Path(given), 0, ())
        return before, self._masked_retraining(job, "")

    def _refuse_early(self) -> None:
        """Raise what the allocation will not be able to do before hours of dense training, not after."""
        if self.state.done("dense/train") or self._needs_scan():
            return
        model = self.config.model
        classes = None if self.adapter.is_checkpoint(model) else self.adapter.classes(self.data)
        allocate_for(self.task, self.config, self.adapter.inspect(model, classes))

    def _needs_scan(self) -> bool:
        return self.config.prune.allocation == "sensitivity" and not self.config.prune.sensitivity

    def _scan(self, info: ModelInfo) -> Path | None:
        """Scan the dense model where the allocation needs it and no scan is given; resumable like the rest."""
        if not self._needs_scan():
            return None
        self._start("sensitivity scan")
        path = self.folder / "sensitivity.json"
        dense = str(self.folder / "dense.pt")
        scan_checkpoint(self.config, self.adapter, info, dense, self.data, path, self.task.metric)
        return path

    # -- phases -------------------------------------------------------------------------------------------

    def _dense(self) -> dict[str, Any]:
        target = self.folder / "dense.pt"
        job = self.jobs.dense(self.folder / "dense")
        if not self.state.done("dense/train"):
            started = self._start("dense/train")
            if self.config.dense_epochs > 0:
                self.adapter.train(job, resume=True)
                source = self.adapter.last(job.folder)
            else:
                source = self._given()
            self.adapter.export(source, target, job)
            self.state.finish("dense/train", {"seconds": time.monotonic() - started})
            self.start.unlink(missing_ok=True)  # dense.pt holds the same weights
        return self._evaluate("dense", target, self.config.dense_epochs, ("dense/train",))

    def _given(self) -> str:
        """The checkpoint that the user starts from; ConfigError where there is none or it is for other classes."""
        config = self.config
        start = self.adapter.given(config.model, config.weights, self.data, self.start)
        found, wanted = self.adapter.inspect(start).classes, self.adapter.classes(self.data)
        if found != wanted:
            what = f"weights={config.weights}" if config.weights else f"model={config.model}"
            raise ConfigError(
                f"{what} predicts {found} classes but data={config.data} has {wanted}; train it on "
                "that data first with dense_epochs=N"
            )
        return start

    def _compress_with(self, method: str, allocation: Allocation) -> None:
        folder = self.folder / method
        groups = allocation.specs()
        job = self.jobs.method(folder / "train", method, self.folder / "dense.pt", groups)
        if not self.state.done(f"{method}/train"):
            started = self._start(f"{method}/train")
            history = self.adapter.train(job, resume=True)
            seconds = time.monotonic() - started
            self.state.finish(f"{method}/train", {"seconds": seconds, "history": history})

        hard = folder / "hard_pruned.pt"
        if not self.state.done(f"{method}/prune"):
            self._start(f"{method}/prune")
            source = self.adapter.last(job.folder)
            weights = self.adapter.averaged(source)
            masks = supports(build_groups(weights, groups))
            kept = {name: weights[name].masked_fill(~mask, 0.0) for name, mask in masks.items()}
            self.adapter.export(source, hard, replace(job, title=f"{method} hard_prune"), kept)
            self.state.finish(f"{method}/prune", {})
        self._evaluate(f"{method}/hard_prune", hard, self.config.epochs, (f"{method}/train",))
        latest = hard

        if self.config.bn_recalibrate:
            target = folder / "recalibrated.pt"
            if not self.state.done(f"{method}/recalibrate"):
                started = self._start(f"{method}/recalibrate")
                self.adapter.recalibrate(
                    str(hard), target, replace(job, title=f"{method} batch-norm recalibration")
                )
                self.state.finish(f"{method}/recalibrate", {"seconds": time.monotonic() - started})
            self._evaluate(f"{method}/bn_recalibrated", target, 0, (f"{method}/recalibrate",))
            latest = target

        if self.config.retrain_epochs > 0:
            title = f"{method} masked retraining"
            dense = self.folder / "dense.pt"
            retraining = self.jobs.retraining(folder / "retrain", title, str(latest), dense)
            self._masked_retraining(retraining, f"{method}/")
            latest = folder / "retrained.pt"
        atomic_write(folder / "pruned.pt", latest.read_bytes())
        self._pack(folder)

    def _pack(self, folder: Path) -> None:
        """Write the pruned checkpoint in its small form too; an adapter's own kind of file has none."""
        target = folder / "pruned.slr"
        try:
            pack(folder / "pruned.pt", target)
        except CheckpointError as error:
            target.unlink(missing_ok=True)
            self.say(f"not packed: {error}")

    def _masked_retraining(self, job: TrainJob, prefix: str) -> dict[str, Any]:
        target = Path(job.folder).with_name("retrained.pt")
        if not self.state.done(f"{prefix}retrain_train"):
            started = self._start(f"{prefix}retrain_train")
            history = self.adapter.train(job, resume=True)
            self.adapter.export(self.adapter.last(job.folder), target, job)
            seconds = time.monotonic() - started
            # A study looks for the epoch at which a target is reached, whichever phase it falls into.
            self.state.finish(f"{prefix}retrain_train", {"seconds": seconds, "history": history})
        return self._evaluate(f"{prefix}retrain", target, job.epochs, (f"{prefix}retrain_train",))

    def _evaluate(self, phase: str, checkpoint: Path, epochs: int, cost: tuple[str, ...]) -> dict[str, Any]:
        if self.state.done(phase):
            return self.state.phases[phase]
        self._start(phase)
        metrics = self.adapter.evaluate(self.jobs.evaluation(checkpoint))
        self.say(f"{phase}: {self.task.scores(metrics)}  ({checkpoint})")
        seconds = sum(self.state.phases.get(name, {}).get("seconds", 0.0) for name in cost)
        return self.state.finish(
            phase,
            {
                "metrics": metrics,
                "checkpoint": os.path.relpath(checkpoint, self.folder),
                "epochs": epochs,
                "seconds": seconds,
            },
        )

    # -- report -------------------------------------------------------------------------------------------

    def _report(self, allocation: Allocation, info: ModelInfo) -> dict[str, Any]:
        methods = [m for m in self.config.method if self.state.done(f"{m}/hard_prune")]
        results = {method: self._result(method, allocation) for method in methods}
        first = methods[0]
        report = {
            "task": self.task.report_task,
            "metric": self.task.metric,
            "name": self.folder.name,
            "command": self.command,
            "seed": self.config.seed,
            "device": self.config.device or "auto",
            "config": self.config.to_dict(),
            **results[first],
            "others": {method: results[method] for method in methods[1:]},
            "paper": self.config.paper,
            "warnings": self._warnings(methods),
        }
        if methods == list(self.config.method):
            report["pictures"] = self._pictures(methods)
        after = self.adapter.averaged(str(self.folder / first / "pruned.pt"))
        write_report(self.folder, report, weights_before=info.weights, weights_after=after)
        for name in ("pruned.pt", "pruned.slr"):
            if (self.folder / first / name).is_file():
                atomic_write(self.folder / name, (self.folder / first / name).read_bytes())
        return report

    def _result(self, method: str, allocation: Allocation) -> dict[str, Any]:
        phases = {"dense": self.state.phases["dense"]}
        phases |= {
            p: self.state.phases[f"{method}/{p}"] for p in PHASES[1:] if self.state.done(f"{method}/{p}")
        }
        pruned = self.folder / method / "pruned.pt"
        files = {"dense": self.folder / "dense.pt", "pruned": pruned, "packed": pruned.with_suffix(".slr")}
        counts = compression(self.adapter.averaged(str(pruned)), allocation.rows(), parts=self.task.parts)
        return {
            "method": method,
            "phases": phases,
            "final_phase": list(phases)[-1],
            "compression": counts,
            "bytes": {name: path.stat().st_size for name, path in files.items() if path.is_file()},
            "history": self.state.phases[f"{method}/train"]["history"],
        }

    def _pictures(self, methods: list[str]) -> dict[str, dict[str, str]]:
        """What the dense and the pruned models make of a few samples, drawn beside the plots."""
        self._start("pictures")
        models = {name: f"{name}/pruned.pt" for name in methods}
        paths = {name: str(self.folder / file) for name, file in {"dense": "dense.pt", **models}.items()}
        drawn = self.adapter.illustrate(paths, self.jobs.evaluation(paths["dense"]), self.folder / "pictures")
        return {
            picture.name: {
                "file": f"pictures/{picture.file}",
                "title": picture.title,
                "caption": picture.caption,
            }
            for picture in drawn
        }

    def _warnings(self, methods: list[str]) -> list[str]:
        records = [record for method in methods for record in self.state.phases[f"{method}/train"]["history"]]
        return list(dict.fromkeys(record["warning"] for record in records if "warning" in record))

    # -- small parts --------------------------------------------------------------------------------------

    def _start(self, phase: str) -> float:
        self.current = phase
        return time.monotonic()

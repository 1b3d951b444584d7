"""The adapter protocol answered with ultralytics. Nothing of ultralytics is imported before it is needed."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from slr_det.adapter import EvalJob, ModelInfo, Picture, TrainJob
from slr_det.data.detection import resolve
from slr_det.errors import CheckpointError, ConfigError
from slr_det.export.exportable import Exportable
from slr_det.models.weights import replace_weights
from slr_det.shrink import Shrinkage
from slr_det_adapters.refusals import refuse_unsupported
from slr_det_adapters.ultralytics.offline import load_ultralytics

# Set by the pipeline itself; a user who passes one of these is told which option to use instead.
OWNED_ARGUMENTS = {
    "model": "model=...",
    "data": "data=...",
    "epochs": "--epochs",
    "resume": "--resume",
    "project": "project=...",
    "name": "name=...",
    "save_dir": "project=... and name=...",
    "mode": "the verb",
    "task": "nothing: detection is the only task",
    "seed": "seed=...",
    "device": "--device",
    "save": "nothing: checkpoints are always saved",
    "exist_ok": "nothing: a run never overwrites another",
}


#: Settings of a run that need a training loop of our own, or weights without a model in their file.
UNSUPPORTED = {
    "weights": "an ultralytics checkpoint brings its own architecture; give it as model=FILE.pt",
    "iterations_per_epoch": "ultralytics' trainer ends an iteration with each epoch; raise epochs=... instead",
    "one_schedule": "ultralytics' trainer has a learning-rate schedule for each phase; set lr0 and retrain.lr0",
    "distill": "ultralytics' trainer has no distillation; leave it out",
    "distill_temperature": "ultralytics' trainer has no distillation; leave it out",
}


#: Those that its trainer builds, in any case of letters.
OPTIMIZERS = ("auto", "SGD", "MuSGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop")


class UltralyticsAdapter:
    """YOLOv3 to the current series and RT-DETR, trained by ultralytics' own trainer."""

    name = "ultralytics"

    def trainer_keys(self) -> frozenset[str]:
        """All train arguments of ultralytics but those that the pipeline sets."""
        load_ultralytics()
        from ultralytics.utils import DEFAULT_CFG_DICT

        return frozenset(DEFAULT_CFG_DICT) - OWNED_ARGUMENTS.keys()

    def check_arguments(self, given: Mapping[str, Any]) -> None:
        """Refuse values that ultralytics does, at once or once it trains."""
        load_ultralytics()
        from ultralytics.cfg import get_cfg

        try:
            get_cfg(overrides=dict(given))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"ultralytics refuses an argument: {error}") from error
        problems = []
        optimizer, size = str(given.get("optimizer", "auto")), given.get("imgsz", 640)
        if optimizer.lower() not in map(str.lower, OPTIMIZERS):
            problems.append(f"optimizer is {optimizer!r}, expected one of {', '.join(OPTIMIZERS)}")
        if not all(type(edge) is int and edge > 0 for edge in (size if isinstance(size, list) else [size])):
            problems.append(f"imgsz is {size!r}, expected a whole number of pixels, such as 640")
        if problems:
            raise ConfigError(problems)

    def unsupported(self) -> Mapping[str, str]:
        """What needs a training loop or weights of our own."""
        return UNSUPPORTED

    def prepare_data(self, data: str, workdir: Path) -> Path:
        """An ultralytics data YAML for a data YAML, a COCO JSON, a folder in COCO or YOLO layout, or ``shapes``."""
        return resolve(data, workdir=workdir)

    def classes(self, data: Path) -> int:
        """Number of classes of a data YAML."""
        import yaml

        return len(yaml.safe_load(Path(data).read_text(encoding="utf-8"))["names"])

    def is_checkpoint(self, model: str) -> bool:
        """A ``.pt`` file is a checkpoint, all else an architecture."""
        return model.endswith(".pt")

    def inspect(self, model: str, classes: int | None = None, weights: str = "") -> ModelInfo:
        """Layers and weights of a ``.pt`` checkpoint or of an architecture ``.yaml``."""
        from slr_det_adapters.ultralytics import models

        _refuse_weights(weights)
        if model.endswith((".yaml", ".yml")):
            return models.describe(models.build_architecture(model, classes))
        if not self.is_checkpoint(model):
            raise ConfigError(f"model '{model}' is neither a .pt checkpoint nor a .yaml architecture")
        return models.describe(models.load_native(model)[0])

    def given(self, model: str, weights: str, data: Path, target: Path) -> str:
        """The checkpoint ``model`` itself: an architecture file has no weights."""
        _refuse_weights(weights)
        if not self.is_checkpoint(model):
            raise ConfigError(
                f"model={model} is an architecture without weights; give a trained .pt, or train one first "
                "with dense_epochs=N"
            )
        return model

    def last(self, folder: str) -> str:
        """Where ultralytics' trainer writes after every epoch."""
        return str(Path(folder) / "weights" / "last.pt")

    def train(self, job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
        """Run ultralytics' trainer, in this process or, for several GPUs, through its own launcher."""
        load_ultralytics()
        from slr_det_adapters.ultralytics import models
        from slr_det_adapters.ultralytics.trainer import JOB_VARIABLE, SLRDetectionTrainer, SLRRTDETRTrainer

        refuse_unsupported(job, UNSUPPORTED)
        folder = Path(job.folder)
        last = Path(self.last(job.folder))
        done, planned, history = self._progress(last)
        if done >= job.epochs:
            return history
        resume = resume and done > 0
        if resume and planned != job.epochs:
            # The trainer itself would go on with the checkpoint's number of epochs and only log that it did.
            raise CheckpointError(
                f"{last}: the run was started for {planned} epochs, not {job.epochs}; resume with {planned}, "
                "or start a new run"
            )
        checkpoint = self.is_checkpoint(job.model)
        start = job.model if checkpoint else models.find_architecture(job.model)
        if checkpoint:
            rtdetr = type(models.load_native(job.model)[0]).__name__.startswith("RTDETR")
        else:
            rtdetr = "rtdetr" in Path(job.model).stem.lower()
        overrides = {
            **job.args,
            "task": "detect",
            "mode": "train",
            "model": str(last) if resume else start,
            "data": job.data,
            "epochs": job.epochs,
            "seed": job.seed,
            "device": job.device or None,
            "project": str(folder.parent.resolve()),
            "name": folder.name,
            "exist_ok": True,
            "save": True,
            "patience": job.args.get(
                "patience", 0
            ),  # a method needs all its iterations: no early stop unasked
            "plots": bool(job.args.get("plots", False)),
            "resume": str(last) if resume else False,
        }
        folder.mkdir(parents=True, exist_ok=True)
        with _job_file(job, JOB_VARIABLE), quiet(job.verbose):
            trainer = (SLRRTDETRTrainer if rtdetr else SLRDetectionTrainer)(overrides=overrides)
            trainer.train()
        done, _, history = self._progress(last)
        if done < job.epochs:
            raise CheckpointError(
                f"training stopped before epoch {job.epochs} (early stopping or a time limit); raise patience=... "
                f"or remove time=...: a method needs all its iterations; what was trained is in {last}"
            )
        return history

    def export(
        self, source: str, target: Path, job: TrainJob, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write ``source``'s averaged model as a native inference checkpoint, with ``weights`` instead of its own."""
        from slr_det_adapters.ultralytics import models

        model, args = models.averaged_model(source)
        if weights is not None:
            replace_weights(model, weights)
        models.write_native(
            target, model, {**args, **job.args, "data": job.data, "model": source}, phase=job.title
        )

    def averaged(self, source: str) -> dict[str, Tensor]:
        """Parameters of the averaged model of a checkpoint."""
        from slr_det_adapters.ultralytics import models

        return {name: p.detach() for name, p in models.averaged_model(source)[0].named_parameters()}

    def evaluate(self, job: EvalJob) -> dict[str, Any]:
        """COCO metrics by pycocotools and the trainer's own, of what plain ``YOLO(file).val()`` predicts."""
        from slr_det_adapters.ultralytics.evaluation import evaluate_checkpoint

        with quiet(job.verbose):
            return evaluate_checkpoint(job)

    def exportable(self, job: EvalJob) -> Exportable:
        """The whole detector up to the decoded boxes, as ultralytics itself exports it."""
        from slr_det_adapters.ultralytics.exporting import exportable_of

        return exportable_of(job)

    def recalibrate(self, source: str, target: Path, job: TrainJob) -> None:
        """Re-estimate batch-norm statistics on un-augmented training images."""
        from slr_det_adapters.ultralytics.recalibration import recalibrate_checkpoint

        with quiet(job.verbose):
            recalibrate_checkpoint(source, target, job)

    def shrink(self, source: str, target: Path) -> Shrinkage:
        """Write the (averaged) model of ``source`` without its dead filters, as a native checkpoint."""
        from slr_det_adapters.ultralytics.shrinking import shrink_checkpoint

        return shrink_checkpoint(source, target)

    def sums(self, model: str) -> list[tuple[str, ...]]:
        """Layers of a checkpoint or an architecture that need one mask to shrink."""
        from slr_det_adapters.ultralytics.shrinking import sums_of

        return sums_of(model)

    def illustrate(self, models: Mapping[str, str], job: EvalJob, folder: Path) -> list[Picture]:
        """Draw true and predicted boxes of a few validation images."""
        from slr_det_adapters.ultralytics.pictures import illustrate

        with quiet(job.verbose):
            return illustrate(models, job, folder)

    def _progress(self, last: Path) -> tuple[int, int | None, list[dict[str, Any]]]:
        """Epochs done, epochs planned and the engine's history, from a training checkpoint; (0, None, []) without."""
        if not last.is_file():
            return 0, None, []
        from slr_det_adapters.ultralytics import models

        checkpoint = models.load_native(str(last))[1]
        engine = (checkpoint.get("slr_det") or {}).get("engine") or {}
        planned = checkpoint.get("train_args", {}).get("epochs")
        return int(checkpoint.get("epoch", -1)) + 1, planned, list(engine.get("history", []))


def _refuse_weights(weights: str) -> None:
    if weights:
        raise ConfigError(f"weights={weights}: {UNSUPPORTED['weights']}")


@contextmanager
def _job_file(job: TrainJob, variable: str) -> Iterator[None]:
    """Hand the job to the trainer, in this process and in those that a multi-GPU launcher starts."""
    descriptor, path = tempfile.mkstemp(prefix="slr-det-job-", suffix=".json")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(job.to_dict(), file)
    before = os.environ.get(variable)
    os.environ[variable] = path
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
        Path(path).unlink(missing_ok=True)


@contextmanager
def quiet(verbose: bool) -> Iterator[None]:
    """Show ultralytics' warnings and errors only, unless ``verbose``."""
    logger = logging.getLogger("ultralytics")
    level = logger.level
    if not verbose:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)

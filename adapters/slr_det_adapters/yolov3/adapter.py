"""The adapter protocol answered with a checkout of ultralytics/yolov3, which is imported when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slr_det.adapter import EvalJob, ModelInfo, Picture, TrainJob
from slr_det.data.detection import resolve
from slr_det.errors import ConfigError
from slr_det.export.exportable import Exportable
from slr_det.models.weights import replace_weights
from slr_det.upstream.project import Upstream
from slr_det_adapters.refusals import refuse_unsupported
from slr_det_adapters.yolov3 import checkpoints
from slr_det_adapters.yolov3.arguments import Arguments

#: Settings of a run that upstream's training loop has no place for.
UNSUPPORTED = {
    "weights": "a checkpoint of ultralytics/yolov3 brings its own architecture; give it as model=FILE.pt",
    "iterations_per_epoch": "upstream's train() ends an iteration with each epoch; raise epochs=... instead",
    "one_schedule": "upstream has a learning-rate schedule for each phase; set lr0 and retrain.lr0",
    "distill": "upstream's train() has no distillation; leave it out",
    "distill_temperature": "upstream's train() has no distillation; leave it out",
}


class YOLOv3Adapter:
    """Anchor-based YOLOv3 detectors, trained and evaluated by the user's own checkout."""

    name = "yolov3"

    def upstream(self) -> Upstream:
        """What is relied on in the checkout, for ``slr-det upstream check``."""
        from slr_det_adapters.yolov3 import contracts

        return contracts.UPSTREAM

    def trainer_keys(self) -> frozenset[str]:
        """The fields of :class:`Arguments`, and upstream's hyperparameters by their own names."""
        return Arguments.names()

    def check_arguments(self, given: Mapping[str, Any]) -> None:
        """Refuse values that :class:`Arguments` does."""
        Arguments.read(given)

    def unsupported(self) -> Mapping[str, str]:
        """What needs a training loop of our own."""
        return UNSUPPORTED

    def prepare_data(self, data: str, workdir: Path) -> Path:
        """A data YAML, which upstream reads as ultralytics does, for whatever the other backend takes."""
        return resolve(data, workdir=workdir)

    def classes(self, data: Path) -> int:
        """Number of classes of a data YAML."""
        import yaml

        return len(yaml.safe_load(Path(data).read_text(encoding="utf-8"))["names"])

    def is_checkpoint(self, model: str) -> bool:
        """A ``.pt`` file is a checkpoint, all else an architecture."""
        return checkpoints.is_checkpoint(model)

    def inspect(self, model: str, classes: int | None = None, weights: str = "") -> ModelInfo:
        """Layers and weights of a checkpoint, without upstream, or of an architecture, built by it."""
        _refuse_weights(weights)
        if self.is_checkpoint(model):
            return checkpoints.read(model).info()
        if not model.endswith((".yaml", ".yml")):
            raise ConfigError(f"model '{model}' is neither a .pt checkpoint nor a .yaml architecture")
        from slr_det_adapters.yolov3 import building

        with building.opened(building.around(model) or "", torch.device("cpu")) as checkout:
            return checkpoints.describe(building.network(model, checkout, classes))

    def given(self, model: str, weights: str, data: Path, target: Path) -> str:
        """The checkpoint ``model`` itself: an architecture file has no weights."""
        _refuse_weights(weights)
        if not self.is_checkpoint(model):
            raise ConfigError(
                f"model={model} is an architecture without weights; give a trained .pt, or train one first "
                "with dense_epochs=N"
            )
        return model

    def train(self, job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
        """Run or continue a phase in upstream's own ``train``."""
        refuse_unsupported(job, UNSUPPORTED)
        from slr_det_adapters.yolov3.training import train

        return train(job, resume=resume)

    def last(self, folder: str) -> str:
        """Where upstream saves after every epoch."""
        from slr_det_adapters.yolov3.training import last

        return str(last(folder))

    def export(
        self, source: str, target: Path, job: TrainJob, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write the (averaged) model alone, as upstream leaves one after training; ``weights`` replace its own."""
        from slr_det_adapters.yolov3 import building
        from slr_det_adapters.yolov3.evaluation import loaded

        upstream = Arguments.read(job.args).upstream
        with building.opened(upstream, torch.device("cpu"), verbose=job.verbose) as checkout:
            model = loaded(source, checkout)
            if weights is not None:
                replace_weights(model, weights)
            checkpoints.write(target, checkpoints.for_inference(model, {"data": job.data}, job.title))

    def averaged(self, source: str) -> dict[str, Tensor]:
        """Parameters of the averaged model of a checkpoint."""
        return checkpoints.read(source).parameters()

    def evaluate(self, job: EvalJob) -> dict[str, Any]:
        """Upstream's own mAP, and COCO's by pycocotools for the boxes that it found."""
        from slr_det_adapters.yolov3.evaluation import evaluate_checkpoint

        return evaluate_checkpoint(job)

    def exportable(self, job: EvalJob) -> Exportable:
        """Refused: upstream has a program for it."""
        raise ConfigError(
            "--backend yolov3 exports nothing; its checkpoints are upstream's own: "
            f"python export.py --weights {job.model} --include onnx"
        )

    def recalibrate(self, source: str, target: Path, job: TrainJob) -> None:
        """Re-estimate batch-norm statistics on un-augmented training images."""
        from slr_det_adapters.yolov3.evaluation import recalibrate_checkpoint

        recalibrate_checkpoint(source, target, job)

    def illustrate(self, models: Mapping[str, str], job: EvalJob, folder: Path) -> list[Picture]:
        """No pictures."""
        return []


def _refuse_weights(weights: str) -> None:
    if weights:
        raise ConfigError(f"weights={weights}: {UNSUPPORTED['weights']}")

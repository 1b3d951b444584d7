"""The adapter protocol answered with our PointPillars and mmengine's Runner. mmengine is imported when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from slr_det.adapter import EvalJob, ModelInfo, Picture, TrainJob
from slr_det.errors import ConfigError
from slr_det.export.exportable import Exportable
from slr_det.models.pointpillars import describe
from slr_det.models.weights import replace_weights
from slr_det_adapters.extras import require_mmengine
from slr_det_adapters.pointpillars import checkpoints
from slr_det_adapters.pointpillars.arguments import Arguments
from slr_det_adapters.pointpillars.data import find_data, open_data
from slr_det_adapters.refusals import two_weights

_NO_TEACHER = "the PointPillars trainer has no distillation; leave it out"


class PointPillarsAdapter:
    """PointPillars on KITTI, everything in torch: runs on a CPU and on GPUs."""

    name = "pointpillars"

    def trainer_keys(self) -> frozenset[str]:
        """The fields of :class:`Arguments`."""
        return frozenset(field.name for field in fields(Arguments))

    def check_arguments(self, given: Mapping[str, Any]) -> None:
        """Refuse values that :class:`Arguments` does."""
        Arguments.read(given)

    def unsupported(self) -> Mapping[str, str]:
        """There is no distillation."""
        return {"distill": _NO_TEACHER, "distill_temperature": _NO_TEACHER}

    def prepare_data(self, data: str, workdir: Path) -> Path:
        """The folder or file as it is, read in place; DataError where there is none or it has not KITTI's layout."""
        found = find_data(data)
        open_data(str(found))
        return found

    def classes(self, data: Path) -> int:
        """How many classes are to be found."""
        return len(open_data(str(data)).classes)

    def is_checkpoint(self, model: str) -> bool:
        """Whether the word is a file of weights rather than a network's name or description."""
        return checkpoints.is_checkpoint(model)

    def inspect(self, model: str, classes: int | None = None, weights: str = "") -> ModelInfo:
        """Layers and weights of a checkpoint or of a network; of the latter with its first ``classes`` classes."""
        if checkpoints.is_checkpoint(model):
            return describe(checkpoints.read(model))
        names = checkpoints.config_of(model).classes
        if classes is not None and classes > len(names):
            raise ConfigError(
                f"model={model} has anchors for {len(names)} classes ({', '.join(names)}) and the data has {classes}; "
                "describe the network in a YAML file of OpenPCDet"
            )
        return describe(checkpoints.built(model, weights, names[:classes]))

    def given(self, model: str, weights: str, data: Path, target: Path) -> str:
        """A checkpoint file as it is, or ``weights`` written into the network ``model``."""
        if checkpoints.is_checkpoint(model):
            if weights:
                raise two_weights(model, weights, "the name or the YAML file of a network as model")
            checkpoints.read(model)
            return model
        if not weights:
            raise ConfigError(
                f"model={model} is a network without weights; give weights=FILE, or train it first with dense_epochs=N"
            )
        classes = open_data(str(data)).classes
        net = checkpoints.built(model, weights, classes)
        checkpoints.require_order(weights, model, classes)
        checkpoints.write(target, net, "given")
        return str(target)

    def train(self, job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
        """Run or continue a phase; its history has the score of every epoch under ``metric``."""
        require_mmengine("pointpillars")
        from slr_det_adapters.pointpillars.training import train

        return train(job, resume=resume)

    def last(self, folder: str) -> str:
        """The newest checkpoint in a phase's folder."""
        require_mmengine("pointpillars")
        from slr_det_adapters.mmengine.checkpoints import require_last

        return str(require_last(folder))

    def export(
        self, source: str, target: Path, job: TrainJob, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write ``source``'s (averaged) network without the trainer's state, with ``weights`` instead of its own."""
        net = checkpoints.read(source)
        replace_weights(net, weights or {})
        checkpoints.write(target, net, job.title)

    def averaged(self, source: str) -> dict[str, Tensor]:
        """Parameters of the (averaged) network of a checkpoint."""
        return {name: p.detach().float() for name, p in checkpoints.read(source).named_parameters()}

    def evaluate(self, job: EvalJob) -> dict[str, Any]:
        """KITTI's AP on the validation frames, overall and per class."""
        require_mmengine("pointpillars")
        from slr_det_adapters.pointpillars.evaluation import evaluate_checkpoint

        return evaluate_checkpoint(job)

    def exportable(self, job: EvalJob) -> Exportable:
        """The 2D network: the picture that the pillars make to the head's answers."""
        require_mmengine("pointpillars")
        from slr_det_adapters.pointpillars.exporting import exportable_of

        return exportable_of(job)

    def recalibrate(self, source: str, target: Path, job: TrainJob) -> None:
        """Re-estimate batch-norm statistics on augmented training frames."""
        require_mmengine("pointpillars")
        from slr_det_adapters.pointpillars.evaluation import recalibrate_checkpoint

        recalibrate_checkpoint(source, target, job)

    def illustrate(self, models: Mapping[str, str], job: EvalJob, folder: Path) -> list[Picture]:
        """Scans from above with true and predicted boxes, one panel per model."""
        require_mmengine("pointpillars")
        from slr_det_adapters.pointpillars.pictures import illustrate

        return illustrate(models, job, folder)

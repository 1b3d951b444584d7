"""The adapter protocol answered with our parsingNet and mmengine's Runner. mmengine is imported when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from slr_det.adapter import EvalJob, ModelInfo, Picture, TrainJob
from slr_det.errors import ConfigError
from slr_det.export.exportable import Exportable
from slr_det.models.parsingnet import deployed, describe
from slr_det.models.weights import replace_weights
from slr_det_adapters.extras import require_mmengine
from slr_det_adapters.lane import checkpoints
from slr_det_adapters.lane.arguments import Arguments
from slr_det_adapters.lane.data import LANES, begin_run, find_data, open_data
from slr_det_adapters.refusals import two_weights

_NO_TEACHER = "the lane trainer has no distillation; leave it out"


class LaneAdapter:
    """Lane detection on TuSimple by classification of rows: runs on a CPU and on GPUs."""

    name = "lane"

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
        """The folder as it is, read in place; DataError where there is none or it has not TuSimple's layout."""
        begin_run()
        found = find_data(data)
        open_data(str(found))
        return found

    def classes(self, data: Path) -> int:
        """How many lanes are told apart: the two next ones on either side."""
        open_data(str(data))
        return LANES

    def is_checkpoint(self, model: str) -> bool:
        """Whether the word is a file of weights rather than a network's name or description."""
        return checkpoints.is_checkpoint(model)

    def inspect(self, model: str, classes: int | None = None, weights: str = "") -> ModelInfo:
        """Layers and weights of a checkpoint or of a network, without the auxiliary head's."""
        if checkpoints.is_checkpoint(model):
            return describe(checkpoints.read(model))
        net = checkpoints.built(model, weights)
        if classes is not None and classes != net.config.lanes:
            raise ConfigError(
                f"model={model} tells {net.config.lanes} lanes apart and the data has {classes}; write "
                f"lanes: {classes} into its YAML file"
            )
        return describe(net)

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
        checkpoints.write(target, checkpoints.built(model, weights, whole=True), "given")
        return str(target)

    def train(self, job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
        """Run or continue a phase; its history has the score of every epoch under ``metric``."""
        require_mmengine("lane")
        from slr_det_adapters.lane.training import train

        return train(job, resume=resume)

    def last(self, folder: str) -> str:
        """The newest checkpoint in a phase's folder."""
        require_mmengine("lane")
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
        """Parameters of the (averaged) network of a checkpoint, without the auxiliary head's."""
        named = deployed(dict(checkpoints.read(source).named_parameters()))
        return {name: parameter.detach().float() for name, parameter in named.items()}

    def evaluate(self, job: EvalJob) -> dict[str, Any]:
        """TuSimple's accuracy, false positives and false negatives on the validation frames."""
        require_mmengine("lane")
        from slr_det_adapters.lane.evaluation import evaluate_checkpoint

        return evaluate_checkpoint(job)

    def exportable(self, job: EvalJob) -> Exportable:
        """The network without its auxiliary head: images to the logits of every row."""
        require_mmengine("lane")
        from slr_det_adapters.lane.exporting import exportable_of

        return exportable_of(job)

    def recalibrate(self, source: str, target: Path, job: TrainJob) -> None:
        """Re-estimate batch-norm statistics on augmented training frames."""
        require_mmengine("lane")
        from slr_det_adapters.lane.evaluation import recalibrate_checkpoint

        recalibrate_checkpoint(source, target, job)

    def illustrate(self, models: Mapping[str, str], job: EvalJob, folder: Path) -> list[Picture]:
        """Frames with true and predicted lanes, one panel per model."""
        require_mmengine("lane")
        from slr_det_adapters.lane.pictures import illustrate

        return illustrate(models, job, folder)

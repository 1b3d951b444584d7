"""The adapter protocol answered with timm's models and mmengine's Runner. Neither is imported before it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from slr_det.adapter import EvalJob, ModelInfo, Picture, TrainJob
from slr_det.errors import ConfigError
from slr_det.export.exportable import Exportable
from slr_det.models.weights import replace_weights
from slr_det.shrink import Shrinkage
from slr_det_adapters.extras import require_mmengine
from slr_det_adapters.refusals import two_weights
from slr_det_adapters.timm import checkpoints, datasets, models
from slr_det_adapters.timm.arguments import Arguments


class ClassifierAdapter:
    """Image classifiers: the CIFAR family, digits, and every model of timm."""

    name = "timm"

    def trainer_keys(self) -> frozenset[str]:
        """The fields of :class:`Arguments`."""
        return frozenset(field.name for field in fields(Arguments))

    def check_arguments(self, given: Mapping[str, Any]) -> None:
        """Refuse values that :class:`Arguments` does."""
        Arguments.read(given)

    def unsupported(self) -> Mapping[str, str]:
        """Every key of a run's configuration is served."""
        return {}

    def prepare_data(self, data: str, workdir: Path) -> Path:
        """The data set as it is, read in place by this run's first question about it. DataError where there is none."""
        datasets.forget()
        if not Path(data).expanduser().exists():
            datasets.open_data(data)  # a set without files, or the error that says what was expected
        return Path(data)

    def classes(self, data: Path) -> int:
        """Number of classes of a data set."""
        return len(datasets.open_data(str(data)).classes)

    def is_checkpoint(self, model: str) -> bool:
        """Whether the word is a file rather than the name of an architecture."""
        return checkpoints.is_checkpoint(model)

    def inspect(self, model: str, classes: int | None = None, weights: str = "") -> ModelInfo:
        """Layers and weights of a checkpoint, or of an architecture by name.

        Without ``classes`` an architecture has those of its weights, or of the data set that it is known for. It is
        described for images in colour, the one for digits for grey ones: no other layer than the first depends on it.
        """
        if checkpoints.is_checkpoint(model):
            net, card = checkpoints.read(model)
            return models.describe(net, len(card.classes))
        net, _ = models.with_weights(model, weights, classes, 1 if model.startswith("digits") else 3)
        return models.describe(net, classes or models.classes_of(net))

    def given(self, model: str, weights: str, data: Path, target: Path) -> str:
        """A checkpoint file as it is, or ``weights`` written into the architecture ``model``."""
        if checkpoints.is_checkpoint(model):
            if weights:
                raise two_weights(model, weights, "the name of an architecture as model")
            checkpoints.read(model)
            return model
        if not weights:
            raise ConfigError(
                f"model={model} is an architecture without weights; give weights=FILE (or weights=pretrained), or "
                "train it first with dense_epochs=N"
            )
        from slr_det_adapters.timm.starting import new_model

        found = datasets.open_data(str(data))
        net, card, others = new_model(model, weights, found)
        if others is not None:
            raise ConfigError(
                f"weights={weights} are for {others} classes but data={data} has {len(found.classes)}; train them on "
                "that data first with dense_epochs=N"
            )
        checkpoints.write(target, net, card, "given")
        return str(target)

    def train(self, job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
        """Run or continue a phase; its history has the score of every epoch under ``metric``."""
        require_mmengine("classify")
        from slr_det_adapters.timm.training import train

        return train(job, resume=resume)

    def last(self, folder: str) -> str:
        """The newest checkpoint in a phase's folder."""
        require_mmengine("classify")
        from slr_det_adapters.mmengine.checkpoints import require_last

        return str(require_last(folder))

    def export(
        self, source: str, target: Path, job: TrainJob, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write ``source``'s (averaged) model without the trainer's state, with ``weights`` instead of its own."""
        net, card = checkpoints.read(source)
        replace_weights(net, weights or {})
        checkpoints.write(target, net, card, job.title)

    def averaged(self, source: str) -> dict[str, Tensor]:
        """Parameters of the (averaged) model of a checkpoint."""
        return {name: p.detach().float() for name, p in checkpoints.read(source)[0].named_parameters()}

    def evaluate(self, job: EvalJob) -> dict[str, Any]:
        """Top-1, top-5 and loss on the validation images, overall and per class."""
        require_mmengine("classify")
        from slr_det_adapters.timm.evaluation import evaluate_checkpoint

        return evaluate_checkpoint(job)

    def exportable(self, job: EvalJob) -> Exportable:
        """The classifier: images to logits."""
        require_mmengine("classify")
        from slr_det_adapters.timm.exporting import exportable_of

        return exportable_of(job)

    def recalibrate(self, source: str, target: Path, job: TrainJob) -> None:
        """Re-estimate batch-norm statistics on augmented training images."""
        require_mmengine("classify")
        from slr_det_adapters.timm.evaluation import recalibrate_checkpoint

        recalibrate_checkpoint(source, target, job)

    def shrink(self, source: str, target: Path) -> Shrinkage:
        """Write the (averaged) model of ``source`` without its dead filters; its card says that layers are narrower."""
        from slr_det_adapters.timm.shrinking import shrink_checkpoint

        return shrink_checkpoint(source, target)

    def sums(self, model: str) -> list[tuple[str, ...]]:
        """Layers of a checkpoint or an architecture that need one mask to shrink."""
        from slr_det_adapters.timm.shrinking import sums_of

        return sums_of(model)

    def illustrate(self, models: Mapping[str, str], job: EvalJob, folder: Path) -> list[Picture]:
        """No pictures."""
        return []

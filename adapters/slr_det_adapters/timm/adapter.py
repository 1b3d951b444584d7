"""The adapter protocol answered with timm's models and mmengine's Runner. Neither is imported before it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from slr_det.adapter import EvalJob, ModelInfo, TrainJob
from slr_det.errors import CheckpointError, ConfigError
from slr_det_adapters.timm import models
from slr_det_adapters.timm.arguments import Arguments

if TYPE_CHECKING:
    from slr_det.data.classification import ClassificationData


class ClassifierAdapter:
    """Image classifiers: the CIFAR family, digits, and every model of timm."""

    name = "timm"

    def trainer_keys(self) -> frozenset[str]:
        """The fields of :class:`Arguments`."""
        return frozenset(field.name for field in fields(Arguments))

    def unsupported(self) -> Mapping[str, str]:
        """Every key of a run's configuration is served."""
        return {}

    def prepare_data(self, data: str, workdir: Path) -> Path:
        """The data set as it is: it is read in place. DataError where there is none."""
        if not Path(data).expanduser().exists():
            self._open(data)  # a set without files, or the error that says what was expected
        return Path(data)

    def classes(self, data: Path) -> int:
        """Number of classes of a data set."""
        return len(self._open(str(data)).classes)

    def is_checkpoint(self, model: str) -> bool:
        """Whether the word is a file rather than the name of an architecture."""
        return models.is_checkpoint(model)

    def inspect(self, model: str, classes: int | None = None, weights: str = "") -> ModelInfo:
        """Layers and weights of a checkpoint, or of an architecture by name."""
        if models.is_checkpoint(model):
            net, card = models.read(model)
            return models.describe(net, len(card.classes))
        pretrained = weights == models.PRETRAINED
        channels = 1 if model.startswith("digits") else 3
        count = classes or (1000 if not model.startswith("digits") else 10)
        net = models.build(model, count, channels, pretrained=pretrained)
        if weights and not pretrained:
            models.load_weights(net, model, weights)
        return models.describe(net, count)

    def given(self, model: str, weights: str, data: Path, target: Path) -> str:
        """A checkpoint file as it is, or ``weights`` written into the architecture ``model``."""
        if models.is_checkpoint(model):
            if weights:
                raise ConfigError(
                    f"model={model} is a checkpoint, which brings its own weights; leave weights={weights} out, or "
                    "give the name of an architecture as model"
                )
            models.read(model)
            return model
        if not weights:
            raise ConfigError(
                f"model={model} is an architecture without weights; give weights=FILE (or weights=pretrained), or "
                "train it first with dense_epochs=N"
            )
        from slr_det_adapters.timm.training import new_model

        net, card = new_model(model, weights, self._open(str(data)), Arguments())
        models.write(target, net, card, "given")
        return str(target)

    def train(self, job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
        """Run or continue a phase; its history has the score of every epoch under ``metric``."""
        from slr_det_adapters.timm.training import train

        return train(job, resume=resume)

    def last(self, folder: str) -> str:
        """The newest checkpoint in a phase's folder."""
        from slr_det_adapters.mmengine.checkpoints import last_checkpoint

        found = last_checkpoint(folder)
        if found is None:
            raise CheckpointError(f"{folder}: holds no checkpoint; start a new run")
        return str(found)

    def export(
        self, source: str, target: Path, job: TrainJob, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write ``source``'s (averaged) model without the trainer's state, with ``weights`` instead of its own."""
        net, card = models.read(source)
        if weights is not None:
            models.replace_weights(net, weights)
        models.write(target, net, card, job.title)

    def averaged(self, source: str) -> dict[str, Tensor]:
        """Parameters of the (averaged) model of a checkpoint."""
        return {name: p.detach().float() for name, p in models.read(source)[0].named_parameters()}

    def evaluate(self, job: EvalJob) -> dict[str, Any]:
        """Top-1, top-5 and loss on the validation images, overall and per class."""
        from slr_det_adapters.timm.evaluation import evaluate_checkpoint

        return evaluate_checkpoint(job)

    def recalibrate(self, source: str, target: Path, job: TrainJob) -> None:
        """Re-estimate batch-norm statistics on augmented training images."""
        from slr_det_adapters.timm.evaluation import recalibrate_checkpoint

        recalibrate_checkpoint(source, target, job)

    @staticmethod
    def _open(data: str) -> ClassificationData:
        from slr_det_adapters.timm.loaders import open_data

        return open_data(data, 0, 0)

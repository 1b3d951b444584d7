"""The adapter protocol answered with a checkout of Ultra-Fast-Lane-Detection, which is imported when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from slr_det.adapter import EvalJob, ModelInfo, Picture, TrainJob
from slr_det.errors import CheckpointError, ConfigError
from slr_det.export.exportable import Exportable
from slr_det.models.parsingnet import (
    ParsingNet,
    ParsingNetConfig,
    config_of,
    describe,
    holds_backbone_alone,
    load,
)
from slr_det.models.weights import read_state_dict
from slr_det.upstream.project import Upstream
from slr_det_adapters.refusals import refuse_unsupported, two_weights
from slr_det_adapters.ufld import checkpoints, configs
from slr_det_adapters.ufld.arguments import Arguments

#: Settings of a run that upstream's training loop has no place for.
UNSUPPORTED = {
    "iterations_per_epoch": "upstream's train() is entered between epochs only; raise epochs=... instead",
    "one_schedule": "upstream has a learning-rate schedule for each phase; set lr and retrain.lr",
    "distill": "upstream's train() has no distillation; leave it out",
    "distill_temperature": "upstream's train() has no distillation; leave it out",
}
_USUAL_LANES = 4
_PRETRAINED = "pretrained"


class UFLDAdapter:
    """Lane detection on TuSimple, trained and evaluated by the user's own checkout and configuration."""

    name = "ufld"

    def __init__(self) -> None:
        self._lanes = _USUAL_LANES

    def upstream(self) -> Upstream:
        """What is relied on in the checkout, for ``slr-det upstream check``."""
        from slr_det_adapters.ufld import contracts

        return contracts.UPSTREAM

    def trainer_keys(self) -> frozenset[str]:
        """The fields of :class:`Arguments`."""
        return frozenset(field.name for field in fields(Arguments))

    def check_arguments(self, given: Mapping[str, Any]) -> None:
        """Refuse values that :class:`Arguments` does."""
        Arguments.read(given)

    def unsupported(self) -> Mapping[str, str]:
        """What needs a training loop of our own."""
        return UNSUPPORTED

    def prepare_data(self, data: str, workdir: Path) -> Path:
        """A folder of links and lists for a TuSimple data set, in upstream's converted form."""
        from slr_det_adapters.ufld import tusimple

        return tusimple.prepare(data, workdir)

    def classes(self, data: Path) -> int:
        """As many lanes as the model that was looked at last tells apart: labels have any number."""
        return self._lanes

    def is_checkpoint(self, model: str) -> bool:
        """A ``.pth`` or ``.pt`` file is a checkpoint, all else a network's name or configuration."""
        return checkpoints.is_checkpoint(model)

    def inspect(self, model: str, classes: int | None = None, weights: str = "") -> ModelInfo:
        """Layers and weights of a checkpoint of upstream's or ours, or of a network, whose lanes are its own."""
        if self.is_checkpoint(model):
            if weights:
                raise two_weights(model, weights, "a network's name as model")
            found = checkpoints.read(model).info()
        else:
            net = ParsingNet(_network(model))
            if weights not in ("", _PRETRAINED):
                load(net, read_state_dict(weights), weights)
            found = describe(net)
        self._lanes = found.classes
        return found

    def given(self, model: str, weights: str, data: Path, target: Path) -> str:
        """A checkpoint as it is, or ``weights`` of the named network written to ``target``."""
        if self.is_checkpoint(model):
            if weights:
                raise two_weights(model, weights, "a network's name as model")
            self._lanes = checkpoints.read(model).network.lanes
            return model
        wanted = _network(model)
        if not weights:
            raise ConfigError(
                f"model={model} is a network without weights; give a checkpoint of upstream's as model=FILE.pth, or "
                "train one first with dense_epochs=N"
            )
        state = {} if weights == _PRETRAINED else read_state_dict(weights)
        if not state or holds_backbone_alone(state):
            raise ConfigError(
                f"weights={weights} are those of the backbone alone; train the rest first with dense_epochs=N"
            )
        found = config_of(state, weights)
        if (found.backbone, found.classes) != (wanted.backbone, wanted.classes):
            raise CheckpointError(
                f"{weights}: is a ResNet {found.backbone} with answers of shape {found.classes}, but model={model} is "
                f"a ResNet {wanted.backbone} with {wanted.classes}; leave weights out and give model={weights}"
            )
        checkpoints.write(target, {"model": state, checkpoints.KEY: checkpoints.card()})
        self._lanes = found.lanes
        return str(target)

    def train(self, job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
        """Run or continue a phase in upstream's own ``train``."""
        refuse_unsupported(job, UNSUPPORTED)
        from slr_det_adapters.ufld.training import train

        return train(job, resume=resume)

    def last(self, folder: str) -> str:
        """The newest checkpoint in a phase's folder."""
        from slr_det_adapters.ufld.training import last

        return str(last(folder))

    def export(
        self, source: str, target: Path, job: TrainJob, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write the model alone, with ``weights`` in place of its own; upstream's programs read the file.

        The auxiliary head stays in it, for retraining.
        """
        checkpoint = checkpoints.read(source)
        state = dict(checkpoint.state)
        for name, tensor in (weights or {}).items():
            if name not in state:
                raise CheckpointError(f"{source}: has no weight '{name}', which is to be replaced")
            state[name] = tensor.to(state[name].dtype)
        kept = {key: checkpoint.card[key] for key in ("config",) if key in checkpoint.card}
        card = checkpoints.card(**kept, phase=job.title)
        checkpoints.write(target, {"model": state, checkpoints.KEY: card})

    def averaged(self, source: str) -> dict[str, Tensor]:
        """Parameters of a checkpoint without the auxiliary head's; upstream keeps no average."""
        return checkpoints.read(source).parameters()

    def evaluate(self, job: EvalJob) -> dict[str, Any]:
        """Upstream's own evaluation: TuSimple's accuracy, FP and FN, beside them the paper's accuracy."""
        from slr_det_adapters.ufld.evaluation import evaluate_checkpoint

        return evaluate_checkpoint(job)

    def exportable(self, job: EvalJob) -> Exportable:
        """Refused: the embedded trainer reads these checkpoints and exports them."""
        raise ConfigError(
            "--backend ufld exports nothing; its checkpoints are read by the embedded trainer: "
            "export with --backend embedded"
        )

    def recalibrate(self, source: str, target: Path, job: TrainJob) -> None:
        """Re-estimate batch-norm statistics on augmented training images."""
        from slr_det_adapters.ufld.evaluation import recalibrate_checkpoint

        recalibrate_checkpoint(source, target, job)

    def illustrate(self, models: Mapping[str, str], job: EvalJob, folder: Path) -> list[Picture]:
        """Frames with true and predicted lanes, one panel per model."""
        from slr_det_adapters.ufld.pictures import illustrate

        return illustrate(models, job, folder)


def _network(model: str) -> ParsingNetConfig:
    """The network of a name, or of upstream's configuration file."""
    if not configs.is_config(model):
        return configs.named(model)
    from slr_det_adapters.ufld import building

    with building.opened(configs.around(model) or "", building.device_of("cpu")) as checkout:
        return configs.network(configs.read(model, checkout))

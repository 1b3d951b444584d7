"""The adapter protocol answered with a checkout of OpenPCDet. Nothing of it is imported before it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from slr_det.adapter import EvalJob, ModelInfo, Picture, TrainJob
from slr_det.errors import CheckpointError, ConfigError
from slr_det.export.exportable import Exportable
from slr_det.upstream.project import Upstream
from slr_det_adapters.openpcdet import checkpoints
from slr_det_adapters.openpcdet.arguments import Arguments
from slr_det_adapters.refusals import refuse_unsupported, two_weights

#: Settings of a run that OpenPCDet's training loop has no place for.
UNSUPPORTED = {
    "iterations_per_epoch": "OpenPCDet's training loop is entered between epochs only; raise epochs=... instead",
    "one_schedule": "OpenPCDet has a learning-rate cycle for each phase; set lr and retrain.lr",
    "distill": "OpenPCDet's training loop has no distillation; leave it out",
    "distill_temperature": "OpenPCDet's training loop has no distillation; leave it out",
}
_USUAL_CLASSES = 3  # Car, Pedestrian, Cyclist


class OpenPCDetAdapter:
    """3D detectors on KITTI, trained and evaluated by the user's own OpenPCDet checkout and configuration."""

    name = "openpcdet"

    def __init__(self) -> None:
        self._classes = _USUAL_CLASSES

    def upstream(self) -> Upstream:
        """What is relied on in the checkout, for ``slr-det upstream check``."""
        from slr_det_adapters.openpcdet import contracts

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
        """A folder of links and split files for a KITTI data set, in which OpenPCDet's info files are made."""
        from slr_det_adapters.openpcdet import kitti

        return kitti.prepare(data, workdir)

    def classes(self, data: Path) -> int:
        """As many classes as the model that was looked at last.

        KITTI labels every kind of object; which of them are detected is a choice of the configuration.
        """
        return self._classes

    def is_checkpoint(self, model: str) -> bool:
        """A ``.pth`` or ``.pt`` file is a checkpoint, all else a configuration."""
        return checkpoints.is_checkpoint(model)

    def inspect(self, model: str, classes: int | None = None, weights: str = "") -> ModelInfo:
        """Layers and weights of a checkpoint of ours, or of a configuration, whose classes are its own."""
        if self.is_checkpoint(model):
            if weights:
                raise two_weights(model, weights, "a configuration as model=CFG.yaml")
            found = checkpoints.info(model)
        else:
            found = self._built(model, weights, None)
        self._classes = found.classes
        return found

    def given(self, model: str, weights: str, data: Path, target: Path) -> str:
        """A checkpoint of ours as it is, or OpenPCDet's ``weights`` with their configuration beside them."""
        if self.is_checkpoint(model):
            if weights:
                raise two_weights(model, weights, "a configuration as model=CFG.yaml")
            self._classes = checkpoints.info(model).classes
            return model
        if not weights:
            raise ConfigError(
                f"model={model} is a configuration without weights; give a checkpoint of OpenPCDet as "
                "weights=FILE.pth, or train one first with dense_epochs=N"
            )
        self._classes = self._built(model, weights, target).classes
        return str(target)

    def train(self, job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
        """Run or continue a phase in OpenPCDet's own ``train_model``."""
        refuse_unsupported(job, UNSUPPORTED)
        from slr_det_adapters.openpcdet.training import train

        return train(job, resume=resume)

    def last(self, folder: str) -> str:
        """The newest of OpenPCDet's checkpoints in a phase's folder."""
        from slr_det_adapters.openpcdet.training import last

        return str(last(folder))

    def export(
        self, source: str, target: Path, job: TrainJob, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write the model alone, with ``weights`` in place of its own; OpenPCDet's loaders read the file."""
        content, card = checkpoints.read(source)
        state = dict(content["model_state"])
        for name, tensor in (weights or {}).items():
            if name not in state:
                raise CheckpointError(f"{source}: has no weight '{name}', which is to be replaced")
            state[name] = tensor.to(state[name].dtype)
        kept = ("version", "slr_det", "config", "layers", "parameters")
        checkpoints.write(
            target,
            {
                "model_state": state,
                "version": content.get("version"),
                checkpoints.KEY: {**{key: card[key] for key in kept}, "phase": job.title},
            },
        )

    def averaged(self, source: str) -> dict[str, Tensor]:
        """Parameters of a checkpoint; OpenPCDet keeps no average."""
        return checkpoints.parameters(*checkpoints.read(source))

    def evaluate(self, job: EvalJob) -> dict[str, Any]:
        """OpenPCDet's own evaluation: AP in 3D, R40, easy, moderate and hard, overall and per class."""
        from slr_det_adapters.openpcdet.evaluation import evaluate_checkpoint

        return evaluate_checkpoint(job)

    def exportable(self, job: EvalJob) -> Exportable:
        """Refused: the embedded trainer reads these checkpoints and exports them."""
        raise ConfigError(
            "--backend openpcdet exports nothing; its checkpoints are read by the embedded trainer: "
            "export with --backend embedded"
        )

    def recalibrate(self, source: str, target: Path, job: TrainJob) -> None:
        """Re-estimate batch-norm statistics on augmented training frames."""
        from slr_det_adapters.openpcdet.evaluation import recalibrate_checkpoint

        recalibrate_checkpoint(source, target, job)

    def illustrate(self, models: Mapping[str, str], job: EvalJob, folder: Path) -> list[Picture]:
        """Scans from above with true and predicted boxes, one panel per model."""
        from slr_det_adapters.openpcdet.pictures import illustrate

        return illustrate(models, job, folder)

    def _built(self, model: str, weights: str, target: Path | None) -> ModelInfo:
        """Build a configuration's model on the CPU, and write it to ``target`` where there is one."""
        from slr_det_adapters.openpcdet import building, configs

        device = building.device_of("cpu")
        with building.opened(configs.around(model) or "", device) as checkout:
            config = configs.read(model, checkout)
            net = building.network(config, checkout, device)
            if weights:
                checkpoints.load_into(net, checkpoints.read_any(weights)["model_state"], weights)
            version = f"pcdet+{checkout.seam('pcdet', '__version__')}"
        card = checkpoints.card_of(net, config)
        content = {"model_state": net.state_dict(), "version": version, checkpoints.KEY: card}
        if target is not None:
            checkpoints.write(target, content)
        layers = checkpoints.layers(card)
        return ModelInfo(
            layers, checkpoints.parameters(checkpoints.plain(content), card), len(config["CLASS_NAMES"])
        )

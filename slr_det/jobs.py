"""What each phase of a run asks of the trainer: plain jobs, made from the configuration alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slr_det.adapter import EngineSpec, EvalJob, TrainJob
from slr_det.config import RunConfig
from slr_det.errors import ConfigError
from slr_det.groups import GroupSpec

WHOLE = (0.0, 1.0)


@dataclass(frozen=True)
class Jobs:
    """The jobs of one run.

    Attributes:
        config: The run's configuration.
        data: Data file in the trainer's own format.
        verbose: Show the trainer's own log.
    """

    config: RunConfig
    data: Path
    verbose: bool = False

    def dense(self, folder: Path) -> TrainJob:
        """Dense training, from the weights that were given where there are some."""
        config = self.config
        return self._job(
            config.model,
            folder,
            config.dense_epochs,
            "dense training",
            config.dense,
            weights=config.weights,
        )

    def method(self, folder: Path, method: str, dense: Path, groups: Iterable[GroupSpec]) -> TrainJob:
        """Training under a method, from the dense checkpoint."""
        config = self.config
        iterations = config.epochs * config.iterations_per_epoch
        return self._job(
            str(dense),
            folder,
            config.epochs,
            f"{method} training",
            {},
            engine=EngineSpec(method, iterations, tuple(groups), asdict(config.slr)),
            iterations_per_epoch=config.iterations_per_epoch,
            schedule=self.shares()[0],
            **self._distillation(dense),
        )

    def retraining(self, folder: Path, title: str, start: str, dense: Path | None) -> TrainJob:
        """Masked retraining of a pruned checkpoint; ``dense`` is the model that it came from, where the run has it.

        Without one the phase stands alone and has a learning-rate schedule of its own. Raises ConfigError where
        the configuration asks for a distillation and there is no dense model to learn from.
        """
        if dense is None and self.config.distill > 0:
            raise ConfigError(
                f"distill={self.config.distill:g} needs the dense model, which a pruned checkpoint alone does not "
                "have; leave it out, or run `compress`, which has both"
            )
        return self._job(
            start,
            folder,
            self.config.retrain_epochs,
            title,
            self.config.retrain,
            keep_zeros=True,
            schedule=WHOLE if dense is None else self.shares()[1],
            **({} if dense is None else self._distillation(dense)),
        )

    def evaluation(self, checkpoint: Path | str) -> EvalJob:
        """Evaluation of a checkpoint on the run's data."""
        return EvalJob(
            str(checkpoint), str(self.data), self.config.train, self.config.device, verbose=self.verbose
        )

    def shares(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Which part of the learning-rate schedule the training under the method and the retraining cover."""
        if not self.config.one_schedule:
            return WHOLE, WHOLE
        border = self.config.epochs / (self.config.epochs + self.config.retrain_epochs)
        return (0.0, border), (border, 1.0)

    def _distillation(self, dense: Path) -> dict[str, Any]:
        config = self.config
        if config.distill == 0:
            return {}
        return {
            "teacher": str(dense),
            "distill": config.distill,
            "temperature": config.distill_temperature,
        }

    def _job(
        self, model: str, folder: Path, epochs: int, title: str, extra: Mapping[str, Any], **fields: Any
    ) -> TrainJob:
        return TrainJob(
            model=model,
            data=str(self.data),
            folder=str(folder),
            epochs=epochs,
            args={**self.config.train, **extra},
            title=title,
            seed=self.config.seed,
            device=self.config.device,
            verbose=self.verbose,
            **fields,
        )

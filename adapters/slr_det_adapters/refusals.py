"""What several trainers refuse, in the same words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from slr_det.adapter import TrainJob
from slr_det.errors import CheckpointError, ConfigError


def two_weights(model: str, weights: str, instead: str) -> ConfigError:
    """The error for a checkpoint together with ``weights``; ``instead`` says what to give with them."""
    return ConfigError(
        f"model={model} is a checkpoint, which brings its own weights; leave weights={weights} out, or give {instead}"
    )


def refuse_other_length(newest: Path, planned: int | None, epochs: int) -> None:
    """Raise CheckpointError for a phase that is resumed for another number of epochs than it was started for.

    The schedule of the learning rate is laid out for the whole phase.
    """
    if planned != epochs:
        raise CheckpointError(
            f"{newest}: the run was started for {planned} epochs, not {epochs}; resume with as many, or start a new run"
        )


def refuse_unsupported(job: TrainJob, unsupported: Mapping[str, str]) -> None:
    """Raise ConfigError for a job that asks for what a configuration of its trainer cannot ask for.

    Args:
        job: The phase.
        unsupported: As :meth:`slr_det.adapter.Adapter.unsupported` gives it.
    """
    asked = {
        "weights": bool(job.weights),
        "iterations_per_epoch": job.iterations_per_epoch != 1,
        "one_schedule": job.schedule != (0.0, 1.0),
        "distill": job.distill > 0,
    }
    problems = [
        f"{key}: {unsupported[key]}" for key, wanted in asked.items() if wanted and key in unsupported
    ]
    if problems:
        raise ConfigError(problems)

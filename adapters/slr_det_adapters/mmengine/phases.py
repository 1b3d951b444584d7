"""One training phase, whatever is trained: continued where it stopped, in this process or in several."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from torch.utils.data import DataLoader

from slr_det.adapter import EngineSpec, TrainJob
from slr_det.errors import CheckpointError, ConfigError
from slr_det.groups import GroupSpec
from slr_det.ranks import Place, current
from slr_det_adapters.mmengine.checkpoints import POINTER, last_checkpoint, read_checkpoint
from slr_det_adapters.mmengine.hook import SLRHook
from slr_det_adapters.mmengine.launching import launch, processes_of
from slr_det_adapters.mmengine.runner import build_runner
from slr_det_adapters.mmengine.schedule import ScheduleHook
from slr_det_adapters.mmengine.scores import ScoresHook, history
from slr_det_adapters.prefix import PREFIX
from slr_det_adapters.settings import TrainerSettings


def train_phase(
    job: TrainJob,
    settings: TrainerSettings,
    resume: bool,
    *,
    samples: int,
    run: Callable[..., None],
) -> list[dict[str, Any]]:
    """Run or continue a phase, in this process or in several; returns its history.

    Args:
        job: The phase.
        settings: How it trains.
        resume: Go on from the last checkpoint.
        samples: Number of training samples.
        run: ``run(job, resume, distributed=False)``, a function of a module: trains in one process.

    Raises:
        ConfigError: A batch that the data cannot fill, or that the processes cannot share.
        CheckpointError: The folder holds more epochs than the phase has.
    """
    folder = Path(job.folder)
    done = epochs_done(folder) if resume else 0
    if done > job.epochs:
        raise CheckpointError(
            f"{folder}: holds {done} epochs already, more than {job.epochs}; start a new run"
        )
    if done < job.epochs:
        team = current()
        processes = processes_of(job, settings.processes) if team is None else team.place.size
        if team is not None:
            job = _on_ranks(job, settings.processes, team.place)
        _require_batch(job, settings.batch, samples, processes)
        if team is not None:
            team.train(job, resume, run.__module__, _resumed_files(folder) if resume else ())
        elif processes > 1:
            launch(job, processes, resume, run.__module__)
        else:
            run(job, resume)
    return history(folder)


def begin(job: TrainJob, settings: TrainerSettings) -> None:
    """Set up this process for a phase: its threads, and the generator that draws new weights."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(job.seed)


def fit(
    job: TrainJob,
    settings: TrainerSettings,
    resume: bool,
    distributed: bool,
    *,
    model: BaseModel,
    batches: DataLoader[Any],
    validation: Callable[[], tuple[DataLoader[Any], BaseMetric]],
    hooks: Sequence[Hook],
    metric: str,
) -> None:
    """Run or continue a phase in this process.

    Args:
        job: The phase.
        settings: How it trains.
        resume: Go on from the last checkpoint.
        distributed: This process is one of a group.
        model: What is trained; its parameters are named with ``PREFIX`` in front.
        batches: Training batches, those of this process.
        validation: Gives the batches of an epoch's score and what scores them; asked where the settings want scores.
        hooks: Hooks beside those of every phase, with a :class:`MetaHook` among them.
        metric: The score that the progress bar shows.
    """
    every = [*_usual_hooks(job, settings, len(batches)), *hooks]
    scored: dict[str, Any] = {}
    if settings.val_every:
        every.append(ScoresHook(Path(job.folder)))
        frames, scorer = validation()
        scored = {
            "val_dataloader": frames,
            "val_evaluator": Evaluator([scorer]),
            "val_interval": settings.val_every,
        }
    device, launcher = _place_of(job, distributed)
    runner = build_runner(
        model,
        work_dir=job.folder,
        epochs=job.epochs,
        train_dataloader=batches,
        optim_wrapper=settings.optim_wrapper(),
        hooks=every,
        seed=job.seed,
        amp=settings.amp,
        resume=resume,
        title=job.title,
        metric=metric,
        verbose=job.verbose,
        device=device,
        launcher=launcher,
        **scored,
    )
    if job.engine is not None and job.iterations_per_epoch > len(batches):
        runner.logger.warning(
            "iterations_per_epoch=%d is more than the steps of an epoch, %d: an iteration ends with every step",
            job.iterations_per_epoch,
            len(batches),
            extra={"slr_det": True},
        )
    runner.train()


def epochs_done(folder: Path) -> int:
    """How many epochs a phase has finished, from its last checkpoint."""
    last = last_checkpoint(folder)
    if last is None:
        return 0
    return int(read_checkpoint(last)["meta"]["epoch"])


def method_hook(job: TrainJob, batches: int) -> SLRHook:
    """The hook of the method, of masked retraining, or of neither; parameter names get the wrapper's prefix.

    An epoch of fewer ``batches`` than ``iterations_per_epoch``, which a recipe may have set, has as many iterations as
    it has batches.
    """
    if job.engine is not None:
        per_epoch = min(job.iterations_per_epoch, batches)
        groups = tuple(
            GroupSpec(g.name, tuple(PREFIX + p for p in g.params), g.keep, g.projection)
            for g in job.engine.groups
        )
        spec = EngineSpec(job.engine.method, job.epochs * per_epoch, groups, job.engine.hyper)
        return SLRHook(engine=spec.to_dict(), iterations_per_epoch=per_epoch, prune_at_end=False)
    if job.keep_zeros:
        return SLRHook(keep_zeros=True, prune_at_end=False)
    return SLRHook(method=None, prune_at_end=False)


def _usual_hooks(job: TrainJob, settings: TrainerSettings, batches: int) -> list[Hook]:
    """The hooks of every phase: the method, the learning rate, the averaged copy. ``batches`` are those of an epoch."""
    warmup = round(settings.warmup_epochs * batches)
    hooks: list[Hook] = [
        method_hook(job, batches),
        ScheduleHook(settings.schedule, final=settings.min_lr, warmup=warmup, part=job.schedule),
    ]
    if settings.ema:
        # mmengine's momentum is the share of the new weights.
        hooks.append(EMAHook(ema_type="ExponentialMovingAverage", momentum=1.0 - settings.ema))
    return hooks


def _on_ranks(job: TrainJob, processes: int, place: Place) -> TrainJob:
    """The job on the ranks that a launcher has started; ConfigError where something else was asked for."""
    if processes not in (1, place.size):
        raise ConfigError(
            f"processes is {processes}, but the command was started as {place.size} ranks; leave processes out"
        )
    return replace(job, device=place.device(job.device))


def _resumed_files(folder: Path) -> list[Path]:
    """What a phase is resumed from, for ranks that do not see its folder."""
    last = last_checkpoint(folder)
    return [] if last is None else [folder / POINTER, last]


def _place_of(job: TrainJob, distributed: bool) -> tuple[str, str]:
    """The device and the launcher of a Runner: each process of several has a GPU of its own, or none."""
    if not distributed:
        return job.device, "none"
    return job.device if job.device == "cpu" else os.environ["LOCAL_RANK"], "pytorch"


def _require_batch(job: TrainJob, batch: int, samples: int, processes: int) -> None:
    """Refuse a batch that the data cannot fill or the processes cannot share, before any process starts."""
    if samples < batch:
        raise ConfigError(
            f"batch is {batch}, more than the {samples} training samples of {job.data}; lower it"
        )
    if batch % processes:
        raise ConfigError(f"batch is {batch}, which {processes} processes cannot share; use a multiple")


class MetaHook(Hook):
    """Puts into every checkpoint what builds the model again.

    Args:
        key: Its name in the checkpoint's ``meta``.
        content: Plain data.
    """

    def __init__(self, key: str, content: dict[str, Any]) -> None:
        self.key = key
        self.content = content

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add the content to the checkpoint's ``meta``."""
        checkpoint["meta"][self.key] = self.content


class EpochHook(Hook):
    """Tells a data set which epoch it is: the variations of its samples depend on it."""

    def before_train_epoch(self, runner: Any) -> None:
        """Set the epoch, before any sample of it is read."""
        runner.train_dataloader.dataset.set_epoch(runner.epoch)

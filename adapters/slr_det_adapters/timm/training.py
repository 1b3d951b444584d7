"""One training phase of a classifier: mmengine's Runner with the hooks of the method, the schedule and the scores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_world_size
from mmengine.evaluator import Evaluator
from mmengine.hooks import EMAHook, Hook
from torch import nn

from slr_det.adapter import EngineSpec, TrainJob
from slr_det.data.classification import ClassificationData, Split
from slr_det.errors import CheckpointError, ConfigError
from slr_det.groups import GroupSpec
from slr_det_adapters.mmengine.checkpoints import last_checkpoint, read_checkpoint
from slr_det_adapters.mmengine.hook import SLRHook
from slr_det_adapters.mmengine.runner import build_runner
from slr_det_adapters.mmengine.schedule import ScheduleHook
from slr_det_adapters.timm import checkpoints
from slr_det_adapters.timm.arguments import Arguments
from slr_det_adapters.timm.cards import Card
from slr_det_adapters.timm.datasets import data_of
from slr_det_adapters.timm.evaluation import precision
from slr_det_adapters.timm.launching import launch, processes_of
from slr_det_adapters.timm.loaders import Loader, images_of, loader
from slr_det_adapters.timm.models import PREFIX
from slr_det_adapters.timm.scores import ScoresHook, TopKMetric, history
from slr_det_adapters.timm.starting import starting_model
from slr_det_adapters.timm.trainable import Trainable


def train(job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
    """Run or continue a phase, in this process or in several; returns its history."""
    arguments = Arguments.read(job.args)
    folder = Path(job.folder)
    done = epochs_done(folder) if resume else 0
    if done > job.epochs:
        raise CheckpointError(
            f"{folder}: holds {done} epochs already, more than {job.epochs}; start a new run"
        )
    if done < job.epochs:
        processes = processes_of(job, arguments)
        _require_batch(job, arguments, processes)
        if processes > 1:
            launch(job, processes, resume)
        else:
            run(job, arguments, resume)
    return history(folder)


def epochs_done(folder: Path) -> int:
    """How many epochs a phase has finished, from its last checkpoint."""
    last = last_checkpoint(folder)
    if last is None:
        return 0
    return int(read_checkpoint(last)["meta"]["epoch"])


def run(job: TrainJob, arguments: Arguments, resume: bool, *, distributed: bool = False) -> None:
    """Run or continue a phase in this process, which is one of a group where ``distributed`` says so."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = data_of(job.data, arguments)
    torch.manual_seed(job.seed)
    net, card = starting_model(job, data, arguments)
    # What the processes take together is one batch.
    local = replace(arguments, batch=arguments.batch // get_world_size())
    hooks: list[Hook] = [_method_hook(job), CardHook(card)]
    batches = _training_batches(data, local, card, job.seed)
    warmup = round(arguments.warmup_epochs * len(batches))
    hooks.append(ScheduleHook(arguments.schedule, final=arguments.min_lr, warmup=warmup, part=job.schedule))
    if arguments.ema:
        # mmengine's momentum is the share of the new weights.
        hooks.append(EMAHook(ema_type="ExponentialMovingAverage", momentum=1.0 - arguments.ema))
    validation: dict[str, Any] = {}
    if arguments.val_every:
        hooks.append(ScoresHook(Path(job.folder)))
        validation = {
            "val_dataloader": _validation_batches(data, local, card),
            "val_evaluator": Evaluator([TopKMetric(data.classes)]),
            "val_interval": arguments.val_every,
        }
    on_gpus = distributed and job.device != "cpu"
    runner = build_runner(
        _trainable(net, card, job, arguments),
        work_dir=job.folder,
        epochs=job.epochs,
        train_dataloader=batches,
        optim_wrapper=_optimizer(arguments),
        hooks=hooks,
        seed=job.seed,
        device=os.environ["LOCAL_RANK"] if on_gpus else job.device,
        amp=arguments.amp,
        resume=resume,
        title=job.title,
        metric="top1",
        verbose=job.verbose,
        launcher="pytorch" if distributed else "none",
        **validation,
    )
    runner.train()


def _require_batch(job: TrainJob, arguments: Arguments, processes: int) -> None:
    """Refuse a batch that the data cannot fill or the processes cannot share, before any process starts."""
    images = len(data_of(job.data, arguments).train)
    if images < arguments.batch:
        raise ConfigError(
            f"batch is {arguments.batch}, more than the {images} training images of {job.data}; lower it"
        )
    if arguments.batch % processes:
        raise ConfigError(
            f"batch is {arguments.batch}, which {processes} processes cannot share; use a multiple"
        )


def _training_batches(data: ClassificationData, arguments: Arguments, card: Card, seed: int) -> Loader:
    images = images_of(data.train, card, arguments, train=True)
    sampler = DefaultSampler(images, shuffle=True, seed=seed)
    return loader(images, arguments, train=True, sampler=sampler, drop_last=True)


def _validation_batches(data: ClassificationData, arguments: Arguments, card: Card) -> Loader:
    images = images_of(_some(data.val, arguments.epoch_val_images), card, arguments, train=False)
    return loader(images, arguments, train=False, sampler=DefaultSampler(images, shuffle=False))


def _some(split: Split, images: int) -> Split:
    """About that many images of a split, spread over all of it; the whole for 0."""
    if not images or images >= len(split):
        return split
    return split.take(np.linspace(0, len(split) - 1, images).round().astype(np.int64))


def _trainable(net: nn.Module, card: Card, job: TrainJob, arguments: Arguments) -> Trainable:
    teacher = checkpoints.read(job.teacher)[0] if job.teacher and job.distill > 0 else None
    if arguments.channels_last:
        for module in (net, teacher):
            if module is not None:
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Trainable(
        net,
        card,
        channels_last=arguments.channels_last,
        smoothing=arguments.label_smoothing,
        teacher=teacher,
        share=job.distill,
        temperature=job.temperature,
        predicting=lambda device: precision(arguments, device),
    )


def _method_hook(job: TrainJob) -> SLRHook:
    """The hook of the method, of masked retraining, or of neither; parameter names get the wrapper's prefix."""
    if job.engine is not None:
        groups = tuple(
            GroupSpec(g.name, tuple(PREFIX + p for p in g.params), g.keep, g.projection)
            for g in job.engine.groups
        )
        spec = EngineSpec(job.engine.method, job.engine.iterations, groups, job.engine.hyper)
        return SLRHook(
            engine=spec.to_dict(), iterations_per_epoch=job.iterations_per_epoch, prune_at_end=False
        )
    if job.keep_zeros:
        return SLRHook(keep_zeros=True, prune_at_end=False)
    return SLRHook(method=None, prune_at_end=False)


def _optimizer(arguments: Arguments) -> Mapping[str, Any]:
    """mmengine's configuration of the optimizer, with accumulation and clipping."""
    kinds = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}
    optimizer: dict[str, Any] = {
        "type": kinds[arguments.optimizer],
        "lr": arguments.lr,
        "weight_decay": arguments.weight_decay,
    }
    if arguments.optimizer in ("sgd", "rmsprop"):
        optimizer["momentum"] = arguments.momentum
    if arguments.optimizer == "sgd":
        optimizer["nesterov"] = arguments.nesterov and arguments.momentum > 0
    wrapper: dict[str, Any] = {"optimizer": optimizer, "accumulative_counts": arguments.accumulate}
    if arguments.clip:
        wrapper["clip_grad"] = {"max_norm": arguments.clip}
    return wrapper


class CardHook(Hook):
    """Puts into every checkpoint what builds the classifier again."""

    def __init__(self, card: Card) -> None:
        self.card = card

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add the card to the checkpoint's ``meta``."""
        checkpoint["meta"][checkpoints.META] = self.card.to_dict()

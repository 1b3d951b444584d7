"""One training phase of a classifier: mmengine's Runner with the hooks of the method, the schedule and the scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_world_size
from torch import nn

from slr_det.adapter import TrainJob
from slr_det.data.classification import ClassificationData, Split
from slr_det_adapters.mmengine.phases import MetaHook, begin, fit, train_phase
from slr_det_adapters.mmengine.precision import precision
from slr_det_adapters.timm import checkpoints
from slr_det_adapters.timm.arguments import Arguments
from slr_det_adapters.timm.cards import Card
from slr_det_adapters.timm.datasets import data_of
from slr_det_adapters.timm.loaders import Loader, images_of, loader
from slr_det_adapters.timm.scores import TopKMetric
from slr_det_adapters.timm.starting import starting_model
from slr_det_adapters.timm.trainable import Trainable


def train(job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
    """Run or continue a phase, in this process or in several; returns its history."""
    arguments = Arguments.read(job.args)
    return train_phase(job, arguments, resume, samples=len(data_of(job.data, arguments).train), run=run)


def run(job: TrainJob, resume: bool, *, distributed: bool = False) -> None:
    """Run or continue a phase in this process, which is one of a group where ``distributed`` says so."""
    arguments = Arguments.read(job.args)
    begin(job, arguments)
    data = data_of(job.data, arguments)
    net, card = starting_model(job, data, arguments)
    # What the processes take together is one batch.
    local = replace(arguments, batch=arguments.batch // get_world_size())
    fit(
        job,
        arguments,
        resume,
        distributed,
        model=_trainable(net, card, job, arguments),
        batches=_training_batches(data, local, card, job.seed),
        validation=lambda: (_validation_batches(data, local, card), TopKMetric(data.classes)),
        hooks=[MetaHook(checkpoints.META, card.to_dict())],
        metric="top1",
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

"""One training phase of a PointPillars: mmengine's Runner with the hooks of the method, the schedule and the scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_world_size
from torch.nn.modules.batchnorm import _BatchNorm

from slr_det.adapter import TrainJob
from slr_det_adapters.mmengine.phases import EpochHook, MetaHook, begin, fit, train_phase
from slr_det_adapters.mmengine.precision import precision
from slr_det_adapters.pointpillars import checkpoints
from slr_det_adapters.pointpillars.arguments import Arguments
from slr_det_adapters.pointpillars.data import (
    KittiData,
    loader,
    open_data,
    plain_frames,
    require_fit,
    training_frames,
)
from slr_det_adapters.pointpillars.evaluation import KittiMetric
from slr_det_adapters.pointpillars.trainable import Trainable
from slr_det_adapters.subsets import spread


def train(job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
    """Run or continue a phase, in this process or in several; returns its history."""
    arguments = Arguments.read(job.args)
    listed = len(open_data(job.data).folder.split("train"))
    frames = min(arguments.train_frames or listed, listed)
    return train_phase(job, arguments, resume, samples=frames, run=run)


def run(job: TrainJob, resume: bool, *, distributed: bool = False) -> None:
    """Run or continue a phase in this process, which is one of a group where ``distributed`` says so."""
    arguments = Arguments.read(job.args)
    begin(job, arguments)
    data = open_data(job.data)
    net = _starting_model(job, data)
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = arguments.bn_momentum
    if arguments.channels_last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # What the processes take together is one batch.
    local = replace(arguments, batch=arguments.batch // get_world_size())
    frames = training_frames(data, net.config, local, job.seed)
    sampler = DefaultSampler(frames, shuffle=True, seed=job.seed)

    def validation() -> tuple[Any, KittiMetric]:
        every = plain_frames(data, "val", net.config, local, local.val_frames)
        shown = spread(every, local.epoch_val_frames)
        order = DefaultSampler(shown, shuffle=False)
        return loader(shown, net.config, local, training=False, sampler=order), KittiMetric(
            data, arguments.overlap
        )

    fit(
        job,
        arguments,
        resume,
        distributed,
        model=Trainable(
            net, score=arguments.score or None, predicting=lambda place: precision(arguments, place)
        ),
        batches=loader(frames, net.config, local, training=True, sampler=sampler, drop_last=True),
        validation=validation,
        hooks=[MetaHook(checkpoints.META, net.config.to_dict()), EpochHook()],
        metric="moderate",
    )


def _starting_model(job: TrainJob, data: KittiData) -> Any:
    if checkpoints.is_checkpoint(job.model):
        net = checkpoints.read(job.model)
    else:
        net = checkpoints.built(job.model, job.weights, data.classes)
    require_fit(net.config, data, job.model, job.data)
    return net

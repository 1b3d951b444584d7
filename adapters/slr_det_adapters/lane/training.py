"""One training phase of a parsingNet: mmengine's Runner with the hooks of the method, the schedule and the scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_world_size

from slr_det.adapter import TrainJob
from slr_det.models.parsingnet import ParsingNet
from slr_det_adapters.lane import checkpoints
from slr_det_adapters.lane.arguments import Arguments
from slr_det_adapters.lane.data import loader, open_data, plain_frames, require_fit, training_frames
from slr_det_adapters.lane.evaluation import LaneMetric
from slr_det_adapters.lane.trainable import Trainable
from slr_det_adapters.mmengine.phases import EpochHook, MetaHook, begin, fit, train_phase
from slr_det_adapters.mmengine.precision import precision
from slr_det_adapters.subsets import spread


def train(job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
    """Run or continue a phase, in this process or in several; returns its history."""
    arguments = Arguments.read(job.args)
    listed = len(open_data(job.data).split("train"))
    frames = min(arguments.train_frames or listed, listed)
    return train_phase(job, arguments, resume, samples=frames, run=run)


def run(job: TrainJob, resume: bool, *, distributed: bool = False) -> None:
    """Run or continue a phase in this process, which is one of a group where ``distributed`` says so."""
    arguments = Arguments.read(job.args)
    begin(job, arguments)
    folder = open_data(job.data)
    net = _starting_model(job)
    if arguments.channels_last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # What the processes take together is one batch.
    local = replace(arguments, batch=arguments.batch // get_world_size())
    frames = training_frames(folder, net.config, local, job.seed)
    sampler = DefaultSampler(frames, shuffle=True, seed=job.seed)

    def validation() -> tuple[Any, LaneMetric]:
        every = plain_frames(folder, net.config, local, local.val_frames)
        shown = spread(every, local.epoch_val_frames)
        return loader(shown, local, sampler=DefaultSampler(shown, shuffle=False)), LaneMetric(every)

    fit(
        job,
        arguments,
        resume,
        distributed,
        model=Trainable(
            net,
            channels_last=arguments.channels_last,
            predicting=lambda place: precision(arguments, place),
        ),
        batches=loader(frames, local, sampler=sampler, drop_last=True),
        validation=validation,
        hooks=[MetaHook(checkpoints.META, net.config.to_dict()), EpochHook()],
        metric="accuracy",
    )


def _starting_model(job: TrainJob) -> ParsingNet:
    if checkpoints.is_checkpoint(job.model):
        net = checkpoints.read(job.model)
    else:
        net = checkpoints.built(job.model, job.weights)
    require_fit(net.config, job.model)
    return net

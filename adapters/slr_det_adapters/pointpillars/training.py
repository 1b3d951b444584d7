"""One training phase of a PointPillars: mmengine's Runner with the hooks of the method, the schedule and the scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_world_size
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from torch.nn.modules.batchnorm import _BatchNorm

from slr_det.adapter import TrainJob
from slr_det_adapters.mmengine.phases import MetaHook, place_of, train_phase, usual_hooks
from slr_det_adapters.mmengine.runner import build_runner
from slr_det_adapters.mmengine.scores import ScoresHook
from slr_det_adapters.pointpillars import checkpoints
from slr_det_adapters.pointpillars.arguments import Arguments
from slr_det_adapters.pointpillars.data import (
    KittiData,
    loader,
    open_data,
    plain_frames,
    require_fit,
    spread,
    training_frames,
)
from slr_det_adapters.pointpillars.evaluation import KittiMetric, precision
from slr_det_adapters.pointpillars.trainable import Trainable


def train(job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
    """Run or continue a phase, in this process or in several; returns its history."""
    arguments = Arguments.read(job.args)
    listed = len(open_data(job.data).folder.split("train"))
    frames = min(arguments.train_frames or listed, listed)
    return train_phase(job, arguments, resume, samples=frames, run=run)


def run(job: TrainJob, resume: bool, *, distributed: bool = False) -> None:
    """Run or continue a phase in this process, which is one of a group where ``distributed`` says so."""
    arguments = Arguments.read(job.args)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = open_data(job.data)
    torch.manual_seed(job.seed)
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
    batches = loader(frames, net.config, local, training=True, sampler=sampler, drop_last=True)
    hooks = [
        *usual_hooks(job, arguments, len(batches)),
        MetaHook(checkpoints.META, net.config.to_dict()),
        EpochHook(),
    ]
    validation: dict[str, Any] = {}
    if arguments.val_every:
        hooks.append(ScoresHook(Path(job.folder)))
        shown = spread(plain_frames(data, "val", net.config, local, local.val_frames), local.epoch_val_frames)
        validation = {
            "val_dataloader": loader(
                shown, net.config, local, training=False, sampler=DefaultSampler(shown, shuffle=False)
            ),
            "val_evaluator": Evaluator([KittiMetric(data, arguments.overlap)]),
            "val_interval": arguments.val_every,
        }
    device, launcher = place_of(job, distributed)
    runner = build_runner(
        Trainable(net, score=arguments.score or None, predicting=lambda place: precision(arguments, place)),
        work_dir=job.folder,
        epochs=job.epochs,
        train_dataloader=batches,
        optim_wrapper=arguments.optim_wrapper(),
        hooks=hooks,
        seed=job.seed,
        amp=arguments.amp,
        resume=resume,
        title=job.title,
        metric="moderate",
        verbose=job.verbose,
        device=device,
        launcher=launcher,
        **validation,
    )
    runner.train()


def _starting_model(job: TrainJob, data: KittiData) -> Any:
    if checkpoints.is_checkpoint(job.model):
        net = checkpoints.read(job.model)
    else:
        net = checkpoints.built(job.model, job.weights, data.classes)
    require_fit(net.config, data, job.model, job.data)
    return net


class EpochHook(Hook):
    """Tells the frames which epoch it is: their variations depend on it."""

    def before_train_epoch(self, runner: Any) -> None:
        """Set the epoch, before any frame of it is read."""
        runner.train_dataloader.dataset.set_epoch(runner.epoch)

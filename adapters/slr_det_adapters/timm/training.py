"""One training phase of a classifier: mmengine's Runner with the hooks of the method, the schedule and the scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import EMAHook, Hook
from torch import nn

from slr_det.adapter import EngineSpec, TrainJob
from slr_det.data.classification import ClassificationData
from slr_det.data.splits import MemorySplit, Split
from slr_det.errors import CheckpointError, ConfigError, SlrDetError
from slr_det.files import atomic_write
from slr_det.groups import GroupSpec
from slr_det.metrics.classification import TopK
from slr_det_adapters.mmengine.checkpoints import last_checkpoint, read_checkpoint
from slr_det_adapters.mmengine.hook import SLRHook
from slr_det_adapters.mmengine.runner import build_runner
from slr_det_adapters.mmengine.schedule import ScheduleHook
from slr_det_adapters.timm import models
from slr_det_adapters.timm.arguments import Arguments
from slr_det_adapters.timm.evaluation import precision, require_classes
from slr_det_adapters.timm.loaders import data_of, loader
from slr_det_adapters.timm.models import PREFIX, Card
from slr_det_adapters.timm.trainable import Trainable

SCORES_FILE = "scores.json"


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
        processes = _processes(job, arguments)
        if processes > 1 and "RANK" not in os.environ:
            _launch(job, processes, resume)
        else:
            run(job, arguments, resume)
    return history(folder)


def epochs_done(folder: Path) -> int:
    """How many epochs a phase has finished, from its last checkpoint."""
    last = last_checkpoint(folder)
    if last is None:
        return 0
    return int(read_checkpoint(last)["meta"]["epoch"])


def history(folder: Path) -> list[dict[str, Any]]:
    """The records of a phase: those of the method's iterations, or without one the score of each epoch."""
    last = last_checkpoint(folder)
    engine = None if last is None else (read_checkpoint(last).get("slr_det") or {}).get("engine")
    scores = _read_scores(folder)
    if engine is None:
        return [{"epoch": epoch, "metric": metric} for epoch, metric in sorted(scores.items())]
    records = [dict(record) for record in engine["history"]]
    for record, following in zip(records, [*records[1:], None], strict=True):
        ends_epoch = following is None or following["epoch"] != record["epoch"]
        if ends_epoch and record["epoch"] in scores:
            record["metric"] = scores[record["epoch"]]
    return records


def run(job: TrainJob, arguments: Arguments, resume: bool) -> None:
    """Run or continue a phase in this process (one of several under a launcher)."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = data_of(job.data, arguments)
    torch.manual_seed(job.seed)
    net, card = starting_model(job, data, arguments)
    require_classes(card, data, job.model, job.data)
    distributed = "RANK" in os.environ
    world = int(os.environ.get("WORLD_SIZE", "1")) if distributed else 1
    if arguments.batch % world:
        raise ConfigError(f"batch is {arguments.batch}, which {world} processes cannot share; use a multiple")
    local = replace(arguments, batch=arguments.batch // world)
    if len(data.train) < arguments.batch:
        raise ConfigError(
            f"batch is {arguments.batch}, more than the {len(data.train)} training images of {job.data}; lower it"
        )
    batches = loader(data, local, card, train=True)
    sampler = DefaultSampler(batches.dataset, shuffle=True, seed=job.seed)
    batches = loader(data, local, card, train=True, sampler=sampler, drop_last=True)
    if arguments.channels_last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    teacher = models.read(job.teacher)[0] if job.teacher and job.distill > 0 else None
    if teacher is not None and arguments.channels_last:
        teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = Trainable(
        net,
        card,
        channels_last=arguments.channels_last,
        smoothing=arguments.label_smoothing,
        teacher=teacher,
        share=job.distill,
        temperature=job.temperature,
        predicting=lambda device: precision(arguments, device),
    )
    steps = len(batches)
    hooks: list[Hook] = [
        _method_hook(job),
        ScheduleHook(
            arguments.schedule,
            final=arguments.min_lr,
            warmup=round(arguments.warmup_epochs * steps),
            part=job.schedule,
        ),
        CardHook(card),
    ]
    if arguments.ema:
        # mmengine's momentum is the share of the new weights.
        hooks.append(EMAHook(ema_type="ExponentialMovingAverage", momentum=1.0 - arguments.ema))
    validation: dict[str, Any] = {}
    if arguments.val_every:
        hooks.append(ScoresHook(Path(job.folder)))
        chosen = loader(data, local, card, train=False, split=_some(data.val, arguments.epoch_val_images))
        validation = {
            "val_dataloader": loader(
                data,
                local,
                card,
                train=False,
                split=_some(data.val, arguments.epoch_val_images),
                sampler=DefaultSampler(chosen.dataset, shuffle=False),
            ),
            "val_evaluator": Evaluator([TopKMetric(data.classes)]),
            "val_interval": arguments.val_every,
        }
    wrapper: dict[str, Any] = {
        "optimizer": _optimizer(arguments),
        "accumulative_counts": arguments.accumulate,
    }
    if arguments.clip:
        wrapper["clip_grad"] = {"max_norm": arguments.clip}
    runner = build_runner(
        model,
        work_dir=job.folder,
        epochs=job.epochs,
        train_dataloader=batches,
        optim_wrapper=wrapper,
        hooks=hooks,
        seed=job.seed,
        device=str(os.environ.get("LOCAL_RANK", ""))
        if distributed and torch.cuda.is_available()
        else job.device,
        amp=arguments.amp,
        resume=resume,
        title=job.title,
        metric="top1",
        verbose=job.verbose,
        launcher="pytorch" if distributed else "none",
        **validation,
    )
    runner.train()


def starting_model(job: TrainJob, data: ClassificationData, arguments: Arguments) -> tuple[nn.Module, Card]:
    """The model a phase starts from: a checkpoint, or an architecture with random or given weights."""
    if models.is_checkpoint(job.model):
        return models.read(job.model)
    return new_model(job.model, job.weights, data, arguments)


def new_model(
    name: str, weights: str, data: ClassificationData, arguments: Arguments
) -> tuple[nn.Module, Card]:
    """An architecture for a data set, with the weights a user asked for."""
    pretrained = weights == models.PRETRAINED
    net = models.build(name, len(data.classes), data.channels, pretrained=pretrained)
    if weights and not pretrained:
        models.load_weights(net, name, weights)
    return net, card_of(name, data, arguments)


def card_of(name: str, data: ClassificationData, arguments: Arguments) -> Card:
    """How a model sees a data set: small images as they are, photographs as the model was made for."""
    made_for = models.pretrained_card(name)
    size: tuple[int, int]
    if arguments.size:
        size = (arguments.size, arguments.size)
    elif isinstance(data.train, MemorySplit) and data.size is not None and not made_for.get("fixed"):
        size = data.size
    else:
        _, height, width = made_for.get("input_size", (3, 224, 224))
        size = (height, width)
    mean, std = data.mean, data.std
    if not isinstance(data.train, MemorySplit) and made_for:
        mean, std = tuple(made_for["mean"]), tuple(made_for["std"])
    return Card(name, data.classes, data.channels, size, mean, std)


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


def _optimizer(arguments: Arguments) -> dict[str, Any]:
    shared = {"lr": arguments.lr, "weight_decay": arguments.weight_decay}
    if arguments.optimizer == "sgd":
        nesterov = arguments.nesterov and arguments.momentum > 0
        return {"type": "SGD", "momentum": arguments.momentum, "nesterov": nesterov, **shared}
    if arguments.optimizer == "rmsprop":
        return {"type": "RMSprop", "momentum": arguments.momentum, **shared}
    return {"type": {"adam": "Adam", "adamw": "AdamW"}[arguments.optimizer], **shared}


class CardHook(Hook):
    """Puts into every checkpoint what builds the classifier again."""

    def __init__(self, card: Card) -> None:
        self.card = card

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add the card to the checkpoint's ``meta``."""
        checkpoint["meta"][models.META] = models.plain_card(self.card)


class ScoresHook(Hook):
    """Keeps the score of every validation in ``scores.json``, phases without a method included.

    Args:
        folder: Where the file goes.
    """

    priority = "VERY_LOW"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Add the epoch's score; those of later epochs are of a run that was killed and has been resumed."""
        if metrics and is_main_process():
            known = {k: v for k, v in _read_scores(self.folder).items() if k < runner.epoch}
            _write_scores(self.folder, {**known, runner.epoch: dict(metrics)})


class TopKMetric(BaseMetric):
    """Top-1, top-5 and the loss, for mmengine's validation loop.

    Args:
        classes: Class names.
    """

    default_prefix = ""  # None makes mmengine warn

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(collect_device="cpu")
        self.classes = tuple(classes)

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Keep the scores and labels of a batch."""
        rows = torch.stack(list(data_samples)).float().cpu()
        self.results += list(zip(rows, data_batch["labels"], strict=True))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Score all batches of all processes together."""
        metric = TopK(self.classes)
        metric.process(torch.stack([row for row, _ in results]), torch.stack([label for _, label in results]))
        return metric.evaluate().metrics


def _some(split: Split, images: int) -> Split:
    """About that many images of a split, spread over all of it; the whole for 0."""
    if not images or images >= len(split):
        return split
    return split.take(np.linspace(0, len(split) - 1, images).round().astype(np.int64))


def _read_scores(folder: Path) -> dict[int, dict[str, float]]:
    try:
        content = json.loads((folder / SCORES_FILE).read_text(encoding="utf-8"))
        return {int(epoch): dict(metrics) for epoch, metrics in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_scores(folder: Path, scores: Mapping[int, Any]) -> None:
    atomic_write(folder / SCORES_FILE, json.dumps(scores, indent=1) + "\n")


def _processes(job: TrainJob, arguments: Arguments) -> int:
    gpus = [part for part in job.device.split(",") if part.strip()]
    return len(gpus) if len(gpus) > 1 else arguments.processes


def _launch(job: TrainJob, processes: int, resume: bool) -> None:
    """Run the phase in several processes, by torchrun; one that fails ends all."""
    environment = dict(os.environ)
    if "," in job.device:
        environment["CUDA_VISIBLE_DEVICES"] = job.device
    with tempfile.TemporaryDirectory(prefix="slr-det-job-") as scratch:
        file = Path(scratch) / "job.json"
        file.write_text(json.dumps({"job": job.to_dict(), "resume": resume}), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), "-m", "slr_det_adapters.timm.worker", str(file)),
        ]
        code = subprocess.run(command, env=environment, check=False).returncode
        said = Path(scratch) / "error.txt"
        if code:
            line = said.read_text(encoding="utf-8").strip() if said.is_file() else ""
            raise SlrDetError(
                line or f"a training process ended with code {code}; see {job.folder}/train.log"
            )

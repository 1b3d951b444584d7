"""Top-1, top-5 and the loss of a checkpoint, and its batch-norm statistics re-estimated."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from slr_det.adapter import EvalJob, TrainJob
from slr_det.data.classification import ClassificationData
from slr_det.data.splits import Split
from slr_det.errors import CheckpointError
from slr_det.masks import recalibrate_batchnorm
from slr_det.metrics.classification import TopK
from slr_det_adapters.mmengine.runner import find_device
from slr_det_adapters.timm import models
from slr_det_adapters.timm.arguments import Arguments
from slr_det_adapters.timm.loaders import data_of, loader, prepared, shuffled
from slr_det_adapters.timm.models import Card


def evaluate_checkpoint(job: EvalJob) -> dict[str, Any]:
    """``top1``, ``top5`` (from six classes on), ``loss``, ``images`` and ``per_class``, on the validation images."""
    arguments = Arguments.read(job.args)
    data = data_of(job.data, arguments)
    model, card = models.read(job.model)
    require_classes(card, data, job.model, job.data)
    device = find_device(job.device)
    metrics = score(model.to(device), card, data, arguments, data.val, title="evaluation", quiet=job.verbose)
    return {**metrics, "images": len(data.val)}


def require_classes(card: Card, data: ClassificationData, model: str, source: str) -> None:
    """Refuse a model whose outputs are not the data's classes."""
    if len(card.classes) != len(data.classes):
        raise CheckpointError(
            f"model={model} predicts {len(card.classes)} classes but data={source} has {len(data.classes)}; train it "
            "on that data first with dense_epochs=N"
        )


@torch.no_grad()
def score(
    model: nn.Module,
    card: Card,
    data: ClassificationData,
    arguments: Arguments,
    split: Split,
    *,
    title: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Scores of a model on a split, in evaluation mode and the arguments' precision; its mode is restored."""
    device = next(model.parameters()).device
    metric = TopK(data.classes)
    training = model.training
    model.eval()
    if arguments.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = loader(data, arguments, card, train=False, split=split)
    bar = tqdm(batches, desc=title, unit="batch", leave=False, disable=quiet or not title, delay=2.0)
    try:
        with precision(arguments, device):
            for batch in bar:
                images = prepared(batch["images"].to(device), card, arguments.channels_last)
                metric.process(model(images).float().cpu(), batch["labels"])
    finally:
        model.train(training)
    found = metric.evaluate()
    return {**found.metrics, "per_class": found.per_class}


def precision(arguments: Arguments, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast as the arguments ask for it."""
    if not arguments.amp:
        return nullcontext()
    dtype = torch.bfloat16 if arguments.amp == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)


def recalibrate_checkpoint(source: str, target: Path, job: TrainJob) -> None:
    """Write ``source`` with batch-norm statistics averaged over augmented training images, forward passes only."""
    arguments = Arguments.read(job.args)
    data = data_of(job.data, arguments)
    model, card = models.read(source)
    device = find_device(job.device)
    model.to(device)
    if arguments.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad(), precision(arguments, device):
        recalibrate_batchnorm(
            model,
            shuffled(data, arguments, card, arguments.recalibration_images, job.seed),
            lambda net, batch: net(prepared(batch["images"].to(device), card, arguments.channels_last)),
        )
    models.write(target, model, card, job.title)

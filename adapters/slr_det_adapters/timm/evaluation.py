"""Top-1, top-5 and the loss of a checkpoint, and its batch-norm statistics re-estimated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from slr_det.adapter import EvalJob, TrainJob
from slr_det.data.classification import ClassificationData
from slr_det.masks import recalibrate_batchnorm
from slr_det.metrics.classification import TopK, TopKResult
from slr_det_adapters.mmengine.precision import precision
from slr_det_adapters.mmengine.runner import placed
from slr_det_adapters.timm import checkpoints
from slr_det_adapters.timm.arguments import Arguments
from slr_det_adapters.timm.cards import Card
from slr_det_adapters.timm.datasets import data_of, require_fit
from slr_det_adapters.timm.loaders import images_of, loader, prepared, shuffled
from slr_det_adapters.timm.starting import require_size


def evaluate_checkpoint(job: EvalJob) -> dict[str, Any]:
    """``top1``, ``top5`` (from six classes on), ``loss``, ``images`` and ``per_class``, on the validation images."""
    arguments = Arguments.read(job.args)
    data = data_of(job.data, arguments)
    model, card = _at_work(job.model, job.device, arguments)
    require_fit(card, data, job.model, job.data)
    require_size(model, card)
    found = score(model, card, data, arguments, title="evaluation", quiet=job.verbose)
    return {**found.metrics, "images": found.images, "per_class": found.per_class}


def _at_work(model: str, device: str, arguments: Arguments) -> tuple[nn.Module, Card]:
    """The model of a checkpoint on the first device that is named, and its card at the size that is asked for."""
    net, card = checkpoints.read(model)
    return placed(net, device, arguments.channels_last), card.at(arguments.size)


@torch.no_grad()
def score(
    model: nn.Module,
    card: Card,
    data: ClassificationData,
    arguments: Arguments,
    *,
    title: str = "",
    quiet: bool = False,
) -> TopKResult:
    """Scores of a model on the validation images, in evaluation mode and the arguments' precision."""
    device = next(model.parameters()).device
    model.eval()
    with precision(arguments, device):
        return score_answers(model, card, data, arguments, device=device, title=title, quiet=quiet)


@torch.no_grad()
def score_answers(
    answer: Callable[[Tensor], Tensor],
    card: Card,
    data: ClassificationData,
    arguments: Arguments,
    *,
    device: torch.device | str = "cpu",
    title: str = "",
    quiet: bool = False,
) -> TopKResult:
    """Scores on the validation images of whatever answers prepared images on ``device`` with logits."""
    metric = TopK(data.classes)
    batches = loader(images_of(data.val, card, arguments, train=False), arguments, train=False)
    bar = tqdm(batches, desc=title, unit="batch", leave=False, disable=quiet or not title, delay=2.0)
    for batch in bar:
        images = prepared(batch["images"].to(device), card, arguments.channels_last)
        known = batch["labels"] >= 0
        metric.process(answer(images).float().cpu()[known], batch["labels"][known])
    return metric.evaluate()


def recalibrate_checkpoint(source: str, target: Path, job: TrainJob) -> None:
    """Write ``source`` with batch-norm statistics averaged over augmented training images, forward passes only."""
    arguments = Arguments.read(job.args)
    data = data_of(job.data, arguments)
    model, card = _at_work(source, job.device, arguments)
    device = next(model.parameters()).device
    with torch.no_grad(), precision(arguments, device):
        recalibrate_batchnorm(
            model,
            shuffled(data, arguments, card, arguments.recalibration_images, job.seed),
            lambda net, batch: net(prepared(batch["images"].to(device), card, arguments.channels_last)),
        )
    checkpoints.write(target, model, card, job.title)

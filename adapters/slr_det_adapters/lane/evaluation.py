"""TuSimple's accuracy, false positives and false negatives of a network, and its batch norms re-estimated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor
from tqdm import tqdm

from slr_det.adapter import EvalJob, TrainJob
from slr_det.data.tusimple import LaneRow, TuSimpleDataset, to_lanes, write_rows
from slr_det.masks import recalibrate_batchnorm
from slr_det.metrics.tusimple import USUAL, Scores, evaluate
from slr_det.models.parsingnet import ParsingNet
from slr_det_adapters.lane import checkpoints
from slr_det_adapters.lane.arguments import Arguments
from slr_det_adapters.lane.data import loader, open_data, plain_frames, require_fit, training_frames
from slr_det_adapters.lane.trainable import Trainable
from slr_det_adapters.mmengine.precision import precision
from slr_det_adapters.mmengine.runner import placed
from slr_det_adapters.randomness import reseed, untouched_generators
from slr_det_adapters.subsets import drawn


def metrics_of(scores: Scores) -> dict[str, float]:
    """The scores by name, the headline first and beside it what a prediction without lanes has for nothing."""
    return {
        "accuracy": scores.accuracy,
        "empty_accuracy": scores.empty_accuracy,
        "point_accuracy": scores.point_accuracy,
        "fp": scores.fp,
        "fn": scores.fn,
    }


class LaneMetric(BaseMetric):
    """TuSimple's scores, for mmengine's validation loop.

    Args:
        frames: The frames that are evaluated, or those that they are some of.
    """

    default_prefix = ""  # None makes mmengine warn

    def __init__(self, frames: TuSimpleDataset) -> None:
        # Through the connection of the processes: "cpu" means files, in a folder that machines may not share.
        super().__init__(collect_device="gpu")
        self.frames = frames

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Keep the lanes of a batch, as the benchmark's format has them."""
        for number, answer in zip(data_batch["rows"], data_samples, strict=True):
            self.results.append((number, predicted(self.frames, number, answer)))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Score all batches of all processes together."""
        return metrics_of(score(self.frames, dict(results)))


def predicted(frames: TuSimpleDataset, number: int, answer: Tensor) -> LaneRow:
    """What a network's answer for a frame says, at the heights of its label.

    All lanes that the network can tell apart are there, as upstream has it: one that it does not see has no point, and
    counts as a false one. The time is what the benchmark takes for granted, as upstream has that too: a score that
    depended on the machine would be none of the network.
    """
    row = frames.rows[number]
    lanes = to_lanes(answer.cpu(), row.h_samples, frames.row_anchors)
    return LaneRow(row.raw_file, lanes, row.h_samples, USUAL)


def score(frames: TuSimpleDataset, found: dict[int, LaneRow]) -> Scores:
    """Score the predictions for some frames, by their numbers."""
    numbers = sorted(found)
    return evaluate([found[number] for number in numbers], [frames.rows[number] for number in numbers])


def evaluate_checkpoint(job: EvalJob) -> dict[str, Any]:
    """TuSimple's scores on the validation frames, as :func:`metrics_of` names them, and their number as ``frames``."""
    arguments = Arguments.read(job.args)
    net = at_work(job.model, job.device, arguments)
    require_fit(net.config, job.model)
    frames = plain_frames(open_data(job.data), net.config, arguments, arguments.val_frames)
    found = detect(net, frames, arguments, title="" if job.verbose else "evaluation")
    if arguments.predictions:
        write_rows(Path(arguments.predictions).expanduser(), [found[number] for number in sorted(found)])
    scores = score(frames, found)
    return {**metrics_of(scores), "frames": scores.clips, "per_class": {}}


def at_work(model: str, device: str, arguments: Arguments) -> ParsingNet:
    """The network of a checkpoint, ready to be asked."""
    return placed(checkpoints.read(model), device, arguments.channels_last)


@torch.no_grad()
def detect(
    net: ParsingNet, frames: TuSimpleDataset, arguments: Arguments, *, title: str = ""
) -> dict[int, LaneRow]:
    """The lanes that a network finds in frames, by their numbers."""
    device = next(net.parameters()).device
    model = Trainable(
        net,
        channels_last=arguments.channels_last,
        predicting=lambda place: precision(arguments, place),
    ).eval()
    batches = loader(frames, arguments)
    found: dict[int, LaneRow] = {}
    for batch in tqdm(batches, desc=title, unit="batch", leave=False, disable=not title, delay=2.0):
        answers = model(batch["images"].to(device), mode="predict")
        for number, answer in zip(batch["rows"], answers, strict=True):
            found[number] = predicted(frames, number, answer)
    return found


def recalibrate_checkpoint(source: str, target: Path, job: TrainJob) -> None:
    """Write ``source`` with batch-norm statistics averaged over augmented training frames, forward passes only."""
    arguments = Arguments.read(job.args)
    net = at_work(source, job.device, arguments)
    device = next(net.parameters()).device
    frames = training_frames(open_data(job.data), net.config, arguments, job.seed)
    order = drawn(len(frames), arguments.recalibration_frames, arguments.batch, job.seed)
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    with torch.no_grad(), precision(arguments, device), untouched_generators():
        reseed(job.seed)
        recalibrate_batchnorm(
            net,
            loader(frames, arguments, sampler=order),
            # The auxiliary head has statistics as well, and goes on being trained with the rest.
            lambda _, batch: net(batch["images"].to(device, memory_format=layout), aux=True),
        )
    checkpoints.write(target, net, job.title)

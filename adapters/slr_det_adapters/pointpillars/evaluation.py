"""KITTI's average precision of a network, and its batch-norm statistics re-estimated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from tqdm import tqdm

from slr_det.adapter import EvalJob, TrainJob
from slr_det.data.kitti.boxes import to_objects
from slr_det.data.kitti.labels import KittiObjects, write_objects
from slr_det.errors import StorageError
from slr_det.masks import recalibrate_batchnorm
from slr_det.metrics.kitti import Result, evaluate, fractions
from slr_det.models.pointpillars import Detections, PointPillars
from slr_det_adapters.mmengine.precision import precision
from slr_det_adapters.mmengine.runner import placed
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
from slr_det_adapters.pointpillars.trainable import Trainable
from slr_det_adapters.randomness import reseed, untouched_generators
from slr_det_adapters.subsets import drawn


class KittiMetric(BaseMetric):
    """KITTI's average precision, for mmengine's validation loop.

    Args:
        data: The data set.
        overlap: As :func:`slr_det.metrics.kitti.evaluate` takes it.
    """

    default_prefix = ""  # None makes mmengine warn

    def __init__(self, data: KittiData, overlap: str) -> None:
        # Through the connection of the processes: "cpu" means files, in a folder that machines may not share.
        super().__init__(collect_device="gpu")
        self.data = data
        self.overlap = overlap

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Keep the detections of a batch, as KITTI's format has them."""
        for frame, found in zip(data_batch["ids"], data_samples, strict=True):
            self.results.append((frame, detected(self.data, frame, found)))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Score all batches of all processes together."""
        result = score(self.data, dict(results), self.overlap)
        return {name: value for name, value in fractions(result).items() if isinstance(value, float)}


def detected(data: KittiData, frame: str, found: Detections) -> KittiObjects:
    """The detections of a frame in KITTI's camera frame."""
    names = [data.classes[label - 1] for label in found.labels.tolist()]
    return to_objects(
        found.boxes.float().cpu().numpy(),
        found.scores.float().cpu().numpy(),
        names,
        data.folder.calibration(frame),
        data.folder.image_shape(frame),
    )


def score(data: KittiData, found: dict[str, KittiObjects], overlap: str) -> Result:
    """Average precision of the detections of some frames."""
    frames = sorted(found)
    truths = [data.folder.objects(frame) for frame in frames]
    return evaluate(truths, [found[frame] for frame in frames], data.classes, overlap)


def evaluate_checkpoint(job: EvalJob) -> dict[str, Any]:
    """KITTI's AP on the validation frames as :func:`slr_det.metrics.kitti.fractions` has it; ``frames``, how many."""
    arguments = Arguments.read(job.args)
    data = open_data(job.data)
    net = at_work(job.model, job.device, arguments)
    require_fit(net.config, data, job.model, job.data)
    folder = _made(arguments.predictions) if arguments.predictions else None
    found = detect(net, data, arguments, title="" if job.verbose else "evaluation")
    if folder is not None:
        for frame, objects in found.items():
            write_objects(folder / f"{frame}.txt", objects)
    return {**fractions(score(data, found, arguments.overlap)), "frames": len(found)}


def _made(name: str) -> Path:
    folder = Path(name).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"predictions={name}: cannot be made ({error.strerror or error}); choose another folder"
        ) from error
    return folder


def at_work(model: str, device: str, arguments: Arguments) -> PointPillars:
    """The network of a checkpoint, ready to be asked."""
    return placed(checkpoints.read(model), device, arguments.channels_last)


@torch.no_grad()
def detect(
    net: PointPillars, data: KittiData, arguments: Arguments, *, title: str = ""
) -> dict[str, KittiObjects]:
    """What a network finds in the validation frames, by frame."""
    frames = plain_frames(data, "val", net.config, arguments, arguments.val_frames)
    device = next(net.parameters()).device
    model = Trainable(
        net, score=arguments.score or None, predicting=lambda place: precision(arguments, place)
    ).eval()
    batches = loader(frames, net.config, arguments, training=False)
    found: dict[str, KittiObjects] = {}
    for batch in tqdm(batches, desc=title, unit="batch", leave=False, disable=not title, delay=2.0):
        moved = model.data_preprocessor.to(device)(batch)
        for frame, detections in zip(batch["ids"], model(**moved, mode="predict"), strict=True):
            found[frame] = detected(data, frame, detections)
    return found


def recalibrate_checkpoint(source: str, target: Path, job: TrainJob) -> None:
    """Write ``source`` with batch-norm statistics averaged over augmented training frames, forward passes only."""
    arguments = Arguments.read(job.args)
    data = open_data(job.data)
    net = at_work(source, job.device, arguments)
    device = next(net.parameters()).device
    frames = training_frames(data, net.config, arguments, job.seed)
    order = drawn(len(frames), arguments.recalibration_frames, arguments.batch, job.seed)
    model = Trainable(net).eval()
    preprocess = model.data_preprocessor.to(device)
    with torch.no_grad(), precision(arguments, device), untouched_generators():
        reseed(job.seed)
        batches = loader(frames, net.config, arguments, training=True, sampler=order)
        recalibrate_batchnorm(net, batches, lambda _, batch: model(**preprocess(batch), mode="predict"))
    checkpoints.write(target, net, job.title)

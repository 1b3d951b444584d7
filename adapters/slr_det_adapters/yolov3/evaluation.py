"""Upstream's own evaluation of a checkpoint, and batch-norm recalibration."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from tqdm import tqdm

from slr_det.adapter import EvalJob, TrainJob
from slr_det.data.truth import GroundTruth, ground_truth
from slr_det.errors import ConfigError, DataError
from slr_det.masks import recalibrate_batchnorm
from slr_det.metrics.coco import evaluate
from slr_det_adapters.hidden import Checkout
from slr_det_adapters.subsets import spread
from slr_det_adapters.yolov3 import building, checkpoints
from slr_det_adapters.yolov3.arguments import Arguments

_MAX_IMAGES = 2048


def evaluate_checkpoint(job: EvalJob) -> dict[str, Any]:
    """The mAP of upstream's ``val.run``, and COCO's numbers by pycocotools for the boxes that it found.

    ``trainer_map50`` and ``trainer_map`` are what ``val.py`` prints.
    """
    arguments = Arguments.read(job.args)
    device = building.device_of(job.device)
    checkpoint = checkpoints.read(job.model)
    names = yaml.safe_load(Path(job.data).read_text(encoding="utf-8"))["names"]
    if len(names) != checkpoint.head.nc:
        raise ConfigError(
            f"model={job.model} predicts {checkpoint.head.nc} classes, but data={job.data} has {len(names)}"
        )
    truth = ground_truth(job.data, arguments.split)
    found: list[dict[str, Any]] = []
    with building.opened(arguments.upstream, device, job.data, verbose=job.verbose) as checkout:
        events = checkout.seam("utils.callbacks", "Callbacks")()
        events.register_action("on_val_image_end", callback=_collector(truth, found))
        run, bar = checkout.seam("val", "run"), checkout.seam("val", "TQDM")
        checkout.seam("val", "select_device")
        with (
            tempfile.TemporaryDirectory(prefix="slr-det-val-") as scratch,
            checkout.replaced(
                "val",
                # Its own hides GPUs from the rest of the process.
                select_device=lambda *_, **__: device,
                TQDM=bar if job.verbose else _bar,
            ),
        ):
            try:
                scores, _, _ = run(
                    data=job.data,
                    weights=job.model,
                    batch_size=arguments.batch,
                    imgsz=arguments.imgsz,
                    conf_thres=arguments.conf_thres,
                    iou_thres=arguments.iou_thres,
                    max_det=arguments.max_det,
                    task=arguments.split,
                    workers=building.workers(arguments),
                    augment=arguments.augment,
                    half=arguments.half,
                    project=scratch,
                    plots=False,
                    callbacks=events,
                )
            except AssertionError as error:
                raise building.refused_by_upstream(error) from error
    result = evaluate(truth.coco, found)
    return {
        **result.metrics,
        "trainer_map50": float(scores[2]),
        "trainer_map": float(scores[3]),
        "images": len(truth.coco["images"]),
        "per_class": result.per_class,
    }


def loaded(path: str, checkout: Checkout) -> nn.Module:
    """Upstream's model of a checkpoint that :func:`checkpoints.read` takes: the average where it has one, float32."""
    card = checkpoints.read(path).card
    model: nn.Module = checkout.seam("models.experimental", "attempt_load")(path, fuse=False)
    if "ema" in card:  # at full precision
        model.load_state_dict(card["ema"])
    return model


def recalibrate_checkpoint(source: str, target: Path, job: TrainJob) -> None:
    """Write ``source`` with batch-norm statistics averaged over training images, letterboxed as in validation."""
    arguments = Arguments.read(job.args)
    device = building.device_of(job.device)
    with building.opened(arguments.upstream, device, job.data, verbose=job.verbose) as checkout:
        model: Any = loaded(source, checkout).to(device)
        data = checkout.seam("utils.general", "check_dataset")(job.data)
        try:
            _, dataset = checkout.seam("utils.dataloaders", "create_dataloader")(
                data["train"], arguments.imgsz, arguments.batch, max(int(model.stride.max()), 32), workers=0
            )
        except (AssertionError, RuntimeError) as error:
            raise building.refused_by_upstream(error) from error
        recalibrate_batchnorm(model, _batches(dataset, arguments.batch, device, job.title))
        checkpoints.write(target, checkpoints.for_inference(model, {"data": job.data}, job.title))


def _collector(truth: GroundTruth, found: list[dict[str, Any]]) -> Any:
    """Takes every box that upstream scores, in the pixels of its image, in COCO's form."""

    def collect(scored: Tensor, boxes: Tensor, path: Path, *_: Any) -> None:
        image = truth.image_id(path)
        for x1, y1, x2, y2, score, label in boxes[:, :6].tolist():
            found.append(
                {
                    "image_id": image,
                    "category_id": truth.category_id(int(label)),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": score,
                }
            )

    return collect


def _batches(dataset: Any, size: int, device: torch.device, title: str) -> Iterator[Tensor]:
    chosen = list(spread(range(len(dataset)), _MAX_IMAGES))
    if not chosen:
        raise DataError("there are no training images to re-estimate batch-norm statistics on")
    for at in tqdm(range(0, len(chosen), size), desc=title, unit="batch", dynamic_ncols=True):
        images = torch.stack([dataset[index][0] for index in chosen[at : at + size]])
        yield images.to(device).float() / 255


def _bar(batches: Any, **_: Any) -> Any:
    return tqdm(batches, desc="evaluation", unit="batch", dynamic_ncols=True, leave=False)

"""Batch-norm recalibration on the images that a model was trained on, as inference sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from slr_det.adapter import TrainJob
from slr_det.masks import recalibrate_batchnorm
from slr_det_adapters.ultralytics import models

MAX_IMAGES = 2048


def recalibrate_checkpoint(source: str, target: Path, job: TrainJob) -> None:
    """Write ``source`` with batch-norm means and variances averaged over up to MAX_IMAGES training images.

    The images are letterboxed as in validation, without augmentation; no weight changes.
    """
    from ultralytics.utils.torch_utils import select_device

    model, args = models.averaged_model(source)
    device = select_device(job.device or None, verbose=False)
    model = model.to(device)
    dataset, batch = plain_images(model, args, job.data, job.args, "train")
    recalibrate_batchnorm(model, _batches(dataset, batch, device, job.title))
    models.write_native(target, model, {**args, "data": job.data}, phase=job.title)


def plain_images(
    model: Any, args: Mapping[str, Any], source: str, given: Mapping[str, Any], split: str
) -> tuple[Any, int]:
    """The images of a split, letterboxed to squares as in validation, and the batch that the arguments ask for.

    Args:
        model: The model, for its strides.
        args: Arguments that it was trained with.
        source: The data YAML.
        given: Arguments in place of these.
        split: ``train``, ``val`` or ``test``.
    """
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset
    from ultralytics.utils import DEFAULT_CFG_KEYS

    data = check_det_dataset(source)
    overrides = {k: v for k, v in {**args, **given}.items() if k in DEFAULT_CFG_KEYS}
    overrides.update(task="detect", mode="val", rect=False, cache=False, fraction=1.0, augmentations=None)
    batch = max(int(overrides.get("batch") or 16), 1)
    stride = max(int(model.stride.max()), 32)
    return build_yolo_dataset(
        get_cfg(overrides=overrides), data[split], batch, data, mode="val", stride=stride
    ), batch


def _batches(dataset: Any, batch: int, device: torch.device, title: str) -> Iterator[torch.Tensor]:
    count = min(len(dataset), MAX_IMAGES)
    # Evenly spread, so that an ordering by class or scene does not decide which part is seen.
    chosen = torch.linspace(0, len(dataset) - 1, count).round().long().tolist()
    for at in tqdm(range(0, count, batch), desc=title, unit="batch", dynamic_ncols=True):
        images = torch.stack([dataset[i]["img"] for i in chosen[at : at + batch]])
        yield images.to(device).float() / 255

"""Models, loaders and devices of OpenPCDet."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slr_det.errors import ConfigError
from slr_det_adapters import checkouts
from slr_det_adapters.openpcdet import configs, kitti
from slr_det_adapters.openpcdet.inject import Checkout, use_checkout

_REMARKS = (
    r".*torch\.cuda\.amp",
    r".*pin_memory",
    r".*lr_scheduler\.step",
    r"torch\.meshgrid",
    r"__array_wrap__",
    r"\s*The keyword argument .parallel=True.",
)


def device_of(word: str) -> torch.device:
    """The device that a user named; see :func:`slr_det_adapters.checkouts.device_of`."""
    return checkouts.device_of(word, "OpenPCDet")


@contextlib.contextmanager
def opened(upstream: str | Path, device: torch.device) -> Iterator[Checkout]:
    """OpenPCDet on a device, without its and torch's remarks on old names."""
    with use_checkout(upstream, device) as checkout, warnings.catch_warnings():
        for message in _REMARKS:
            warnings.filterwarnings("ignore", message=message)
        warnings.filterwarnings("ignore", category=FutureWarning)
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            yield checkout


def network(config: Mapping[str, Any], checkout: Checkout, device: torch.device) -> nn.Module:
    """The model of a configuration with random weights; no data is needed."""
    ready = configs.live(config, checkout)
    template = checkout.seam("pcdet.datasets", "DatasetTemplate")
    described = template(ready.DATA_CONFIG, ready.CLASS_NAMES, training=False, root_path=Path())
    model: nn.Module = checkout.call(
        "pcdet.models",
        "build_network",
        model_cfg=ready.MODEL,
        num_class=len(ready.CLASS_NAMES),
        dataset=described,
    )
    return model.to(device)


def loader(
    ready: Any, root: Path, checkout: Checkout, *, training: bool, workers: int, logger: logging.Logger
) -> Any:
    """OpenPCDet's data loader over a folder of :func:`kitti.prepare`, and its data set."""
    if workers and "fork" not in multiprocessing.get_all_start_methods():
        raise ConfigError(f"workers is {workers}, but this system cannot fork processes; use workers=0")
    kitti.complete(root, ready, checkout)
    if training:
        kitti.adjust(ready, root)
    dataset, batches, _ = checkout.call(
        "pcdet.datasets",
        "build_dataloader",
        dataset_cfg=ready.DATA_CONFIG,
        class_names=ready.CLASS_NAMES,
        batch_size=ready.OPTIMIZATION.BATCH_SIZE_PER_GPU,
        dist=False,
        root_path=root,
        workers=workers,
        seed=None,  # a fixed one would give the workers of every epoch the same augmentations
        logger=logger,
        training=training,
    )
    if workers:
        # A process that starts from nothing could not import the checkout.
        batches.multiprocessing_context = "fork"
    kitti.guard_empty_frames(dataset)
    if training:
        kitti.drop_empty_groups(dataset, checkout)
    return batches


def logger_of(folder: Path | None, verbose: bool) -> logging.Logger:
    """Where OpenPCDet's log goes: a file of the phase, and with ``verbose`` the terminal."""
    logger = logging.getLogger(f"{__name__}.{folder}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        handler.close()
        logger.removeHandler(handler)
    handlers: list[logging.Handler] = [logging.StreamHandler()] if verbose else [logging.NullHandler()]
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(folder / "train.log", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
    return logger

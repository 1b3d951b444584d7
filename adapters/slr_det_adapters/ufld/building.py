"""Upstream's networks, loaders and devices."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slr_det.data.loading import FrameLoader
from slr_det.models.parsingnet import ParsingNetConfig
from slr_det_adapters import checkouts
from slr_det_adapters.hidden import Checkout
from slr_det_adapters.ufld import tusimple
from slr_det_adapters.ufld.configs import DATASET
from slr_det_adapters.ufld.inject import use_checkout

_DATASETS, _LOADERS = "data.dataset", "data.dataloader"
# What torch, torchvision and numpy remark on upstream's code, which is news for its authors.
_REMARKS = (
    r"The parameter 'pretrained'",
    r"Arguments other than a weight enum",
    r"This DataLoader will create",
    r"invalid value encountered",
    r"Mean of empty slice",
    r"Converting a tensor with requires_grad=True",
)


def device_of(word: str) -> torch.device:
    """The device that a user named; see :func:`slr_det_adapters.checkouts.device_of`."""
    return checkouts.device_of(word, "Ultra-Fast-Lane-Detection")


@contextlib.contextmanager
def opened(upstream: str | Path, device: torch.device) -> Iterator[Checkout]:
    """Upstream on a device, without remarks on its code."""
    with warnings.catch_warnings():
        for message in _REMARKS:
            warnings.filterwarnings("ignore", message=message)
        for category in (FutureWarning, ResourceWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category)
        with (
            use_checkout(upstream, device) as checkout,
            torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext(),
        ):
            yield checkout


def network(
    config: ParsingNetConfig, checkout: Checkout, device: torch.device, *, aux: bool, pretrained: bool = False
) -> nn.Module:
    """Upstream's parsingNet with random weights, or with a backbone that torchvision fetches."""
    make = checkout.seam("model.model", "parsingNet")
    model: nn.Module = make(
        pretrained=pretrained, backbone=config.backbone, cls_dim=config.classes, use_aux=aux
    )
    return model.to(device)


def train_loader(config: Mapping[str, Any], root: Path, checkout: Checkout, workers: int) -> Any:
    """Upstream's loader over a folder of :func:`tusimple.prepare`, with as many workers as are wanted."""
    tusimple.complete(root)
    made, _ = checkout.seam(_LOADERS, "get_train_loader")(
        config["batch_size"],
        str(root),
        config["griding_num"],
        DATASET,
        config["use_aux"],
        False,
        config["num_lanes"],
    )
    return with_workers(made, checkout, workers)


def with_workers(loader: Any, checkout: Checkout, workers: int) -> FrameLoader:
    """The same batches; a damaged image is one line that names it."""
    checkout.seam(_DATASETS, "loader_func")
    vars(sys.modules[_DATASETS])["loader_func"] = tusimple.read_picture
    # Its modules are importable in this process alone, so its workers have to be copies of it.
    forks = workers > 0 and "fork" in multiprocessing.get_all_start_methods()
    return FrameLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=loader.sampler,
        num_workers=workers,
        multiprocessing_context="fork" if forks else None,
    )

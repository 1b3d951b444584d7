"""The objective that is measured on batches held for the run (``objective: fixed``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slr_det_adapters.randomness import HELD_BATCHES, reseed, seed_of, untouched_generators
from slr_det_adapters.yolov3.criterion import PenalisedLoss

_BATCHES = 4


class HeldBatches:
    """A few training batches, drawn from the seed alone when they are first needed; no generator of the process moves.

    Args:
        loader: Upstream's training loader, whose data set and batch size they have.
        seed: Seed of the run.
        upstream: The loss.
        device: Where the model is.
    """

    def __init__(self, loader: Any, seed: int, *, upstream: PenalisedLoss, device: torch.device) -> None:
        self._loader = loader
        self._seed = seed
        self._loss = upstream
        self._device = device
        self._batches: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def mean_loss(self, model: nn.Module) -> float:
        """Mean loss per image; statistics of batch norms are neither taken from the batches nor changed by them."""
        if not self._batches:
            self._draw()
        training = {module: module.training for module in model.modules()}
        model.train()  # else the head decodes its boxes
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        total = images = 0.0
        try:
            for pictures, targets in self._batches:
                batch = pictures.to(self._device).float() / 255
                total += self._loss.of(model(batch), targets.to(self._device)) * len(batch)
                images += len(batch)
        finally:
            for module, mode in training.items():
                module.training = mode
        return total / images

    def _draw(self) -> None:
        dataset, size = self._loader.dataset, self._loader.batch_size
        with untouched_generators():
            reseed(seed_of(self._seed, HELD_BATCHES))
            order = torch.randperm(len(dataset))[: _BATCHES * size].tolist()
            chunks = [order[at : at + size] for at in range(0, len(order), size)]
            for chunk in chunks:
                pictures, targets, _, _ = dataset.collate_fn([dataset[index] for index in chunk])
                self._batches.append((pictures, targets))

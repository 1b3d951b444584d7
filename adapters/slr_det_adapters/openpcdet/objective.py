"""The objective that is measured on batches held for the run (``objective: fixed``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from slr_det_adapters.openpcdet import kitti
from slr_det_adapters.openpcdet.inject import Checkout
from slr_det_adapters.randomness import HELD_BATCHES, reseed, seed_of, untouched_generators

_BATCHES = 4


class HeldBatches:
    """A few training batches, drawn once from the seed alone; no generator of the process moves.

    Args:
        loader: The training loader whose data set and batch size they have.
        seed: Seed of the run.
        checkout: OpenPCDet.
    """

    def __init__(self, loader: Any, seed: int, checkout: Checkout) -> None:
        self._place = checkout.seam("pcdet.models", "load_data_to_gpu")
        dataset, size = loader.dataset, loader.batch_size
        with untouched_generators():
            reseed(seed_of(seed, HELD_BATCHES))
            kitti.restart_samplers(dataset, checkout)
            order = torch.randperm(len(dataset))[: _BATCHES * size].tolist()
            self._batches = [
                dataset.collate_batch([dataset[index] for index in order[at : at + size]])
                for at in range(0, len(order), size)
            ]

    @torch.no_grad()
    def mean_loss(self, model: nn.Module) -> float:
        """Mean loss per frame; statistics of batch norms are neither taken from the batches nor changed by them."""
        training = {module: module.training for module in model.modules()}
        model.train()  # else there is no loss
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        total = frames = 0.0
        try:
            for held in self._batches:
                batch = dict(held)
                self._place(batch)
                losses, _, _ = model(batch)
                total += float(losses["loss"].mean()) * held["batch_size"]
                frames += held["batch_size"]
        finally:
            for module, mode in training.items():
                module.training = mode
        return total / frames

"""The task loss on a few training batches that are held for the run: f of condition (6) with ``objective: fixed``."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.utils.data import DataLoader

from slr_det.errors import ConfigError
from slr_det_adapters.randomness import reseed, seed_of, untouched_generators


class HeldBatches:
    """Mean loss of a model on batches of its training set, in evaluation mode.

    The samples are drawn by number, so that no sampler moves on; the same seed and rank give the same batches.

    Args:
        loader: The training loader; its data set must be indexable.
        count: How many batches to hold.
        seed: Seed of the run.
        rank: Rank of the process; every rank holds batches of its own.

    Raises:
        ConfigError: The data set cannot be indexed.
    """

    def __init__(self, loader: DataLoader[Any], count: int, seed: int, rank: int) -> None:
        dataset: Any = loader.dataset
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise ConfigError(
                "hyper.objective is 'fixed', which needs a training set that can be indexed; use objective='running'"
            )
        size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 1
        with untouched_generators():
            reseed(seed_of(seed, -1, rank))
            order = np.random.permutation(len(dataset))[: count * size]
            self._batches = [
                loader.collate_fn([dataset[int(i)] for i in order[at : at + size]])
                for at in range(0, len(order), size)
            ]

    def loss(self, model: Any, optim_wrapper: OptimWrapper) -> float:
        """Mean of the batches' losses; modes, buffers and generators are as before afterwards.

        Args:
            model: An mmengine BaseModel without its wrapper.
            optim_wrapper: Gives the precision of training.
        """
        modes = {module: module.training for module in model.modules()}
        model.eval()
        losses: list[Tensor] = []
        try:
            with untouched_generators(), torch.no_grad(), optim_wrapper.optim_context(model):
                for held in self._batches:
                    batch = model.data_preprocessor(copy.deepcopy(held), False)
                    losses.append(model.parse_losses(_forward(model, batch))[0].detach().float())
        finally:
            for module, mode in modes.items():
                module.training = mode
        return float(torch.stack(losses).mean())


def _forward(model: nn.Module, batch: Any) -> Any:
    return model(**batch, mode="loss") if isinstance(batch, dict) else model(*batch, mode="loss")

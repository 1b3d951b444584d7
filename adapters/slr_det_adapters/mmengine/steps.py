"""Loaders of mmengine whose randomness depends on the place in a run alone, so that a resumed run is the same run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from mmengine.dataset import worker_init_fn
from torch.utils.data import DataLoader

from slr_det_adapters.randomness import reseed, seed_of


def restart_loader(loader: DataLoader[Any], value: int) -> None:
    """Make the next pass over a loader depend on ``value`` alone: its own generators, and its workers."""
    for generator in {loader.generator, getattr(loader.sampler, "generator", None)} - {None}:
        generator.manual_seed(value)
    start = loader.worker_init_fn
    if isinstance(start, partial) and start.func is worker_init_fn:
        # mmengine gives every epoch's workers the seed of the run, so that every epoch draws the same augmentations.
        loader.worker_init_fn = partial(worker_init_fn, **{**start.keywords, "seed": value % 2**31})
    if loader.persistent_workers:
        # Workers that live on would go on with the random streams of earlier epochs, which no checkpoint holds.
        loader._iterator = None


class SeededBatches:
    """The batches of an endless iterator, each drawn with generators that depend on its number alone.

    On resume the loop draws and drops the batches of earlier steps; those draws are then the same as well.
    """

    def __init__(self, batches: Iterator[Any], seed: int, rank: int) -> None:
        self._batches = batches
        self._seed = seed
        self._rank = rank
        self._next = 0

    def __iter__(self) -> SeededBatches:
        return self

    def __next__(self) -> Any:
        reseed(seed_of(self._seed, self._next, self._rank))
        self._next += 1
        return next(self._batches)

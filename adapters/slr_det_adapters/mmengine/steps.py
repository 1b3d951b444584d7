"""Where the iterations of a method end within a training loop, and randomness that depends on the place alone."""

from __future__ import annotations

import contextlib
import random
from bisect import bisect_right
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dataset import worker_init_fn
from torch.utils.data import DataLoader

from slr_det.errors import ConfigError


class Plan:
    """The steps of a run at which something ends, counted from 1 over the whole run.

    Args:
        total: Steps (batches) of the run.
        iterations: Iterations of the method, spread evenly over the steps; the last ends with the last step.
        epoch: Steps of an epoch, or None for a loop without epochs.

    Raises:
        ConfigError: There are more iterations than steps.
    """

    def __init__(self, total: int, iterations: int, epoch: int | None) -> None:
        if iterations > total:
            raise ConfigError(
                f"{iterations} iterations do not fit into {total} steps; lower iterations_per_epoch or iterations, "
                "or train longer"
            )
        # Rounded half up in whole numbers, so that the ends of an epoch's last iteration are exact.
        self.ends = [(2 * i * total + iterations) // (2 * iterations) for i in range(1, iterations + 1)]
        stops = {*self.ends, *(range(epoch, total + 1, epoch) if epoch else ())}
        self._stops = [0, *sorted(stops)]
        self._ends = frozenset(self.ends)

    def is_end(self, step: int) -> bool:
        """Whether an iteration ends with this step."""
        return step in self._ends

    def ended(self, step: int) -> int:
        """How many iterations have ended once this many steps are done."""
        return bisect_right(self.ends, step)

    def window(self, step: int) -> tuple[int, int]:
        """After this many steps: how many of them belong to the current window, and how long that is.

        Gradients are accumulated within a window only: it ends with every iteration and every epoch.
        """
        at = min(bisect_right(self._stops, step), len(self._stops) - 1)
        begin, end = self._stops[at - 1], self._stops[at]
        return step - begin, end - begin


def seed_of(seed: int, place: int, rank: int) -> int:
    """A seed for one epoch (or batch) of one rank; unlike sums of them, no two places share one."""
    return int(np.random.SeedSequence([seed, place + 1, rank]).generate_state(1)[0])


def reseed(value: int) -> None:
    """Seed every random generator of the process."""
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


@contextlib.contextmanager
def untouched_generators() -> Iterator[None]:
    """Put the generators of the process back where they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


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

"""Randomness that depends on the place in a run alone, so that a resumed run is the same run."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

#: Places in a run outside its epochs (or batches) that draw random numbers.
HELD_BATCHES, WEIGHTS, RECALIBRATION = -1, 2**32 - 2, 2**32 - 3


def seed_of(seed: int, place: int, rank: int = 0) -> int:
    """A seed for an epoch (or batch), or another place, of one rank; unlike sums of them, no two places share one."""
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

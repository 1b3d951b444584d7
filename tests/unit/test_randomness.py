"""Seeds depend on the place in a run, and no two places share one."""

from __future__ import annotations

import random

import numpy as np
import torch

from slr_det_adapters.randomness import (
    HELD_BATCHES,
    RECALIBRATION,
    WEIGHTS,
    reseed,
    seed_of,
    untouched_generators,
)


def test_seeds_of_all_places_differ() -> None:
    places = [WEIGHTS, HELD_BATCHES, RECALIBRATION, *range(50)]
    seeds = {seed_of(seed, place, rank) for seed in range(4) for place in places for rank in range(3)}
    assert len(seeds) == 4 * 3 * len(places)


def test_an_epoch_has_the_seed_that_published_runs_had() -> None:
    # Another rule would change every run: the tables of docs/results could not be made again.
    assert seed_of(0, 0, 0) == int(np.random.SeedSequence([0, 1, 0]).generate_state(1)[0])
    assert seed_of(3, 9, 1) == int(np.random.SeedSequence([3, 10, 1]).generate_state(1)[0])


def test_what_is_done_aside_leaves_the_generators_where_they_were() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    reseed(5)
    wanted = draw()
    reseed(5)
    with untouched_generators():
        reseed(6)
        assert draw() != wanted
    assert draw() == wanted

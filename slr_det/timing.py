"""Timing several variants fairly: interleaved in one run, after a warm-up, medians and quartiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    settle: int = 0,
    pause: float = 0.0,
    after: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of every variant in every round.

    Each round runs all of them, starting one further each time, so that a machine that slows down or speeds up does
    so for all alike. One round before is not counted.

    Args:
        variants: What is timed, by name.
        rounds: How many rounds count.
        settle: Runs of a variant, not counted, before each that is: they bring its data back into the caches.
        pause: Seconds of sleep before those: threads of the variant before, which go on spinning for some
            milliseconds, would take this one's cores.
        after: Called after each round.
    """
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(-1, rounds):
        start = index % len(names)
        for name in names[start:] + names[:start]:
            time.sleep(pause)
            for _ in range(settle):
                variants[name]()
            elapsed = _timed(variants[name])
            if index >= 0:
                seconds[name].append(elapsed)
        after()
    return seconds


def repeated(action: Callable[[], object], rounds: int, before: Callable[[], object]) -> list[float]:
    """Seconds of an action in every round, after an untimed ``before``; one round before is not counted."""
    seconds = []
    for _ in range(rounds + 1):
        before()
        seconds.append(_timed(action))
    return seconds[1:]


def _timed(action: Callable[[], object]) -> float:
    synchronize()
    began = time.perf_counter()
    action()
    synchronize()
    return time.perf_counter() - began


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def median(values: Sequence[float]) -> float:
    """Median."""
    return float(np.median(values))


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile."""
    low, high = np.percentile(values, [25, 75])
    return float(low), float(high)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run PyTorch's CPU operations on ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

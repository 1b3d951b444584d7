"""Means, spreads and verdicts over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Summary:
    """Several seeds' numbers.

    Attributes:
        n: How many there are.
        mean: Their mean; None without any.
        deviation: Their sample standard deviation (n - 1 in the denominator); None for fewer than two.
    """

    n: int
    mean: float | None
    deviation: float | None


def summarise(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation."""
    n = len(values)
    if n == 0:
        return Summary(0, None, None)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(1, mean, None)
    return Summary(n, mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)))


@dataclass(frozen=True)
class Verdict:
    """The first entry against the best baseline at one rate.

    Attributes:
        rate: Compression rate.
        entry: Label of the first entry.
        baseline: Label of the baseline; empty where no seed has both.
        difference: Mean over the shared seeds of the entry's score minus the baseline's; None without any.
        spread: Standard error of that mean, s / sqrt(n); None for fewer than two seeds.
        n: Shared seeds.
    """

    rate: float
    entry: str
    baseline: str
    difference: float | None
    spread: float | None
    n: int

    @property
    def outcome(self) -> str:
        """``wins``, ``within the spread``, ``loses``, or ``not judged``."""
        if self.difference is None or self.spread is None:
            return "not judged"
        if abs(self.difference) <= self.spread:
            return "within the spread"
        return "wins" if self.difference > 0 else "loses"

    def beats(self, margin: float) -> bool:
        """Whether the entry is ahead by more than ``margin`` and the spread together."""
        return (
            self.difference is not None and self.spread is not None and self.difference - self.spread > margin
        )

    def text(self) -> str:
        """The verdict in one line, in points (hundredths)."""
        head = f"{self.rate:g}x: {self.entry}"
        if self.difference is None:
            return f"{head}: no seed has both it and a baseline yet"
        seeds = f"{self.n} seed{'' if self.n == 1 else 's'}"
        points = 100 * self.difference
        if self.spread is None:
            return (
                f"{head} is {points:+.2f} points from {self.baseline}; one seed has no spread to judge it by"
            )
        spread = f"{100 * self.spread:.2f} points"
        if self.outcome == "within the spread":
            return f"{head} is within the spread of {self.baseline}: {points:+.2f} ± {spread} ({seeds})"
        word = "over" if self.outcome == "wins" else "against"
        return f"{head} {self.outcome} by {abs(points):.2f} ± {spread} {word} {self.baseline} ({seeds})"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "outcome": self.outcome}


Scores = Mapping[int, float]
"""Final scores by seed."""


def compare(rate: float, entry: tuple[str, Scores], baseline: tuple[str, Scores]) -> Verdict:
    """One entry against one baseline, seed by seed: seeds share the data order, so their differences are paired."""
    shared = sorted(entry[1].keys() & baseline[1].keys())
    found = summarise([entry[1][seed] - baseline[1][seed] for seed in shared])
    spread = None if found.deviation is None else found.deviation / math.sqrt(found.n)
    return Verdict(rate, entry[0], baseline[0], found.mean, spread, found.n)


def judge(rate: float, entry: tuple[str, Scores], baselines: Mapping[str, Scores]) -> Verdict:
    """The entry against the best baseline: the one with the highest mean over the seeds that it shares with it."""
    verdicts = [compare(rate, entry, baseline) for baseline in baselines.items()]
    judged = [verdict for verdict in verdicts if verdict.difference is not None]
    if not judged:
        return Verdict(rate, entry[0], "", None, None, 0)

    def mean(verdict: Verdict) -> float:
        scores = baselines[verdict.baseline]
        return summarise([scores[seed] for seed in scores.keys() & entry[1].keys()]).mean or 0.0

    return max(judged, key=mean)

"""What upstream's ``train`` counts and saves with: its batches, and the name ``torch`` in its module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, Self

import torch

_NO_STEP = -1  # upstream's place of the last step where there was none yet


class Place(int):
    """The place of a batch in a run, which knows where the last step was.

    Upstream steps where ``ni - last_opt_step >= accumulate``, and forgets ``last_opt_step`` when it resumes. The place
    that was saved is put there, so that a resumed run steps after the same batches as one that was never stopped.
    """

    last_step: int = _NO_STEP

    @classmethod
    def at(cls, value: int, last_step: int) -> Self:
        """A place."""
        place = cls(value)
        place.last_step = last_step
        return place

    def __add__(self, other: int) -> Place:
        return Place.at(int(self) + other, self.last_step)

    def __sub__(self, other: int) -> int:
        return int(self) - (self.last_step if other == _NO_STEP else int(other))


class Batches:
    """Stands in for upstream's progress bar over the batches of an epoch.

    Args:
        batches: Pairs of a place in the epoch and a batch.
        first: Place in the run of the epoch's first batch.
        last_step: Place of the last step before the epoch; -1 for none.

    Attributes:
        place: Place in the run of the batch under way.
        said: The losses that upstream shows, as text.
    """

    def __init__(self, batches: Iterable[tuple[int, Any]], first: int, last_step: int) -> None:
        self._batches = batches
        self._first = first
        self._last_step = last_step
        self.place = first
        self.said = ""

    def __iter__(self) -> Iterator[tuple[Place, Any]]:
        for number, batch in self._batches:
            self.place = self._first + number
            yield Place.at(number, self._last_step), batch

    def set_description(self, line: str) -> None:
        """What upstream shows after every batch: epoch, memory, three losses, boxes, size."""
        words = line.split()
        if len(words) == 7:
            self.said = f", box {words[2]}, obj {words[3]}, cls {words[4]}"
        show = getattr(self._batches, "set_description", None)
        if show is not None:
            show(line)


class Torch:
    """``torch`` for one module, with another ``save`` and ``amp.GradScaler``, and one GPU at most.

    Upstream spreads a model over every GPU that it sees.

    Args:
        save: Takes what ``torch.save`` takes.
        scaler: Makes what ``torch.amp.GradScaler`` makes.
    """

    def __init__(self, save: Callable[..., None], scaler: Callable[..., Any]) -> None:
        self.save = save
        self.amp = SimpleNamespace(GradScaler=scaler)
        self.cuda = _OneGPU()

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class _OneGPU:
    def device_count(self) -> int:
        return min(torch.cuda.device_count(), 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cuda, name)

"""What the ranks tell each other outside of training: a few keys in the store that the launcher's address leads to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from slr_det.errors import SlrDetError
from slr_det.ranks.place import Place

#: How long the ranks of a run may take to start, in seconds.
JOINING = 300


class Board:
    """One connection to the store. Threads do not share one: a call holds it until it is answered.

    Every method raises RuntimeError where the store cannot be reached.

    Args:
        store: The store, under the run's own prefix.
        rank: This process.
        size: How many there are.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.store = store
        self.rank = rank
        self.size = size

    @classmethod
    def join(cls, place: Place) -> Board:
        """Connect, and wait for the other ranks; SlrDetError where they do not come."""
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        try:
            with _ended_by_signals():
                found = rendezvous("env://", place.rank, place.size, timeout=timedelta(seconds=JOINING))
                store, _, _ = next(iter(found))
                # A launcher that starts the ranks again may keep its store.
                store = PrefixStore(f"slr_det-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
                board = cls(store, place.rank, place.size)
                board.beat(0)
                store.wait([f"beat-{rank}" for rank in range(place.size)])
        except (RuntimeError, ValueError, OSError) as error:
            if "address already in use" in str(error):
                raise SlrDetError(
                    f"rank {place.rank} cannot listen at {where}, which another program does already; choose another "
                    "port: torchrun --master-port PORT, or MASTER_PORT"
                ) from error
            raise SlrDetError(
                f"rank {place.rank} could not meet the other {place.size - 1} ranks at {where} within {JOINING} s "
                f"({str(error).splitlines()[0][:120]}); check that all are started, and that the port can be reached"
            ) from error
        return board

    def another(self) -> Board:
        """A connection of its own to the same store."""
        return Board(self.store.clone(), self.rank, self.size)  # type: ignore[attr-defined]

    def beat(self, number: int) -> None:
        """Give a sign of life."""
        self.store.set(f"beat-{self.rank}", str(number))

    def beats(self, ranks: Iterable[int]) -> list[bytes]:
        """The last signs of life of ranks."""
        return list(self.store.multi_get([f"beat-{rank}" for rank in ranks]))

    def announce(self, number: int, work: dict[str, Any]) -> None:
        """Tell the other ranks what to do next; numbers count from 1."""
        self.store.set(f"work-{number}", json.dumps(work))

    def announced(self, number: int) -> dict[str, Any] | None:
        """What rank 0 announced under that number, or None so far."""
        return self._read(f"work-{number}")

    def end(self, code: int) -> None:
        """Tell the other ranks that the command has ended."""
        self.store.set("end", json.dumps({"code": code}))

    def ended(self) -> int | None:
        """The exit code that rank 0 ended with, or None while it works."""
        found = self._read("end")
        return None if found is None else int(found["code"])

    def leave(self, why: str, text: str = "") -> None:
        """Say that this rank takes no further part: for an ``error``, ``crash``, ``signal`` or lost ``connection``.

        What was said first stays.
        """
        if not self.store.check([f"left-{self.rank}"]):
            self.store.set(f"left-{self.rank}", json.dumps({"why": why, "text": text}))
            self.store.add("left", 1)

    def anyone_left(self) -> bool:
        """Whether a rank has left."""
        return int(self.store.add("left", 0)) > 0

    def left(self) -> dict[int, dict[str, str]]:
        """What each rank that left said, by its number."""
        found = {rank: self._read(f"left-{rank}") for rank in range(self.size)}
        return {rank: said for rank, said in found.items() if said is not None}

    def acknowledge(self) -> int:
        """Say that this rank knows of the end (rank 0: count those that do)."""
        return int(self.store.add("acknowledged", 1 if self.rank else 0))

    def _read(self, key: str) -> dict[str, Any] | None:
        if not self.store.check([key]):
            return None
        found: dict[str, Any] = json.loads(self.store.get(key))
        return found


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the process: Python would hear them after minutes of waiting, and nothing is begun."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

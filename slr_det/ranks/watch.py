"""Whether the other ranks are alive, and an end in time where this process cannot end by itself.

A rank that was killed closes its connections, and on one machine torchrun stops the others. Neither is certain: a
machine that lost its power closes nothing, and a process that waits for a GPU hears no signal. So every rank says in
the store that it is alive, once a second, and two threads look after it: one asks the store, one waits for signals and
knows when the first one has heard nothing for too long.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from slr_det.cli import FAILED, Interrupted, complain
from slr_det.ranks.board import Board

PERIOD = 1.0  # seconds between two signs of life
#: Signs of life that may be missed before a rank counts as lost: a count, so that a suspended job loses nobody.
SILENCE = 25
#: Seconds from the first signal to the end of the process, whatever it waits for; torchrun itself grants 30.
GRACE = 12.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Watch:
    """Two threads beside the main one, from :meth:`start` to :meth:`stop`.

    Args:
        board: This rank's own connection to what the ranks tell each other.
        last_words: Gives the line to print where the process has to be ended from here.
    """

    def __init__(self, board: Board, last_words: Callable[[], str]) -> None:
        self.board = board
        #: Ranks that have given no sign of life for too long; 0 also where the store itself cannot be reached.
        self.silent: tuple[int, ...] = ()
        #: The process is ending already: further signals change nothing.
        self.ending = False
        self._last_words = last_words
        self._signalled = False
        self._alarmed = False
        self._contacts = 0
        self._stopped = threading.Event()
        self._before: list[Any] = []
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._ask, self._guard)]

    def start(self) -> None:
        """Take over SIGTERM and SIGINT, and begin."""
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = [signal.signal(number, self._handle) for number in _SIGNALS]
        # Written to at once, also while the main thread waits for a GPU and runs no handler.
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        os.register_at_fork(
            after_in_child=self._forget
        )  # processes that read data are told to end by signals, too
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads and give the signals back."""
        self._stopped.set()
        signal.set_wakeup_fd(-1)
        for number, handler in zip(_SIGNALS, self._before, strict=True):
            signal.signal(number, handler)
        os.write(self._write, b"!")  # the guard need not wait for its time to pass
        for thread in self._threads:
            thread.join(2 * PERIOD)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self.ending:
            self.ending = True
            raise Interrupted

    def _forget(self) -> None:
        if not self._stopped.is_set():
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)

    def _ask(self) -> None:
        """Say that this rank is alive, and look whether the others are: rank 0 at all of them, they at rank 0."""
        rank = self.board.rank
        watched = range(1, self.board.size) if rank == 0 else range(1)
        seen: dict[int, bytes] = {}
        missed = dict.fromkeys(watched, 0)
        ended = told = 0
        try:
            while not self._stopped.wait(PERIOD):
                self._contacts += 1
                self.board.beat(self._contacts)
                if self._signalled and not told:
                    told = 1
                    self.board.leave("signal")  # the main thread may be stuck
                for other, beat in zip(watched, self.board.beats(watched), strict=True):
                    missed[other] = missed[other] + 1 if seen.get(other) == beat else 0
                    seen[other] = beat
                ended = ended + 1 if rank and self.board.ended() is not None else 0
                gone = tuple(other for other in watched if missed[other] >= SILENCE)
                # Whoever waits for the next phase sees the end of the run by itself; later than that it is stuck.
                if gone or ended > 5 or (rank == 0 and self.board.anyone_left()):
                    self._alarm(gone)
        except RuntimeError:  # the store is gone, and with it the machine of rank 0
            self._alarm((0,) if rank else ())

    def _guard(self) -> None:
        contacts, quiet = 0, 0
        deadline: float | None = None
        while not self._stopped.is_set():
            ready, _, _ = select.select([self._read], [], [], PERIOD)
            if ready:
                os.read(self._read, 64)
                self._signalled = True
            else:
                quiet = quiet + 1 if self._contacts == contacts else 0
                contacts = self._contacts
            if quiet >= SILENCE:
                self._alarm((0,) if self.board.rank else ())
            if self._signalled and deadline is None:
                deadline = time.monotonic() + GRACE
            if deadline is not None and time.monotonic() > deadline and not self._stopped.is_set():
                with contextlib.suppress(Exception):
                    complain(self._last_words())
                os._exit(FAILED)

    def _alarm(self, silent: tuple[int, ...]) -> None:
        if not self._alarmed and not self._stopped.is_set():
            self._alarmed = True
            self.silent = silent
            os.kill(os.getpid(), signal.SIGTERM)

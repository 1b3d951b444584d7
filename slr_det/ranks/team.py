"""The ranks that work on one command, as one of them sees them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch.distributed as dist

from slr_det.adapter import TrainJob
from slr_det.cli import FAILED, Interrupted
from slr_det.ranks.board import Board
from slr_det.ranks.phase import take_part, work_of
from slr_det.ranks.place import Place
from slr_det.ranks.watch import PERIOD, Watch

_LEAVING = 3.5 * PERIOD  # seconds in which ranks that live say why they leave, or give a sign of life
_ENDING = 5.0  # seconds that rank 0 waits for the others to hear of its end
_team: Team | None = None


def current() -> Team | None:
    """The ranks that this process belongs to; None where it is alone."""
    return _team


class Team:
    """The ranks of a run.

    Args:
        place: This process among them.
        board: Its connection to them.
    """

    def __init__(self, place: Place, board: Board) -> None:
        self.place = place
        self.board = board
        self.watch = Watch(board.another(), self._last_words)
        #: How the run is continued; rank 0 tells it to the others with every piece of work.
        self.hint = "nothing was started"
        self._number = 0
        self._reason: str | None = None
        self._dead: list[int] = []

    @classmethod
    @contextlib.contextmanager
    def joined(cls, place: Place) -> Iterator[Team]:
        """Meet the other ranks, and be :func:`current` for the block."""
        global _team
        team = cls(place, Board.join(place))
        team.watch.start()
        _team = team
        try:
            yield team
        finally:
            _team = None
            team.watch.stop()

    # -- rank 0 -------------------------------------------------------------------------------------------

    def prepare(self, adapter: str, data: str) -> None:
        """Let every machine have the data set that this one has just prepared; generated ones are made there, too."""
        self._announce({"adapter": adapter, "data": data})

    def train(self, job: TrainJob, resume: bool, training: str, files: Sequence[str | Path] = ()) -> None:
        """Run a phase on all ranks.

        Args:
            job: The phase; its device is ``cpu``, or empty for a GPU each.
            resume: Go on from the last checkpoint.
            training: Module whose ``run(job, resume, distributed=True)`` is a rank's share of the phase.
            files: What it reads besides model, teacher and weights, such as the checkpoint that it goes on from.

        Raises:
            Interrupted: The other ranks are gone; :meth:`reason` says why.
        """
        work = work_of(job, resume, training, files)
        number = self._announce(work)
        try:
            take_part(self.place, self.board, number, work)
        except Exception as error:
            if not is_broken(error):
                raise
            self.watch.ending = True
            raise Interrupted from error

    def reason(self) -> str:
        """Why the command was interrupted, in a few words: which rank did what, where it was not this one."""
        if self._reason is None:
            try:
                self._reason = self._find_reason()
            except RuntimeError:
                self._reason = "the connection to the other ranks was lost"
        return self._reason

    def finish(self, code: int) -> None:
        """Tell the others that the command ended, and wait a moment until they have heard it."""
        self.watch.ending = True
        with contextlib.suppress(RuntimeError):
            self.board.end(code)
            last = time.monotonic() + _ENDING
            while (
                self.board.acknowledge() < self.place.size - 1 - len(self._dead) and time.monotonic() < last
            ):
                time.sleep(0.05)

    def _announce(self, work: dict[str, object]) -> int:
        self._number += 1
        self.board.announce(self._number, {**work, "hint": self.hint})
        return self._number

    def _find_reason(self) -> str:
        others = range(1, self.place.size)
        before = self.board.beats(others)
        last = time.monotonic() + _LEAVING
        while len(left := self.board.left()) < len(others) and time.monotonic() < last:
            time.sleep(0.1)
        for rank, said in left.items():
            if said["why"] in ("error", "crash"):
                return f"rank {rank} failed ({said['text']})"
        now = self.board.beats(others)
        self._dead = [
            rank
            for rank, first, second in zip(others, before, now, strict=True)
            if rank not in left and (first == second or rank in self.watch.silent)
        ]
        if self._dead:
            return f"{_ranks(self._dead)} killed or lost (a system that runs out of memory kills: lower batch=...)"
        told = [rank for rank, said in left.items() if said["why"] == "signal"]
        if told and len(told) < len(others):
            return f"{_ranks(told)} told to stop"
        return "interrupted"

    # -- the others ---------------------------------------------------------------------------------------

    def end_of_first(self) -> int | None:
        """The exit code of rank 0, waited for a while; None where it was killed or cannot be reached.

        Where it lives on it waits for a rank that is gone: it is ended from :class:`Watch`, and says so itself.
        """
        with contextlib.suppress(RuntimeError):
            beat, since = self.board.beats([0]), time.monotonic()
            last = since + 3 * _LEAVING
            while time.monotonic() < since + _LEAVING:
                if time.monotonic() > last:
                    return FAILED
                code = self.board.ended()
                if code is not None:
                    self.board.acknowledge()
                    return code
                if (now := self.board.beats([0])) != beat:
                    beat, since = now, time.monotonic()
                time.sleep(0.1)
        return None

    def _last_words(self) -> str:
        if self.place.rank == 0:
            silent = self.watch.silent
            gone = (
                f"{_ranks(silent)} killed or lost" if silent else "a rank was killed or lost, or told to stop"
            )
            return f"{gone}; {self.hint}"
        return f"rank {self.place.rank}: stopped while it waited for another rank; {self.hint}"


def is_broken(error: BaseException) -> bool:
    """Whether an exchange failed because another rank is gone, which torch says in a RuntimeError among many."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")
    )


def _ranks(numbers: Sequence[int]) -> str:
    names = ", ".join(map(str, numbers))
    return f"rank {names} was" if len(numbers) == 1 else f"ranks {names} were"

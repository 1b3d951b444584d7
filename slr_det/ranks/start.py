"""Where a command line starts: alone, as rank 0, or as one of the ranks that train with it."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slr_det.adapter import load_adapter
from slr_det.cli import FAILED, OK, Interrupted, complain
from slr_det.errors import SlrDetError
from slr_det.ranks.phase import take_part
from slr_det.ranks.place import Place
from slr_det.ranks.team import Team, is_broken


def together(action: Callable[[], int]) -> int:
    """Run a command on this rank's behalf, and return its exit code.

    Args:
        action: The whole command, with its own messages; rank 0 alone runs it, or a process that is no rank.
    """
    try:
        place = Place.from_environment(os.environ)
        if place is None:
            return action()
        with Team.joined(place) as team:
            return _lead(team, action) if place.rank == 0 else _follow(team)
    except SlrDetError as error:
        complain(str(error))
        return FAILED


def _lead(team: Team, action: Callable[[], int]) -> int:
    code = FAILED
    try:
        code = action()
        return code
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else OK if ended.code is None else FAILED
        raise
    finally:
        team.finish(code)


def _follow(team: Team) -> int:
    """Do what rank 0 announces until it ends; whatever ends this rank is said in one line."""
    rank = team.place.rank
    line = ""
    try:
        code = _work(team)
        with contextlib.suppress(RuntimeError):
            team.board.acknowledge()
        return _ended(rank, code)
    except SlrDetError as error:
        line = str(error)
        _leave(team, "error", line)
    except (KeyboardInterrupt, Interrupted):
        _leave(team, "signal")
    except Exception as error:
        if is_broken(error):
            _leave(team, "connection")
        else:
            traceback.print_exc()
            line = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
            _leave(team, "crash", line)
    found = team.end_of_first()
    if line:
        complain(f"rank {rank}: {line}")
    elif found is None:
        complain(f"rank {rank}: rank 0 was killed or lost; {team.hint}")
    else:
        return _ended(rank, found)
    return FAILED


def _work(team: Team) -> int:
    number = 1
    while True:
        work = team.board.announced(number)
        if work is not None:
            team.hint = work["hint"]
            if "data" in work:
                _prepare(team, work)
            else:
                take_part(team.place, team.board, number, work)
            number += 1
            continue
        code = team.board.ended()
        if code is not None:
            team.watch.ending = True
            return code
        time.sleep(0.1)


def _prepare(team: Team, work: Mapping[str, Any]) -> None:
    """Find or make the data on this machine: its first rank does, then the others, which find it made."""
    place, store = team.place, team.board.store
    made = f"data-{place.node}"
    if place.node > 0 and place.local_rank > 0:
        while not store.check([made]):
            time.sleep(0.1)
    with tempfile.TemporaryDirectory(prefix="slr-det-rank-") as scratch:
        load_adapter(work["adapter"]).prepare_data(work["data"], Path(scratch))
    if place.local_rank == 0:
        store.set(made, "")


def _leave(team: Team, why: str, text: str = "") -> None:
    team.watch.ending = True
    with contextlib.suppress(RuntimeError):
        team.board.leave(why, text)


def _ended(rank: int, code: int) -> int:
    if code == FAILED:
        complain(f"rank {rank}: ends with rank 0, whose own line says why")
    return code

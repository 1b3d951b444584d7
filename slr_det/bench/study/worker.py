"""The process of one cell: ``python -m slr_det.bench.study.worker TASK VERB FOLDER`` continues the run in a folder."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from slr_det.bench.study.load import find_task
from slr_det.cli import run
from slr_det.command import start
from slr_det.errors import CheckpointError

LOCK = ".lock"
PATIENCE = 60.0  # seconds that a process of an earlier, killed study has to end
_GRACE = 10.0


def main(arguments: Sequence[str]) -> int:
    """Continue the run and return its exit code."""
    name, verb, folder = arguments
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def act() -> int:
        with alone(Path(folder), PATIENCE):
            return start(find_task(name), [verb, "--resume", folder])

    return run(act, on_interrupt=lambda: "stopped before it began")


@contextlib.contextmanager
def alone(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes out of a folder for the block; the system lifts the lock of one that is killed.

    Raises CheckpointError where another process is still in it after ``patience`` seconds.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system: then it is up to the user
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    with (folder / LOCK).open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise CheckpointError(
                        f"{folder}: another process works on it; wait until it has ended, or end it"
                    ) from error
                time.sleep(0.2)
        yield


def end_group(process: int, which: int) -> None:
    """Send a signal to a process that leads a group of its own, and to all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, which)


def _end_with_parent() -> None:
    """Stop when the study's process is gone, even by force: its end of the pipe closes with it.

    A cell that ran on by itself would write into the folder that the continued study works in.
    """
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    if os.getpgrp() != os.getpid():  # started by hand, among processes of somebody else
        os.kill(os.getpid(), signal.SIGTERM)
        return
    end_group(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    end_group(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

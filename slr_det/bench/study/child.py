"""A run in a process of its own: started, judged by how it ended, and ended together with whoever started it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from slr_det.bench.study.worker import end_group
from slr_det.cli import BELOW_MINIMUM, OK

LOG = "log.txt"
_GRACE = 20.0  # seconds in which a stopped run may finish writing


@dataclass(frozen=True)
class Child:
    """A run that has been started.

    Attributes:
        folder: The run's folder.
        process: Its process.
        log: What it prints.
        written: Size of the log before this attempt.
        began: By the monotonic clock.
    """

    folder: Path
    process: subprocess.Popen[bytes]
    log: BinaryIO
    written: int
    began: float


def begin(task: str, verb: str, folder: Path, threads: int | None) -> Child:
    """Continue the run in a folder.

    Args:
        task: Name of its command line.
        verb: What the command line is told to do.
        folder: The run's folder, with its configuration and its state.
        threads: CPU threads; None leaves them to the environment.
    """
    environment = {
        **os.environ,
        "TQDM_MININTERVAL": "30",  # nobody watches these bars, and each redraw is a line of the log
    }
    if threads is not None:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment |= dict.fromkeys(names, str(threads))
    log = (folder / LOG).open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "slr_det.bench.study.worker", task, verb, str(folder)],
        stdin=subprocess.PIPE,  # never written to: it closes with this process, and the child then ends
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # so that Ctrl-C reaches the caller alone, which then ends all that a run started
    )
    return Child(folder, process, log, log.tell(), time.monotonic())


def outcome(child: Child) -> str:
    """Of a process that has ended: empty for a run that came to its end, else the line it failed with."""
    _close(child)
    code = child.process.returncode
    if code in (OK, BELOW_MINIMUM):
        return ""
    if code < 0:  # the last line of its log is about something else
        memory = "; out of memory?" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{memory}; see its {LOG}"
    return error_in(child.folder / LOG, child.written) or f"ended with code {code}; see its {LOG}"


def error_in(log: Path, offset: int) -> str:
    """The last error line after ``offset`` bytes of a log, or failing that its last line."""
    text = log.read_bytes()[offset:].decode("utf-8", errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (said or lines or [""])[-1]


def stop(running: Sequence[Child]) -> None:
    """End children that may still run, and all that they have started; they have ended when this returns."""
    for child in running:
        end_group(child.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    for child in running:
        try:
            child.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            end_group(child.process.pid, signal.SIGKILL)
            child.process.wait()
        _close(child)


def _close(child: Child) -> None:
    child.log.close()
    if child.process.stdin is not None:
        child.process.stdin.close()

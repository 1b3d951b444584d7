"""Several training processes of this machine as one: the end of any by an error, or of this one, ends all."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slr_det import errors
from slr_det.errors import ConfigError, SlrDetError

_PATIENCE = 10.0  # seconds that processes have to end themselves


def run_processes(
    command: Sequence[str], environment: Mapping[str, str], processes: int, reports: Path, saved: str
) -> None:
    """Run a command in that many processes, each told its rank as torchrun would.

    Args:
        command: What each of them runs.
        environment: Its variables; RANK, LOCAL_RANK, WORLD_SIZE and the address to meet at are added.
        processes: How many.
        reports: Folder in which they leave what they failed on, by :func:`report_error`.
        saved: Folder that the message of a killed process names.

    Raises:
        SlrDetError: What a process reported, in the class that it raised; or one was killed.
        RuntimeError: A process failed otherwise; with its traceback.
    """
    meeting = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    with _started(command, {**environment, **meeting}, processes) as running:
        while any(process.poll() is None for process in running):
            if any(process.poll() for process in running):
                break
            time.sleep(0.1)
    codes = [process.returncode for process in running]
    if any(codes):
        _raise(reports, codes, saved)


@contextlib.contextmanager
def _started(
    command: Sequence[str], environment: Mapping[str, str], processes: int
) -> Iterator[list[subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(processes):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            running.append(subprocess.Popen(command, env={**environment, **place}))
        yield running
    finally:
        ended = time.monotonic() + _PATIENCE
        failed = any(process.poll() for process in running)
        while failed and time.monotonic() < ended and any(process.poll() is None for process in running):
            time.sleep(0.05)  # the others meet the same error, and say so, or lose their partner
        for process in running:
            if process.poll() is None:
                process.terminate()
        for process in running:
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if any(process.returncode < 0 for process in running):
            print(file=sys.stderr)  # its progress bar was left open, on the line where the error would come


def follow_parent() -> None:
    """Leave the decision to end to the process that started this one, and end when it is gone.

    Called in each of the processes: one that trained on alone would write into a run that somebody resumes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the one that waits decides
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def report_error(folder: Path, rank: int, error: SlrDetError | str) -> None:
    """Leave what a process failed on where the one that waits finds it: an error of ours, or a traceback."""
    content: dict[str, Any] = {"text": str(error)}
    if isinstance(error, SlrDetError):
        problems = list(error.problems) if isinstance(error, ConfigError) else None
        content = {"kind": type(error).__name__, "text": str(error), "problems": problems}
    (folder / f"error-{rank}.json").write_text(json.dumps(content), encoding="utf-8")


def _raise(reports: Path, codes: Sequence[int], saved: str) -> None:
    said = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(reports.glob("error-*.json"))]
    for error in said:
        if "kind" in error:
            raise getattr(errors, error["kind"])(error["problems"] or error["text"])
    # Whoever was killed is the cause; what the others say then is that they lost a partner.
    killed = sorted((-code for code in codes if code < 0), key=lambda code: code == signal.SIGTERM)
    if killed and (killed[0] != signal.SIGTERM or not said):
        raise SlrDetError(
            f"a training process was ended by signal {killed[0]} (9: the system does that where memory runs out; lower "
            f"batch=...); every finished epoch is saved in {saved}"
        )
    raise RuntimeError(said[0]["text"] if said else f"a training process ended with code {max(codes)}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

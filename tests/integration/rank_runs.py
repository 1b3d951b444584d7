"""Command lines run by several ranks under torchrun, shared by their tests: started, watched, and killed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """What a user's shell would have, with one thread for each process and this Python's programs in front."""
    own = {"OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    return {**os.environ, **own, **more}


@dataclass
class Ended:
    """A command that has ended: what it returned, what it said, and how long its end took."""

    code: int
    out: str
    said: str
    seconds: float = 0.0
    errors: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.errors = re.findall(r"^error: (.*)$", self.said.replace("\r", "\n"), flags=re.MULTILINE)


def torchrun(ranks: int, module: str, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    command = [str(BIN / "torchrun"), "--nproc-per-node", str(ranks), "--master-port", str(free_port())]
    return started([*command, "-m", f"slr_det.{module}", *arguments], cwd)


def started(
    command: Sequence[str], cwd: Path | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Started with files for its output: a full pipe would stop it."""
    out, said = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
    process = subprocess.Popen(
        command, cwd=cwd, env=environment(**(variables or {})), stdout=out, stderr=said, text=True
    )
    process.stdout, process.stderr = out, said  # type: ignore[assignment]
    return process


def ended(process: subprocess.Popen[str], timeout: float = 280) -> Ended:
    begin = time.monotonic()
    try:
        process.wait(timeout)
    finally:
        end_all(process)
    texts = []
    for file in (process.stdout, process.stderr):
        assert file is not None
        file.seek(0)
        texts.append(file.read())
        file.close()
    return Ended(process.returncode, texts[0], texts[1], time.monotonic() - begin)


def end_all(process: subprocess.Popen[str]) -> None:
    """End whatever is left of a command and of what it started."""
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


def rank_of(process: subprocess.Popen[str], rank: int) -> psutil.Process:
    """The process of a rank, below the one that was started."""
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found = child.environ()
            if found.get("RANK") == str(rank) and "slr_det." in " ".join(child.cmdline()):
                return child
        except psutil.NoSuchProcess:
            continue
    raise AssertionError(f"no process of rank {rank}")


def kill_rank_when(
    process: subprocess.Popen[str],
    rank: int,
    ready: Callable[[], bool],
    kill: Callable[[psutil.Process], None] = psutil.Process.kill,
) -> Ended:
    """Kill a rank as soon as something is so, and wait for the end of all."""
    try:
        while not ready():
            assert process.poll() is None, "the command ended before a rank could be killed"
            time.sleep(0.02)
        kill(rank_of(process, rank))
    except BaseException:
        end_all(process)
        raise
    return ended(process)

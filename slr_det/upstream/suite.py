"""Look at one checkout: its commit, its seams, and its contracts in child processes with a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from slr_det.upstream.commits import commit_of
from slr_det.upstream.project import Upstream
from slr_det.upstream.results import Line, Report
from slr_det.upstream.seams import moved

LIMIT = 300.0  # seconds for a contract; the longest takes a tenth of it on one core
_POLL = 0.1
_START = 120.0  # seconds more for the first one: a cold disk has torch to read


def examine(
    upstream: Upstream,
    path: Path,
    *,
    seams_only: bool = False,
    limit: float = LIMIT,
    verbose: bool = False,
    show: Callable[[str], None] = lambda _: None,
) -> Report:
    """Look at a checkout, telling each line to ``show`` when it is known.

    Args:
        upstream: What the adapter relies on.
        path: The checkout.
        seams_only: Read its sources, and run nothing.
        limit: Seconds that a contract may take.
        verbose: Let what the contracts print through to stderr.
        show: Takes lines of text.
    """
    present = upstream.is_at(path)
    commit, why = commit_of(path) if present else (None, "")
    report = Report(
        name=upstream.name,
        title=upstream.title,
        path=str(path),
        present=present,
        pinned=upstream.commit,
        commit=commit,
        why=why,
        fetch=upstream.fetch,
    )
    for text in report.heading():
        show(text)
    if not present:
        return report
    for line in _lines(upstream, path.resolve(), seams_only=seams_only, limit=limit, verbose=verbose):
        report.lines.append(line)
        show(str(line))
    show(report.verdict())
    return report


def _lines(
    upstream: Upstream, path: Path, *, seams_only: bool, limit: float, verbose: bool
) -> Iterator[Line]:
    problems = moved(path, upstream)
    for seam in upstream.seams:
        yield _line("seam", seam.title, seam.use, problems.get(seam))
    for file in upstream.files:
        yield _line("file", file.path, file.use, problems.get(file))
    if seams_only:
        return
    if problems:
        for contract in upstream.contracts:
            yield Line("contract", contract.name, "skipped", "what has moved comes first")
        return
    yield from run_contracts(upstream, path, limit=limit, verbose=verbose)


def _line(kind: Literal["seam", "file"], name: str, use: str, problem: str | None) -> Line:
    return Line(kind, name, "ok", use) if problem is None else Line(kind, name, "moved", problem)


def run_contracts(
    upstream: Upstream, path: Path, *, limit: float = LIMIT, verbose: bool = False
) -> Iterator[Line]:
    """Run every contract; one that hangs or kills its process has failed, and the next get another process."""
    left = [contract.name for contract in upstream.contracts]
    says = {contract.name: contract.says for contract in upstream.contracts}
    while left:
        for line in _one_process(upstream, path, tuple(left), limit=limit, verbose=verbose):
            left.remove(line.name)
            if line.verdict == "ok":
                line = Line(
                    line.kind,
                    line.name,
                    "ok",
                    f"{says[line.name]}; {line.says}" if line.says else says[line.name],
                    line.seconds,
                )
            yield line


def _one_process(
    upstream: Upstream, path: Path, names: Sequence[str], *, limit: float, verbose: bool
) -> Iterator[Line]:
    """The contracts that one process gets through, and the one that it ended in."""
    folder = Path(tempfile.mkdtemp(prefix="slr-det-upstream-"))
    file, work = folder / "lines.jsonl", folder / "work"
    work.mkdir()
    file.touch()
    module = f"{__package__}.child"
    command = [sys.executable, "-m", module, upstream.name, str(path), str(work), str(file), *names]
    # The contracts run on the CPU: a GPU that somebody else uses is no concern of theirs.
    environment = {**os.environ, upstream.variable: str(path), "CUDA_VISIBLE_DEVICES": "-1"}
    try:
        with (folder / "said.txt").open("w+b") as said:
            out: Any = sys.stderr.fileno() if verbose else said
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
            try:
                yield from _watched(process, file, names, limit, said)
            finally:
                _end(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _watched(
    process: subprocess.Popen[bytes], file: Path, names: Sequence[str], limit: float, said: IO[bytes]
) -> Iterator[Line]:
    done, since = 0, time.monotonic()
    allowed = limit + _START
    while done < len(names):
        ended = process.poll() is not None
        fresh = file.read_text(encoding="utf-8").splitlines(keepends=True)[done:]
        for text in fresh:
            if text.endswith("\n"):
                entry = json.loads(text)
                done, since, allowed = done + 1, time.monotonic(), limit
                yield Line("contract", entry["name"], entry["verdict"], entry["says"], entry["seconds"])
        if fresh:
            continue
        taken = time.monotonic() - since
        if ended:
            yield Line("contract", names[done], "failed", _ending(process.returncode, said), taken)
            return
        if taken > allowed:
            yield Line("contract", names[done], "failed", f"was not done after {taken:.0f} s", taken)
            return
        time.sleep(_POLL)


def _ending(code: int, said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
    last = f" ({' '.join(lines[-1].split()):.200})" if lines else ""
    how = f"by signal {-code}" if code < 0 else f"with code {code}"
    return f"its process ended {how} before it was done{last}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and those that it started, such as readers of data."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

"""One training phase in several processes of this machine: on CPUs by gloo, on GPUs by nccl."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slr_det import errors
from slr_det.adapter import TrainJob
from slr_det.errors import ConfigError, SlrDetError

WORKER = (sys.executable, "-m", "slr_det_adapters.mmengine.worker")
_PATIENCE = 10.0  # seconds that processes have to end themselves


def processes_of(job: TrainJob, processes: int) -> int:
    """How many processes a phase trains in; ConfigError where its device and ``processes`` contradict each other."""
    gpus = _gpus(job.device)
    if len(gpus) > 1:
        return len(gpus)
    if processes > 1 and job.device not in ("", "cpu"):
        raise ConfigError(
            f"processes is {processes}, which is for the CPU, and device is '{job.device}'; leave processes "
            "out, and name all GPUs to use: device=0,1"
        )
    return processes


def launch(
    job: TrainJob, processes: int, resume: bool, training: str, worker: Sequence[str] = WORKER
) -> None:
    """Run the phase in that many processes; the end of one by an error, or of this one, ends all.

    Args:
        job: The phase. Its devices are shared out, one to a process.
        processes: How many.
        resume: Go on from the last checkpoint.
        training: Module whose ``run(job, resume, distributed=True)`` is a process's share of the phase.
        worker: The command of a process; the path of a folder with ``job.json`` follows.

    Raises:
        SlrDetError: What a process raised, in the class that it raised.
        RuntimeError: A process failed otherwise; with its traceback.
    """
    environment = dict(os.environ)
    gpus = _gpus(job.device)
    if gpus:
        visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
        # A list that is set already is what the numbers count in.
        chosen = [visible[int(gpu)] if gpu.isdecimal() and int(gpu) < len(visible) else gpu for gpu in gpus]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(chosen if visible != [""] else gpus)
    else:
        job = replace(job, device="cpu")
    environment |= {
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    environment.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    with tempfile.TemporaryDirectory(prefix="slr-det-job-") as scratch:
        folder = Path(scratch)
        content = {"job": job.to_dict(), "resume": resume, "training": training}
        (folder / "job.json").write_text(json.dumps(content), encoding="utf-8")
        with _started([*worker, scratch], environment, processes) as running:
            while any(process.poll() is None for process in running):
                if any(process.poll() for process in running):
                    break
                time.sleep(0.1)
        codes = [process.returncode for process in running]
        if any(codes):
            _raise(folder, codes, job)


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


def report_error(folder: Path, rank: int, error: SlrDetError | str) -> None:
    """Leave what a process failed on where the one that waits finds it: an error of ours, or a traceback."""
    content: dict[str, Any] = {"text": str(error)}
    if isinstance(error, SlrDetError):
        problems = list(error.problems) if isinstance(error, ConfigError) else None
        content = {"kind": type(error).__name__, "text": str(error), "problems": problems}
    (folder / f"error-{rank}.json").write_text(json.dumps(content), encoding="utf-8")


def _raise(folder: Path, codes: Sequence[int], job: TrainJob) -> None:
    said = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("error-*.json"))]
    for error in said:
        if "kind" in error:
            raise getattr(errors, error["kind"])(error["problems"] or error["text"])
    killed = [-code for code in codes if code < 0]
    if killed and not said:
        raise SlrDetError(
            f"a training process was ended by signal {killed[0]} (9: the system does that where memory runs out; lower "
            f"batch=...); every finished epoch is saved in {job.folder}"
        )
    raise RuntimeError(said[0]["text"] if said else f"a training process ended with code {max(codes)}")


def _gpus(device: str) -> list[str]:
    parts = [part.strip() for part in device.split(",") if part.strip()]
    return parts if len(parts) > 1 else []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""One training phase in several processes of this machine: on CPUs by gloo, on GPUs by nccl."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from slr_det.adapter import TrainJob
from slr_det.errors import ConfigError
from slr_det_adapters.supervising import run_processes

WORKER = (sys.executable, "-m", "slr_det_adapters.mmengine.worker")


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
    environment.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    with tempfile.TemporaryDirectory(prefix="slr-det-job-") as scratch:
        folder = Path(scratch)
        content = {"job": job.to_dict(), "resume": resume, "training": training}
        (folder / "job.json").write_text(json.dumps(content), encoding="utf-8")
        run_processes([*worker, scratch], environment, processes, folder, job.folder)


def _gpus(device: str) -> list[str]:
    parts = [part.strip() for part in device.split(",") if part.strip()]
    return parts if len(parts) > 1 else []

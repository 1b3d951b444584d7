"""How much memory an engine takes, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from slr_det.engines.child import INPUT_FILE, PROGRAM_FILE
from slr_det.export.exportable import Tensors

_TIME_LIMIT = 600  # seconds


@dataclass(frozen=True)
class Memory:
    """Memory of a process in which one engine answers.

    Attributes:
        running: Bytes that the network adds while it answers, to those of the process that only imported the engine;
            None where the system does not tell.
        peak: Most bytes the whole process has held, loading included; None where the system does not tell.
        problem: Why nothing was measured, or an empty string.
    """

    running: int | None
    peak: int | None
    problem: str = ""


def write_inputs(sample: Tensors, folder: Path) -> None:
    """Write the sample for the processes to come."""
    for index, tensor in enumerate(sample):
        np.save(folder / INPUT_FILE.format(index), tensor.detach().numpy())


def write_program(module: nn.Module, sample: Tensors, folder: Path) -> str:
    """Write a module so that a process without its trainer can load it; why not, or an empty string."""
    try:
        with torch.no_grad():
            program = torch.export.export(module, sample, strict=False)
        torch.export.save(program, folder / PROGRAM_FILE)
    except Exception as error:  # torch's exporter raises errors of many kinds for what it cannot take
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"torch.export cannot take this network ({lines[0][:120]})"
    return ""


def measure_memory(engine: str, folder: Path, threads: int) -> Memory:
    """Run an engine on the files of a folder in a process of its own."""
    command = [sys.executable, "-m", "slr_det.engines.child", engine, str(folder), str(threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return Memory(None, None, f"the process took longer than {_TIME_LIMIT} s")
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Memory(None, None, f"the process failed: {lines[-1][:160]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    before, running = found["before"], found["running"]
    return Memory(
        None if running is None or before is None else max(running - before, 0),
        found["peak"],
        "" if found["peak"] is not None else "this system does not tell how much memory a process has",
    )

"""What a checkpoint costs, beside what it scores: bytes, weights, time."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from slr_det.adapter import Adapter, EvalJob
from slr_det.errors import SlrDetError
from slr_det.gate.quantities import BYTES, COUNT, RATE, SCORE, TIME
from slr_det.storage import pack

_WARM_UP, _ROUNDS = 3, 20


@dataclass(frozen=True)
class Measure:
    """One thing that is measured beside the metrics.

    Attributes:
        kind: Which units it has.
        says: What it is, in a few words.
        lower: Whether less is better.
        cheap: Measured always; the others where they are asked for.
    """

    kind: str
    says: str
    lower: bool = True
    cheap: bool = False


MEASURES: Mapping[str, Measure] = {
    "bytes": Measure(BYTES, "size of the checkpoint's file", cheap=True),
    "packed_bytes": Measure(BYTES, "its size without its zeros, as slr_det.pack writes it"),
    "parameters": Measure(COUNT, "parameters of the whole model"),
    "nonzero": Measure(COUNT, "parameters that are not zero"),
    "compression": Measure(RATE, "parameters / nonzero parameters", lower=False),
    "seconds": Measure(TIME, "how long the evaluation took", cheap=True),
    "latency": Measure(TIME, "median of a forward pass at batch 1, float32 in torch on the CPU"),
}
#: Not measured unless a limit names it: it takes seconds, and is another number on every machine.
ON_DEMAND = frozenset({"latency"})
_COUNTED = ("parameters", "nonzero", "compression")


def kind_of(name: str) -> str:
    """Which units a metric or a measure has."""
    return MEASURES[name].kind if name in MEASURES else SCORE


def size_of(file: str) -> dict[str, float]:
    """``bytes`` of a checkpoint; empty for what is no file."""
    path = Path(file)
    return {"bytes": float(path.stat().st_size)} if path.is_file() else {}


def measure(
    adapter: Adapter, job: EvalJob, named: Collection[str], *, everything: bool = False
) -> dict[str, float]:
    """Measure a checkpoint.

    Args:
        adapter: The trainer.
        job: The checkpoint, and the data that samples come from.
        named: Measures that a limit names: what goes wrong in one of them is raised.
        everything: Also take those that are not named, where they can be had; latency is not among them.

    Returns:
        Values by name, in bytes, seconds and plain numbers, without those that are cheap.
    """
    found: dict[str, float] = {}
    parts = {"packed_bytes": _packed, "latency": _latency}
    if everything or set(_COUNTED) & set(named):
        found |= _counted(adapter, job.model)
    for name, part in parts.items():
        if name in named:
            found[name] = part(adapter, job)
        elif everything and name not in ON_DEMAND:
            try:
                found[name] = part(adapter, job)
            except SlrDetError:  # a kind of file that has no packed form
                continue
    return found


def _counted(adapter: Adapter, model: str) -> dict[str, float]:
    weights = adapter.averaged(model)
    total = sum(weight.numel() for weight in weights.values())
    nonzero = sum(int(torch.count_nonzero(weight)) for weight in weights.values())
    return {
        "parameters": float(total),
        "nonzero": float(nonzero),
        "compression": total / nonzero if nonzero else float("inf"),
    }


def _packed(adapter: Adapter, job: EvalJob) -> float:
    with tempfile.TemporaryDirectory(prefix="slr-det-gate-") as scratch:
        return float(pack(job.model, Path(scratch) / "packed.slr").packed)


def _latency(adapter: Adapter, job: EvalJob) -> float:
    """Seconds, with the threads that torch has; the sample is one of the validation data."""
    exportable = adapter.exportable(replace(job, device="cpu"))
    sample = next(iter(exportable.samples("val", 1)))
    module = exportable.module.eval()
    times = []
    with torch.inference_mode():
        for turn in range(_WARM_UP + _ROUNDS):
            began = time.perf_counter()
            module(*sample)
            if turn >= _WARM_UP:
                times.append(time.perf_counter() - began)
    return statistics.median(times)

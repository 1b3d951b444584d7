"""A network in each engine, side by side: latency by turns in one run, memory alone, answers against torch's."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from slr_det.engines.memory import Memory, measure_memory, write_inputs, write_program
from slr_det.engines.prepare import ENGINES, OURS, Prepared, prepare, versions
from slr_det.export.exportable import Exportable, Tensors
from slr_det.export.runtime import answers_of
from slr_det.runtime.compiled import CompiledModule
from slr_det.runtime.library import load, unavailable
from slr_det.timing import interleaved, median, quartiles
from slr_det.timing import threads as torch_threads

_SETTLE = 1  # uncounted runs before each that counts
_PAUSE = 0.03  # seconds; OpenMP's and ONNX Runtime's threads spin for several milliseconds after their work
_FROM_PROGRAM = ("torch", OURS)  # engines whose process reads the exported program


@dataclass(frozen=True)
class Result:
    """What one engine needs.

    Attributes:
        name: Of the engine, as in ``--engines``.
        label: What it is called.
        milliseconds: Median latency of the sample; None where it was not measured.
        spread: First and third quartile of it.
        difference: Largest difference of an output from torch's; of numbers above 1, as a part of the number.
        weight_bytes: Bytes of its weights.
        memory: Of a process of its own; None where that was not asked for.
        problem: Why it was not measured, or an empty string.
    """

    name: str
    label: str
    milliseconds: float | None = None
    spread: tuple[float, float] | None = None
    difference: float | None = None
    weight_bytes: int | None = None
    memory: Memory | None = None
    problem: str = ""


@dataclass(frozen=True)
class Measured:
    """A network in all engines.

    Attributes:
        results: In the order of tables.
        shapes: Of the inputs, batch included.
        threads: CPU threads of each.
        rounds: Timed rounds.
        parameters: Of the network.
        zeros: Share of its parameters that are zero.
        isa: Instructions of our runtime; empty where it was not asked for, or there is none.
        reason: Why our runtime runs the whole network in torch, or an empty string.
        layers: What became of each layer in our runtime.
        report: The same as text.
        versions: Of the engines.
    """

    results: tuple[Result, ...]
    shapes: tuple[tuple[int, ...], ...]
    threads: int
    rounds: int
    parameters: int
    zeros: float
    isa: str
    reason: str
    layers: tuple[dict[str, Any], ...]
    report: str
    versions: dict[str, str]

    def milliseconds(self, name: str) -> float | None:
        """Median latency of an engine, None where it was not measured."""
        return next((result.milliseconds for result in self.results if result.name == name), None)

    def speed_up(self, name: str, against: str) -> float | None:
        """How many times as fast an engine is as another one; None where one of the two was not measured."""
        one, other = self.milliseconds(name), self.milliseconds(against)
        return None if one is None or other is None else other / one

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def measure(
    exportable: Exportable,
    sample: Tensors,
    names: Sequence[str],
    *,
    threads: int,
    rounds: int,
    memory: bool = True,
    choose: str = "measure",
    say: Callable[[str], None] = lambda line: None,
) -> Measured:
    """Measure a network in engines.

    Args:
        exportable: The network.
        sample: Inputs, batch included.
        names: Of engines, see :data:`~slr_det.engines.prepare.ENGINES`.
        threads: CPU threads of each.
        rounds: In each, every engine answers once, after one answer that is not counted.
        memory: Whether each engine is also run in a process of its own.
        choose: As for :func:`slr_det.runtime.compiled.compile`.
        say: Told what goes on.
    """
    with (
        torch_threads(threads),
        torch.no_grad(),
        tempfile.TemporaryDirectory(prefix="slr-det-engines-") as scratch,
    ):
        folder = Path(scratch)
        ready = prepare(exportable, sample, names, folder, choose=choose, say=say)
        wanted = answers_of(exportable.module, sample)
        differences = {name: _difference(wanted, engine.answer()) for name, engine in ready.engines.items()}
        say(f"timing {rounds} rounds")
        seconds = _timed(ready, rounds)
        memories = _memories(exportable, sample, ready, folder, threads, say) if memory else {}
    results = []
    for name in names:
        if name not in ready.engines:
            results.append(Result(name, ENGINES[name], problem=ready.missing[name]))
            continue
        times = [1000 * value for value in seconds[name]]
        results.append(
            Result(
                name,
                ENGINES[name],
                median(times),
                quartiles(times),
                differences[name],
                ready.engines[name].weight_bytes,
                memories.get(name),
            )
        )
    return _measured(exportable, sample, tuple(results), ready.compiled, threads, rounds)


def _measured(
    exportable: Exportable,
    sample: Tensors,
    results: tuple[Result, ...],
    compiled: CompiledModule | None,
    threads: int,
    rounds: int,
) -> Measured:
    weights = list(exportable.module.parameters())
    total = sum(weight.numel() for weight in weights)
    nonzero = sum(int(torch.count_nonzero(weight)) for weight in weights)
    return Measured(
        results,
        tuple(tuple(tensor.shape) for tensor in sample),
        threads,
        rounds,
        total,
        1.0 - nonzero / max(total, 1),
        load().isa.name.lower() if compiled is not None and unavailable() is None else "",
        "" if compiled is None else compiled.reason,
        () if compiled is None else tuple(asdict(row) for row in compiled.table),
        "" if compiled is None else compiled.report(),
        versions(),
    )


def _timed(ready: Prepared, rounds: int) -> dict[str, list[float]]:
    variants = {name: engine.answer for name, engine in ready.engines.items()}
    with tqdm(total=rounds + 1, desc="rounds", leave=False, file=sys.stderr, disable=None) as bar:
        return interleaved(variants, rounds, settle=_SETTLE, pause=_PAUSE, after=bar.update)


def _memories(
    exportable: Exportable,
    sample: Tensors,
    ready: Prepared,
    folder: Path,
    threads: int,
    say: Callable[[str], None],
) -> dict[str, Memory]:
    write_inputs(sample, folder)
    found = {}
    problem = None
    for name in ready.engines:
        say(f"memory of {ENGINES[name]}")
        if name in _FROM_PROGRAM and problem is None:
            problem = write_program(exportable.module, sample, folder)
        if name in _FROM_PROGRAM and problem:
            found[name] = Memory(None, None, problem)
        else:
            found[name] = measure_memory(name, folder, threads)
    return found


def _difference(wanted: Tensors, found: Tensors) -> float:
    """Largest difference, of numbers above 1 as a part of the number; infinite where the shapes differ."""
    worst = 0.0
    for ours, theirs in zip(wanted, found, strict=True):
        if ours.shape != theirs.shape:
            return float("inf")
        gap = torch.where(ours == theirs, 0.0, (ours - theirs).abs() / ours.abs().clamp(min=1))
        worst = max(worst, float(gap.nan_to_num(nan=float("inf")).max()) if gap.numel() else 0.0)
    return worst

"""The sparse runtime against dense engines: the whole of yolov3-tiny at several sparsities, and layer by layer."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from typing import Any

import torch

from slr_det.bench.rows import machine
from slr_det.bench.tiny import sparse_yolo
from slr_det.cli import BELOW_MINIMUM, OK
from slr_det.engines.measure import Measured, measure
from slr_det.engines.prepare import ENGINES, OURS, check_engines, versions
from slr_det.engines.text import aligned, markdown, notes
from slr_det.errors import ConfigError
from slr_det.export.exportable import Exportable, Tensors
from slr_det.files import atomic_write
from slr_det.plots.runtime import draw_roofline, draw_speedups
from slr_det.runtime.library import ISA_VARIABLE, Isa, Library, load

#: Times as fast as ONNX Runtime, dense, on one thread, by the share of zeros; and two threads against one.
TARGETS = {0.8: 1.3, 0.9: 2.0, 0.95: 3.0, 0.987: 5.0}
SCALING = 1.7
RESULTS, TABLE, PICTURE, ROOFLINE = "runtime.json", "runtime.md", "runtime.png", "roofline.png"

DESCRIPTION = """\
Measure the sparse runtime on the whole of yolov3-tiny (the classic 8.85 M parameters, random weights, random zeros)
beside PyTorch, ONNX Runtime and OpenVINO, which run it dense. Targets on one thread, against ONNX Runtime:

  80 % zeros  1.3x      95 % zeros    3x      two threads    1.7x as fast as one
  90 % zeros    2x      98.7 % zeros  5x

In every round each engine answers once, after one answer that is not counted; medians and quartiles are shown. Choices
of the runtime are measured anew. With --layers also what each layer takes, beside the processor's peak of multiply-adds
and the bandwidth of its caches, measured by short loops.
Measure on a machine that does nothing else. Written are runtime.json, runtime.md and a picture."""

EXAMPLES = """\
examples:
  python -m slr_det.bench runtime                                     about 2 minutes on 2 cores
  python -m slr_det.bench runtime --threads 1,2 --layers -o found
  python -m slr_det.bench runtime --sparsity 90 --isa avx2 --engines onnxruntime,slr_det
  python -m slr_det.bench runtime --check                             exit code 1 where a target is missed
  python -m slr_det.bench runtime --quick                             a small image, few rounds: does everything run?"""

_QUICK_SIZE, _QUICK_ROUNDS = 96, 2
_LOOP = 0.2  # seconds for each measurement of the machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--sparsity", default="80,90,95,98.7", metavar="PERCENT,...", help="zeros (80,90,95,98.7)"
    )
    parser.add_argument("--threads", default="1", metavar="N,...", help="CPU threads (1)")
    parser.add_argument("--size", type=int, default=416, metavar="PIXELS", help="height and width (416)")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="timed rounds (20)")
    parser.add_argument(
        "--engines", default=",".join(ENGINES), metavar="NAME,...", help=f"some of {','.join(ENGINES)} (all)"
    )
    parser.add_argument(
        "--isa", choices=[isa.name.lower() for isa in Isa], help="instructions of our runtime (the best)"
    )
    parser.add_argument("--layers", action="store_true", help="also each layer, beside the roofline")
    parser.add_argument(
        "--memory", action="store_true", help="also each engine's memory, in processes of their own"
    )
    parser.add_argument(
        "--dense-ends", action="store_true", help="no zeros in the first layer and in the two heads"
    )
    parser.add_argument("--quick", action="store_true", help="small and short; no target is judged")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("-o", "--output", type=Path, default=Path("runtime"), metavar="DIR", help="(runtime)")


def run(options: argparse.Namespace) -> int:
    """Measure, print and write; returns the exit code."""
    sparsities = [value / 100 for value in numbers("--sparsity", options.sparsity, 0.0, 99.99)]
    counts = [int(value) for value in numbers("--threads", options.threads, 1, 1024, whole=True)]
    names = check_engines(options.engines.split(","))
    size, rounds = (_QUICK_SIZE, _QUICK_ROUNDS) if options.quick else (options.size, options.rounds)
    if size < 32 or size % 32:
        raise ConfigError(f"--size {size}: expected a multiple of 32")
    if rounds < 1:
        raise ConfigError(f"--rounds {rounds}: expected at least 1")
    found: list[tuple[float, Measured]] = []
    with _fresh(options.isa):
        library = load()
        for sparsity in sparsities:
            exportable, sample = _subject(sparsity, size, options.dense_ends)
            for threads in counts:
                _say(f"{sparsity:.1%} zeros, {threads} thread{'s' if threads > 1 else ''}")
                measured = measure(
                    exportable, sample, names, threads=threads, rounds=rounds, memory=options.memory, say=_say
                )
                found.append((sparsity, measured))
        roofs = _roofs(library) if options.layers else {}
    rows = speed_rows(found, quick=options.quick)
    layers = [_layer_rows(sparsity, measured, size, roofs) for sparsity, measured in found] if roofs else []
    title = f"yolov3-tiny, {size} px"
    _write(options.output, title, found, rows, layers, roofs)
    missed = [row for row in rows if row["verdict"] == "MISS"]
    return BELOW_MINIMUM if options.check and missed else OK


def numbers(option: str, text: str, low: float, high: float, *, whole: bool = False) -> list[float]:
    """Numbers of an option that takes several with commas; ConfigError for one that is none, or is out of range."""
    found = []
    for word in text.split(","):
        try:
            value = float(int(word)) if whole else float(word)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise ConfigError(f"{option} {text}: '{word}' is not {kind} from {low:g} to {high:g}")
        found.append(value)
    return found


def speed_rows(found: Sequence[tuple[float, Measured]], *, quick: bool) -> list[dict[str, Any]]:
    """Latencies, speed-ups and verdicts, a row for each sparsity and number of threads."""
    single = {sparsity: m.milliseconds(OURS) for sparsity, m in found if m.threads == 1}
    rows = []
    for sparsity, measured in found:
        up = measured.speed_up(OURS, "onnxruntime")
        target = TARGETS.get(round(sparsity, 6)) if measured.threads == 1 else None
        ours, alone = measured.milliseconds(OURS), single.get(sparsity)
        scaling = alone / ours if measured.threads == 2 and alone and ours else None
        judged = [value >= wanted for value, wanted in ((up, target), (scaling, SCALING)) if value and wanted]
        rows.append(
            {
                "sparsity": sparsity,
                "threads": measured.threads,
                **{result.name: result.milliseconds for result in measured.results},
                "spread": next((r.spread for r in measured.results if r.name == OURS), None),
                "speed_up": up,
                "target": target,
                "scaling": scaling,
                "verdict": "-"
                if not judged
                else "not judged"
                if quick
                else "pass"
                if all(judged)
                else "MISS",
            }
        )
    return rows


def _subject(sparsity: float, size: int, dense_ends: bool) -> tuple[Exportable, Tensors]:
    module = sparse_yolo(sparsity, size, dense_ends=dense_ends)
    sample = (torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1)),)
    exportable = Exportable(
        module, ("image",), ("coarse", "fine"), lambda split, count: iter([sample] * count), lambda _: {}, {}
    )
    return exportable, sample


@contextmanager
def _fresh(isa: str | None) -> Iterator[None]:
    """With the instructions that are wanted, and a memory of layer times of its own."""
    before = {name: os.environ.get(name) for name in ("SLR_DET_CACHE", ISA_VARIABLE)}
    if isa is not None:
        os.environ[ISA_VARIABLE] = isa
    load()  # from the user's own cache
    with tempfile.TemporaryDirectory(prefix="slr-det-times-") as scratch:
        os.environ["SLR_DET_CACHE"] = scratch
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _roofs(library: Library) -> dict[str, float]:
    """Multiply-adds per second that the processor can do, and bytes per second that it reads from its caches."""
    _say("the processor's peak and its caches' bandwidth")
    return {
        "flops": library.peak_fma(_LOOP),
        "first_cache": library.bandwidth(16 << 10, _LOOP),
        "first_cache_shifted": library.bandwidth(16 << 10, _LOOP, shift=1),
        "second_cache": library.bandwidth(256 << 10, _LOOP),
        "memory": library.bandwidth(256 << 20, _LOOP),
    }


def _layer_rows(
    sparsity: float, measured: Measured, size: int, roofs: dict[str, float]
) -> list[dict[str, Any]]:
    """Each layer's time alone, the shares of both roofs that it reaches, and what the faster roof would allow.

    A nonzero weight at a place of the output is one multiply-add, and reads one float of the input.
    """
    rows = []
    for layer in measured.layers:
        if layer["sparse_seconds"] is None:
            continue
        macs = layer["density"] * prod(layer["shape"]) * _side(layer["name"], size) ** 2
        seconds = layer["sparse_seconds"]
        needed = max(2 * macs / roofs["flops"], 4 * macs / roofs["first_cache"]) / measured.threads
        rows.append(
            {
                "sparsity": sparsity,
                "threads": measured.threads,
                "name": layer["name"].removesuffix(".weight"),
                "kind": layer["kind"],
                "shape": list(layer["shape"]),
                "choice": layer["choice"],
                "sparse_ms": 1000 * seconds,
                "dense_ms": 1000 * layer["dense_seconds"],
                "macs": macs,
                "gflops": 2 * macs / seconds / 1e9,
                "peak_share": 2 * macs / seconds / roofs["flops"] / measured.threads,
                "bandwidth_share": 4 * macs / seconds / roofs["first_cache"] / measured.threads,
                "roof_ms": 1000 * needed,
            }
        )
    return rows


def _side(name: str, size: int) -> int:
    """Height and width that a layer computes, before the maximum that may be its end."""
    if name.startswith("backbone."):
        return size >> int(name.split(".")[1])
    return size // (16 if name.startswith("fine") else 32)


def _write(
    folder: Path,
    title: str,
    found: Sequence[tuple[float, Measured]],
    rows: Sequence[dict[str, Any]],
    layers: Sequence[Sequence[dict[str, Any]]],
    roofs: dict[str, float],
) -> None:
    cells = _cells(rows)
    said = list(dict.fromkeys(line for _, measured in found for line in notes(measured)))
    isa = next((measured.isa for _, measured in found if measured.isa), "")
    first = found[0][1]
    about = f"{first.parameters:,} parameters, {first.rounds} rounds by turns, our runtime with {isa or 'nothing'}"
    text = [f"{title}: {about}", "", aligned(cells), *([""] if said else []), *said]
    page = [f"# The sparse runtime on {title}", "", about, "", *markdown(cells), ""]
    drawn = [row for row in rows if row["speed_up"] is not None]
    if drawn:
        draw_speedups(folder / PICTURE, drawn, title)
        page += [f"![speed-up]({PICTURE})", ""]
    page += [f"- {line}" for line in said]
    if layers:
        roof_lines = [
            f"peak of multiply-adds {roofs['flops'] / 1e9:.1f} GFLOP/s; reading from the first cache "
            f"{roofs['first_cache'] / 1e9:.0f} GB/s ({roofs['first_cache_shifted'] / 1e9:.0f} GB/s by loads that do "
            f"not begin where its lines do), the second {roofs['second_cache'] / 1e9:.0f} GB/s, memory "
            f"{roofs['memory'] / 1e9:.1f} GB/s (one thread)"
        ]
        text += ["", *roof_lines]
        page += ["", "## Layers", "", *roof_lines]
        for part in layers:
            if not part:
                continue
            head = f"{part[0]['sparsity']:.1%} zeros, {part[0]['threads']} threads"
            text += ["", head, aligned(_layer_cells(part))]
            page += ["", f"### {head}", "", *markdown(_layer_cells(part))]
        chosen = max(
            (part for part in layers if part), key=lambda part: -abs(part[0]["sparsity"] - 0.9), default=[]
        )
        if chosen:
            draw_roofline(folder / ROOFLINE, chosen, f"{title}, {chosen[0]['sparsity']:.1%} zeros")
            page += ["", f"![roofline]({ROOFLINE})"]
    document = {
        "schema": "slr_det.bench.runtime/1",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "isa": isa,
        "rows": list(rows),
        "roofs": roofs,
        "layers": [layer for part in layers for layer in part],
        "measured": [{"sparsity": sparsity, **asdict(measured)} for sparsity, measured in found],
    }
    atomic_write(folder / RESULTS, json.dumps(document, indent=1) + "\n")
    atomic_write(folder / TABLE, "\n".join(page) + "\n")
    print("\n".join(text))
    print(f"\nwritten to {folder}")


def _cells(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    engines = [name for name in ENGINES if any(row.get(name) is not None for row in rows)]
    lines = [
        (
            "zeros",
            "threads",
            *(f"{name} ms" for name in engines),
            "quartiles",
            "vs ORT",
            "target",
            "1 to 2",
            "result",
        )
    ]
    for row in rows:
        spread = row["spread"]
        lines.append(
            (
                f"{row['sparsity']:.1%}",
                str(row["threads"]),
                *("-" if row.get(name) is None else f"{row[name]:.2f}" for name in engines),
                "-" if spread is None else f"{spread[0]:.2f} to {spread[1]:.2f}",
                *(
                    "-" if row[key] is None else f"{row[key]:.2f}x"
                    for key in ("speed_up", "target", "scaling")
                ),
                row["verdict"],
            )
        )
    return lines


def _layer_cells(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    head = (
        "layer",
        "weights",
        "sparse ms",
        "torch ms",
        "faster",
        "GFLOP/s",
        "of peak",
        "of bandwidth",
        "roof ms",
    )
    lines: list[tuple[str, ...]] = [head]
    for row in rows:
        lines.append(
            (
                row["name"],
                "x".join(map(str, row["shape"])),
                f"{row['sparse_ms']:.3f}",
                f"{row['dense_ms']:.3f}",
                f"{row['dense_ms'] / row['sparse_ms']:.2f}x",
                f"{row['gflops']:.1f}",
                f"{row['peak_share']:.0%}",
                f"{row['bandwidth_share']:.0%}",
                f"{row['roof_ms']:.3f}",
            )
        )
    return lines


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)

"""The verb ``export``: its options, and what it says at the end."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slr_det.errors import ConfigError
from slr_det.export.writing import FORMATS, TOLERANCE, Exported, ExportSettings


def add_export_options(verb: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    verb.add_argument(
        "-o", "--output", metavar="FILE", help="file to write; default: the checkpoint's name, in this folder"
    )
    verb.add_argument("--format", choices=tuple(FORMATS), default="onnx", help="default: onnx")
    verb.add_argument(
        "--int8", action="store_true", help="quantise; evaluates before and after, zeros stay zeros"
    )
    verb.add_argument(
        "--sparse",
        action="store_true",
        help="keep mostly-zero weights as their nonzeros: a smaller ONNX file",
    )
    verb.add_argument(
        "--batch",
        default="1",
        metavar="N",
        help="samples per call that the file takes, or 'dynamic'; default: 1",
    )
    verb.add_argument(
        "--samples",
        type=int,
        default=8,
        metavar="N",
        help="validation samples to compare with torch on; default: 8",
    )
    verb.add_argument(
        "--calibration",
        type=int,
        default=128,
        metavar="N",
        help="training samples that INT8 is fitted to; default: 128",
    )
    verb.add_argument(
        "--keep-float",
        action="append",
        default=[],
        metavar="GLOB",
        help="weights that INT8 leaves in float32 (repeatable)",
    )
    verb.add_argument(
        "--reduce-range", action="store_true", help="INT8 weights of 7 bits, for x86 processors without VNNI"
    )
    verb.add_argument("--json", action="store_true", help="print the outcome as JSON")


def settings_of(options: argparse.Namespace) -> ExportSettings:
    """The settings behind the options; ConfigError for a batch that is none."""
    batch = options.batch
    if batch != "dynamic" and (not batch.isdecimal() or int(batch) < 1):
        raise ConfigError(f"--batch {batch}: expected a number from 1 on, or dynamic")
    return ExportSettings(
        format=options.format,
        batch=0 if batch == "dynamic" else int(batch),
        int8=options.int8,
        sparse=options.sparse,
        samples=options.samples,
        calibration=options.calibration,
        keep_float=tuple(options.keep_float),
        reduce_range=options.reduce_range,
    )


def target_of(options: argparse.Namespace, model: str) -> Path:
    """The file to write, ``-o`` or the checkpoint's name with the format's suffix."""
    if options.output:
        return Path(options.output).expanduser()
    return Path(Path(model).stem).with_suffix(FORMATS[options.format])


def lines_of(found: Exported, scores: Callable[[Mapping[str, Any]], str]) -> list[str]:
    """What was written and how it was checked, a line each.

    Args:
        found: The outcome.
        scores: Writes the metrics that the task shows on one line.
    """
    check, folded = found.check, found.folded
    lines = [
        f"checked   {check.samples} samples, largest difference from torch {check.absolute:.2g}"
        f" ({check.relative:.2g} of the number, at most {TOLERANCE:g})",
        f"folded    {folded.merged + folded.replaced} batch norms ({folded.merged} into the layer before them),"
        f" {found.batchnorms} left",
    ]
    if found.quantised is not None:
        q = found.quantised
        lines.append(
            f"int8      {q.weights} weights, {q.samples} calibration batches; of {q.zeros_before:,} zeros"
            f" {q.zeros_kept:,} are kept, {q.zeros_after - q.zeros_kept:,} came by rounding"
        )
        lines += [f"float32   {name}" for name in q.kept_float]
        if found.int8_check is not None:
            lines.append(f"int8      differs from torch by up to {found.int8_check.relative:.2g} of a number")
        lines += [f"{kind:9s} {scores(metrics)}" for kind, metrics in found.metrics.items()]
    if found.sparsified is not None:
        s = found.sparsified
        said = (
            f"{s.tensors} weights with {s.values:,} of {s.entries:,} values, {s.index_bytes:,} bytes of places; "
            "the same answers bit for bit"
        )
        lines.append(
            f"sparse    {said if s.tensors else 'no weight is sparse enough to be smaller that way'}"
        )
    ratio = found.bytes / found.dense_bytes
    lines.append(f"bytes     {found.bytes:,}, {ratio:.1%} of ONNX in dense float32 ({found.dense_bytes:,})")
    return lines

"""What a pruned model buys where it runs: the score, the bytes and the latency of checkpoints and of their exports."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from slr_det.adapter import Adapter, EvalJob, load_adapter
from slr_det.cli import OK
from slr_det.config import RunConfig, load_config
from slr_det.errors import ConfigError
from slr_det.export.exportable import Tensors
from slr_det.export.runtime import OnnxNetwork
from slr_det.export.writing import ExportSettings, check_settings, export_network
from slr_det.files import atomic_write
from slr_det.plots.deploy import draw_deployed
from slr_det.storage import pack
from slr_det.task import Task
from slr_det.timing import interleaved, median, quartiles

TASKS = ("yolo", "lane", "pointpillars", "classify")
RESULTS, TABLE, PICTURE = "deploy.json", "deploy.md", "deploy.png"

DESCRIPTION = """\
Measure what checkpoints are worth where they run. Each is packed (slr_det.pack) and exported to ONNX, in float32 and
in INT8; for each of the two the table says the task's score in ONNX Runtime, the bytes, and the latency with one thread
at batch 1, all variants taking turns. Written are deploy.json, deploy.md and a picture of score against latency and
against bytes."""

EXAMPLES = """\
examples:
  python -m slr_det.bench deploy yolo data=shapes imgsz=128 dense=runs/a/dense.pt slr=runs/a/pruned.pt -o deploy
      any number of checkpoints by a name of your own; what is not NAME=FILE.pt is a setting, as for eval"""

_SUFFIXES = (".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Deployed:
    """One variant of a checkpoint.

    Attributes:
        name: What the user calls the checkpoint.
        kind: ``float32`` or ``int8``.
        score: The task's headline in ONNX Runtime.
        parameters: Of the checkpoint.
        zeros: Share of its parameters that are zero.
        checkpoint_bytes: Of the checkpoint.
        packed_bytes: Of the packed checkpoint.
        onnx_bytes: Of this ONNX file.
        milliseconds: Median latency of a sample.
        spread: First and third quartile of it.
    """

    name: str
    kind: str
    score: float
    parameters: int
    zeros: float
    checkpoint_bytes: int
    packed_bytes: int
    onnx_bytes: int
    milliseconds: float
    spread: tuple[float, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("task", choices=TASKS, help="whose checkpoints")
    parser.add_argument("settings", nargs="+", metavar="NAME=FILE.pt|key=value", help="checkpoints, data=...")
    parser.add_argument("-o", "--output", type=Path, default=Path("deploy"), metavar="DIR", help="(deploy)")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="timed rounds (30)")
    parser.add_argument("--calibration", type=int, default=128, metavar="N", help="samples for INT8 (128)")


def measure(options: argparse.Namespace) -> int:
    """Export, evaluate and time every checkpoint, and write the outcome; returns the exit code."""
    models, settings = _split(options.settings)
    # The task's module declares how its settings are read; none imports a trainer.
    task: Task = importlib.import_module(f"slr_det.{options.task}").TASK
    adapter = load_adapter(task.adapter)
    first = next(iter(models.values()))
    config = load_config(
        None,
        [f"model={first}", *settings],
        defaults={},
        trainer_keys=adapter.trainer_keys(),
        required=("model", "data"),
        task=task.name,
        unsupported=adapter.unsupported(),
    )
    folder: Path = options.output
    check_settings(folder / "x.onnx", ExportSettings(int8=True, calibration=options.calibration))
    data = adapter.prepare_data(config.data, folder / "data")
    found = _measure(task, adapter, config, data, models, folder, options)
    lines = table(task, found)
    document = {"task": task.name, "metric": task.metric, "rows": [asdict(row) for row in found]}
    atomic_write(folder / RESULTS, json.dumps(document, indent=1) + "\n")
    atomic_write(folder / TABLE, "\n".join(lines) + "\n")
    draw_deployed(folder / PICTURE, [asdict(row) for row in found], task.metric)
    print("\n".join(lines))
    print(f"\nwritten to {folder}")
    return OK


def _split(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Checkpoints by name, and settings."""
    models: dict[str, str] = {}
    settings = []
    for word in words:
        name, _, value = word.partition("=")
        if value.endswith(_SUFFIXES) and name not in ("data", "weights"):
            models[name] = value
        else:
            settings.append(word)
    if not models:
        raise ConfigError(
            "no checkpoint is given; write NAME=FILE.pt for each, such as dense=runs/NAME/dense.pt"
        )
    return models, settings


def _measure(
    task: Task,
    adapter: Adapter,
    config: RunConfig,
    data: Path,
    models: dict[str, str],
    folder: Path,
    options: argparse.Namespace,
) -> list[Deployed]:
    facts: dict[tuple[str, str], dict[str, Any]] = {}
    files: dict[tuple[str, str], Path] = {}
    sample: Tensors = ()
    for name, model in models.items():
        print(f"  {name}: packing and exporting {model}", file=sys.stderr, flush=True)
        exportable = adapter.exportable(EvalJob(model, str(data), config.train, "cpu"))
        if not sample:
            sample = next(iter(exportable.samples("val", 1)))
        weights = adapter.averaged(model)
        total = sum(weight.numel() for weight in weights.values())
        packed = pack(model, folder / f"{name}.slr")
        common = {
            "parameters": total,
            "zeros": 1.0 - sum(int(torch.count_nonzero(w)) for w in weights.values()) / total,
            "checkpoint_bytes": Path(model).stat().st_size,
            "packed_bytes": packed.packed,
        }
        for kind in ("float32", "int8"):
            target = folder / f"{name}-{kind}.onnx"
            int8 = kind == "int8"
            wanted = ExportSettings(int8=int8, calibration=options.calibration)
            exported = export_network(exportable, target, wanted)
            files[name, kind] = target
            facts[name, kind] = {**common, "onnx_bytes": exported.bytes}
            if int8:
                for done, metrics in exported.metrics.items():
                    facts[name, done]["score"] = float(metrics[task.metric])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        variants = {"\t".join(key): partial(OnnxNetwork(path, 1), *sample) for key, path in files.items()}
        taken = interleaved(variants, options.rounds)
    finally:
        torch.set_num_threads(threads)
    rows = []
    for key in files:
        times = [1000 * seconds for seconds in taken["\t".join(key)]]
        rows.append(Deployed(*key, **facts[key], milliseconds=median(times), spread=quartiles(times)))
    return rows


def table(task: Task, rows: Sequence[Deployed]) -> list[str]:
    """The rows as Markdown; latency and bytes also as shares of the first row's."""
    first = rows[0]
    lines = [
        f"| model | runs as | {task.metric} | parameters | zeros | packed checkpoint | ONNX file | latency |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        low, high = row.spread
        lines.append(
            f"| {row.name} | {row.kind} | {row.score:.3f} | {row.parameters:,} | {row.zeros:.1%} | "
            f"{row.packed_bytes / 1e6:.2f} MB | {row.onnx_bytes / 1e6:.2f} MB | {row.milliseconds:.2f} ms "
            f"({row.milliseconds / first.milliseconds:.2f}x; {low:.2f} to {high:.2f}) |"
        )
    return lines

"""The words of a command line: verbs, options and ``key=value`` settings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from slr_det import __version__
from slr_det.engines.verb import add_bench_options
from slr_det.export.verb import add_export_options
from slr_det.gate import add_gate_options, give_back_setting
from slr_det.task import Task


def parse(task: Task, arguments: Sequence[str]) -> argparse.Namespace:
    """Read a command line that starts with a verb; ends the process on ``--help`` and on unknown options."""
    parser = argparse.ArgumentParser(
        prog=task.module,
        description=task.description,
        epilog=task.epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"slr_det {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _shared_verbs(task, verbs)
    for extra in task.extra:
        extra.add_arguments(verbs.add_parser(extra.name, help=extra.help))
    options, rest = parser.parse_known_args(arguments)
    stray = [word for word in rest if word.startswith("-") or "=" not in word]
    if stray:
        parser.error(f"unrecognized arguments: {' '.join(stray)} (settings are written key=value)")
    if rest:
        options.settings = [*options.settings, *rest]
    give_back_setting(options)
    return options


def _shared_verbs(task: Task, verbs: Any) -> None:
    compress = _verb(
        task, verbs, "compress", "train under a method, prune, evaluate, retrain, report (the default verb)"
    )
    train = _verb(task, verbs, "train", "train a dense model; nothing is pruned")
    analyze = _verb(
        task, verbs, "analyze", "print what would be kept of which layer, before anything is trained"
    )
    retrain = _verb(task, verbs, "retrain", "go on training a pruned model; its zeros stay zero")
    evaluate = _verb(
        task, verbs, "eval", f"{task.evaluates} of a checkpoint; with limits a pass or fail for CI"
    )
    report = verbs.add_parser("report", help="print a run's table and write its report.md and plots again")
    export = _verb(
        task,
        verbs,
        "export",
        "write a checkpoint as ONNX or OpenVINO, float32 or INT8, checked against torch",
    )
    bench = _verb(
        task,
        verbs,
        "bench",
        "latency and memory of a checkpoint on this CPU, in the sparse runtime and in others",
    )
    report.add_argument("run", help="folder of a run, such as runs/NAME, or its report.json")
    report.add_argument("--json", action="store_true", help="print report.json instead of the table")

    for verb in (compress, train, analyze, retrain, evaluate, export, bench):
        verb.add_argument(
            "--config", metavar="FILE.yaml", help="settings file; key=value on the command line wins"
        )
        if task.backends:
            verb.add_argument(
                "--backend", choices=tuple(task.backends), help="whose trainer; default: the first of these"
            )
        verb.add_argument("--device", help="cpu, 0, 0,1 (several GPUs); default: a GPU if there is one")
        verb.add_argument("--verbose", action="store_true", help="show the trainer's own log too")
        verb.add_argument(
            "settings", nargs="*", metavar="key=value", help="settings, such as model=... data=..."
        )
    for verb in (compress, analyze):
        verb.add_argument(
            "--method", help="slr, admm, penalty, gradual, oneshot; several with commas: slr,admm"
        )
        verb.add_argument("--compression", help="target over the whole model, such as 3.33x")
    for verb in (compress, train, retrain):
        verb.add_argument("--epochs", type=int, help="epochs of this verb's main training")
        verb.add_argument("--name", help="name of the run's folder")
        verb.add_argument(
            "--resume",
            metavar="RUN",
            help="continue the run in this folder where it stopped; no other settings needed",
        )
    compress.add_argument(
        "--retrain-epochs", type=int, help="epochs of masked retraining after pruning (0: none)"
    )
    add_export_options(export)
    add_bench_options(bench)
    analyze.add_argument("--json", action="store_true", help="print the table as JSON")
    analyze.add_argument(
        "--sensitivity",
        metavar="DIR",
        help="scan: prune each layer alone at several ratios, evaluate each (needs data=...), plot into DIR",
    )
    add_gate_options(evaluate, task)


def _verb(task: Task, verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=text,
        description=text,
        epilog=task.settings,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser

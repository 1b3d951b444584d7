"""Measure, and compare methods: ``python -m slr_det.bench engine`` (``storage``, ``pointcloud``, ...)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slr_det.bench import (
    deploy,
    iteration,
    memory,
    pointcloud,
    projection,
    runtime,
    shrinking,
    storage,
    training,
)
from slr_det.bench.rows import Row, Settings, document, table
from slr_det.bench.study import command as study
from slr_det.cli import run
from slr_det.errors import MissingExtraError
from slr_det.files import atomic_write

MEASURES: dict[str, Callable[[Settings], list[Row]]] = {
    "projection": projection.measure,
    "iteration": iteration.measure,
    "penalty": training.measure,
    "memory": memory.measure,
}
CLOUD_MEASURES: dict[str, Callable[[Settings], list[Row]]] = {
    "voxels": pointcloud.voxels,
    "overlap": pointcloud.overlap,
    "nms": pointcloud.suppression,
}
STORAGE_MEASURES: dict[str, Callable[[Settings], list[Row]]] = {
    "sizes": storage.sizes,
    "times": storage.times,
}
SHRINK_MEASURES: dict[str, Callable[[Settings], list[Row]]] = {
    "detector": shrinking.detector,
    "classifiers": shrinking.classifiers,
}

DESCRIPTION = """\
Measure what the engine costs, beside the targets it is held to:

  projection   10 M float32 weights on one thread, against a numpy.percentile mask: at most 0.7x its time
  iteration    the end of an SLR iteration on yolov3-spp's weights: under 3 s (on a GPU under 50 ms)
  penalty      what the penalty adds to a training step of yolov3-tiny at 320 px, batch 8: at most 3 %
               (on a GPU at 640 px, batch 16); needs ultralytics
  memory       what a run under SLR needs beyond the same run without: at most 2.1x the pruned weights' bytes;
               the part with a real training step needs ultralytics

Variants are interleaved within one run; medians and quartiles are shown. Measure on a machine that does nothing
else: other load makes every number worse. GPU rows appear where CUDA does."""

EXAMPLES = """\
examples:
  python -m slr_det.bench engine                        everything, about 4 minutes on 2 cores
  python -m slr_det.bench engine --only projection      one measure; give --only again for more
  python -m slr_det.bench engine --json bench.json      the raw numbers too
  python -m slr_det.bench engine --check                exit code 1 where a target is missed
  python -m slr_det.bench engine --quick                small sizes: does everything run?"""

CLOUD_DESCRIPTION = """\
Measure what point clouds and boxes in space cost, on one thread, beside the targets they are held to:

  voxels       a scan of 120 k points cut into pillars: at most 20 ms, with spconv and without
  overlap      rotated IoU of 600 x 600 boxes: under 0.5 s; of 4096 x 4096: within 512 MB
  nms          rotated non-maximum suppression of 4096 boxes: under 1 s

Medians and quartiles are shown. Measure on a machine that does nothing else. GPU rows appear where CUDA does."""

CLOUD_EXAMPLES = """\
examples:
  python -m slr_det.bench pointcloud                    everything, under a minute
  python -m slr_det.bench pointcloud --only voxels      one measure; give --only again for more
  python -m slr_det.bench pointcloud --check            exit code 1 where a target is missed"""

STORAGE_DESCRIPTION = """\
Measure how small 10 M pruned float32 weights become as a file, beside the targets they are held to:

  sizes        18.0, 7.5, 3.75, 1.3 and 0.55 MB at 50, 80, 90, 97 and 98.7 % zeros, pruned by magnitude; beside them
               the same weights pruned at random, against the entropy that no format goes below
  times        writing and reading at 90 %, on one thread: under 0.5 s each

Medians and quartiles are shown. Measure times on a machine that does nothing else."""

STORAGE_EXAMPLES = """\
examples:
  python -m slr_det.bench storage                       everything, under a minute
  python -m slr_det.bench storage --only sizes          one measure; give --only again for more
  python -m slr_det.bench storage --check               exit code 1 where a target is missed"""

SHRINK_DESCRIPTION = """\
Measure what removing half of the filters gives, in parameters and in latency (ONNX Runtime, one thread, batch 1):

  detector     yolov3-tiny at 640 px: at most 0.3x the parameters and 0.45x the latency; needs ultralytics
  classifiers  cifar_vgg16, which is plain, and cifar_resnet20, whose sums keep their filters

Weights are random; times do not depend on them. Large and small network take turns; medians and quartiles are shown.
Measure on a machine that does nothing else."""

SHRINK_EXAMPLES = """\
examples:
  python -m slr_det.bench shrink                        everything, under a minute
  python -m slr_det.bench shrink --only detector        one measure; give --only again for more
  python -m slr_det.bench shrink --check                exit code 1 where a target is missed"""


@dataclass(frozen=True)
class Subject:
    """What one word of the command line measures.

    Attributes:
        help: One line of help.
        description: What is measured, and the targets.
        examples: Commands.
        measures: Measures by the names that ``--only`` takes.
    """

    help: str
    description: str
    examples: str
    measures: Mapping[str, Callable[[Settings], list[Row]]]


SUBJECTS = {
    "engine": Subject("speed and memory", DESCRIPTION, EXAMPLES, MEASURES),
    "pointcloud": Subject(
        "speed and memory of 3D geometry", CLOUD_DESCRIPTION, CLOUD_EXAMPLES, CLOUD_MEASURES
    ),
    "storage": Subject(
        "size of packed weights, and how long packing takes",
        STORAGE_DESCRIPTION,
        STORAGE_EXAMPLES,
        STORAGE_MEASURES,
    ),
    "shrink": Subject(
        "size and latency without half of the filters", SHRINK_DESCRIPTION, SHRINK_EXAMPLES, SHRINK_MEASURES
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    if options.subject == "methods":
        methods = study.Methods(options)
        return run(methods.run, on_interrupt=methods.interrupted)
    if options.subject == "deploy":
        return run(lambda: deploy.measure(options), on_interrupt=lambda: "stopped; nothing was written")
    if options.subject == "runtime":
        return run(lambda: runtime.run(options), on_interrupt=lambda: "stopped; nothing was written")
    measures = SUBJECTS[options.subject].measures
    return run(lambda: _measure(options, measures), on_interrupt=lambda: "stopped; nothing was written")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m slr_det.bench", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=form
    )
    subjects = parser.add_subparsers(
        dest="subject", metavar="engine|pointcloud|storage|shrink|runtime|deploy|methods", required=True
    )
    for name, subject in SUBJECTS.items():
        one = subjects.add_parser(
            name,
            help=subject.help,
            description=subject.description,
            epilog=subject.examples,
            formatter_class=form,
        )
        _add_arguments(one, subject.measures)
        if name != "engine":
            one.set_defaults(threads=1)
        else:
            one.add_argument(
                "--threads",
                type=_threads,
                default=2,
                metavar="N",
                help="CPU threads, but for the projections' one (2)",
            )
    sparse = subjects.add_parser(
        "runtime",
        help="the sparse runtime against dense engines",
        description=runtime.DESCRIPTION,
        epilog=runtime.EXAMPLES,
        formatter_class=form,
    )
    runtime.add_arguments(sparse)
    deployed = subjects.add_parser(
        "deploy",
        help="score, bytes and latency of checkpoints where they run",
        description=deploy.DESCRIPTION,
        epilog=deploy.EXAMPLES,
        formatter_class=form,
    )
    deploy.add_arguments(deployed)
    methods = subjects.add_parser(
        "methods",
        help="a study that compares pruning methods",
        description=study.DESCRIPTION,
        epilog=study.EXAMPLES,
        formatter_class=form,
    )
    study.add_arguments(methods)
    options, rest = parser.parse_known_args(arguments)
    if options.subject in ("methods", "deploy") and all(
        "=" in word and not word.startswith("-") for word in rest
    ):
        options.settings += rest  # words behind an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _add_arguments(parser: argparse.ArgumentParser, measures: Iterable[str]) -> None:
    parser.add_argument(
        "--only", action="append", choices=list(measures), help="measure only this (repeatable)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds; no target is judged")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number to this file")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")


def _threads(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads, expected 1 or more")
    return int(text)


def _measure(options: argparse.Namespace, measures: Mapping[str, Callable[[Settings], list[Row]]]) -> int:
    settings = Settings(
        options.threads, options.quick, lambda line: print(f"  {line}", file=sys.stderr, flush=True)
    )
    rows = []
    for name in options.only or measures:
        try:
            rows += measures[name](settings)
        except MissingExtraError as error:
            if options.only:
                raise
            rows.append(Row(name, "needs an extra", None, "", note=str(error)))
    print(table(rows, settings.quick))
    if options.json is not None:
        atomic_write(options.json, json.dumps(document(rows, settings), indent=2) + "\n")
        print(f"\nwritten to {options.json}")
    missed = any(row.passed(settings.quick) is False for row in rows)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Compress lane detectors: ``python -m slr_det.lane VERB ...``; ``--help`` on any verb teaches the rest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from slr_det.cli import OK
from slr_det.command import start
from slr_det.metrics.tusimple import score
from slr_det.presets import LANE, LANE_SETTINGS
from slr_det.task import ExtraVerb, Scope, Task

MODULE = "python -m slr_det.lane"

EPILOG = f"""examples:
  {MODULE}
      everything on a road that is generated on the spot: train, compress with SLR and ADMM, report
  {MODULE} analyze model=parsingnet18 --compression 12.10x
      what would be kept of which layer, of everything and of the backbone alone, before anything is trained
  {MODULE} model=tusimple_18.pth data=/path/to/tusimple --compression 12.10x
      from a checkpoint of Ultra-Fast-Lane-Detection's; model=FILE.pt takes one of slr_det itself
  {MODULE} model=tusimple_18.pth data=/path/to/tusimple --compression 12.10x prune.scope=backbone
      with cls left dense: 12.10x counts the layers that are pruned
  {MODULE} --backend ufld upstream=Ultra-Fast-Lane-Detection \\
      model=tusimple_18.pth data=/path/to/tusimple --compression 12.10x
      in your own checkout of Ultra-Fast-Lane-Detection, by its own trainer
  {MODULE} --resume runs/NAME
  {MODULE} eval model=runs/NAME/pruned.pt data=/path/to/tusimple --min accuracy=0.9
      exit code 1 below the threshold: all that a CI job needs
  {MODULE} score --labels test_label.json --predictions pred.json --json
      TuSimple's accuracy, FP and FN of any detector's lanes, and the share of points that are right

Settings are key=value; what is not ours goes to the trainer (lr, batch, cache, rotation, amp, ...).
exit codes: 0 fine, 1 a metric is below --min, 2 something is wrong (one line on stderr says what)
"""


def _score_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels", required=True, metavar="FILE", help="the benchmark's labels, a clip in each line"
    )
    parser.add_argument(
        "--predictions",
        required=True,
        metavar="FILE",
        help="lanes in the benchmark's submission format, one line for every clip",
    )
    parser.add_argument("--json", action="store_true", help="print full precision as JSON, every number")


def _score(options: argparse.Namespace) -> int:
    score(options.labels, options.predictions, options.json)
    return OK


TASK = Task(
    name="lane",
    module=MODULE,
    adapter="lane",
    ranks=("lane",),
    report_task="lane",
    metric="accuracy",
    shown=("accuracy", "empty_accuracy", "point_accuracy", "fp", "fn"),
    metric_aliases={"acc": "accuracy", "points": "point_accuracy"},
    head="lane head",
    preset=LANE,
    recipe="recommended",
    description=__doc__ or "",
    settings=LANE_SETTINGS,
    epilog=EPILOG,
    evaluates="TuSimple's accuracy, FP and FN",
    minimum="accuracy=0.9",
    memory="batch=...",
    extra=(ExtraVerb("score", "TuSimple's scores of a file of predicted lanes", _score_arguments, _score),),
    backends={"embedded": "lane", "ufld": "ufld"},
    scopes={
        "everything": Scope(
            "cls and pool are pruned too, and a rate counts the whole model",
            {"dense_head": False, "compression_over": "model"},
        ),
        "backbone": Scope(
            "cls and pool stay dense, and a rate counts the layers that are pruned",
            {"dense_head": True, "compression_over": "groups"},
        ),
    },
    parts={"backbone": ("model.*",), "head": ("pool.*", "cls.*")},
    lower_is_better=("fp", "fn"),
)
VERBS = TASK.verbs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return start(TASK, arguments)


if __name__ == "__main__":
    sys.exit(main())

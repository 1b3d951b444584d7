"""Compress PointPillars: ``python -m slr_det.pointpillars VERB ...``; ``--help`` on any verb teaches the rest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from slr_det.cli import OK
from slr_det.command import start
from slr_det.metrics.kitti import score
from slr_det.presets import POINTPILLARS, POINTPILLARS_SETTINGS
from slr_det.task import ExtraVerb, Task

MODULE = "python -m slr_det.pointpillars"

EPILOG = f"""examples:
  {MODULE}
      everything on a street that is generated on the spot: train, compress with SLR and ADMM, report
  {MODULE} analyze model=pointpillars --compression 9.449x
      what would be kept of which layer, before anything is trained
  {MODULE} model=pointpillars weights=pointpillar.pth data=/path/to/kitti --compression 9.449x
      from a checkpoint of OpenPCDet's; model=FILE.pt takes one of slr_det itself
  SLR_DET_OPENPCDET=OpenPCDet {MODULE} --backend openpcdet \\
      model=cfgs/kitti_models/pointpillar.yaml weights=pointpillar.pth data=/path/to/kitti --compression 4.874x
      in your own checkout of OpenPCDet, by its own trainer
  {MODULE} --resume runs/NAME
  {MODULE} eval model=runs/NAME/pruned.pt data=/path/to/kitti --min moderate=0.6
      exit code 1 below the threshold: all that a CI job needs
  {MODULE} score --labels label_2 --predictions results --json
      KITTI's average precision of any detector's result files

Settings are key=value; what is not ours goes to the trainer (lr, batch, overlap, paste, amp, ...).
exit codes: 0 fine, 1 a metric is below --min, 2 something is wrong (one line on stderr says what)
"""


def _score_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", required=True, metavar="DIR", help="KITTI label files (label_2)")
    parser.add_argument(
        "--predictions",
        required=True,
        metavar="DIR",
        help="result files of the same names; frames without one are left out",
    )
    parser.add_argument(
        "--overlap",
        choices=("standard", "loose", "0.5"),
        default="standard",
        help="least overlap of a match: KITTI's (0.7 for cars, 0.5 for the others), a loose set, or 0.5 for all",
    )
    parser.add_argument("--json", action="store_true", help="print full precision as JSON, every measure")


def _score(options: argparse.Namespace) -> int:
    score(options.labels, options.predictions, options.overlap, options.json)
    return OK


TASK = Task(
    name="pointpillars",
    module=MODULE,
    adapter="pointpillars",
    ranks=("pointpillars",),
    report_task="pointcloud",
    metric="moderate",
    shown=("moderate", "easy", "hard"),
    metric_aliases={"map": "moderate", "ap": "moderate", "mod": "moderate"},
    head="detection head",
    preset=POINTPILLARS,
    recipe="recommended",
    description=__doc__ or "",
    settings=POINTPILLARS_SETTINGS,
    epilog=EPILOG,
    evaluates="KITTI 3D AP (easy, moderate, hard)",
    minimum="moderate=0.6",
    memory="batch=...",
    extra=(ExtraVerb("score", "KITTI's AP of a folder of result files", _score_arguments, _score),),
    backends={"embedded": "pointpillars", "openpcdet": "openpcdet"},
)
VERBS = TASK.verbs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return start(TASK, arguments)


if __name__ == "__main__":
    sys.exit(main())

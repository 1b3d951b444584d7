"""Compress YOLO detectors: ``python -m slr_det.yolo VERB ...``; ``--help`` on any verb teaches the rest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from slr_det.cli import OK
from slr_det.command import start
from slr_det.metrics.coco import METRIC_ALIASES, score
from slr_det.presets import YOLO, YOLO_SETTINGS
from slr_det.shrink.verb import shrink_verb
from slr_det.task import ExtraVerb, Task

MODULE = "python -m slr_det.yolo"

EPILOG = f"""examples:
  {MODULE}
      everything on a data set that is drawn on the spot: train, compress 3.33x with SLR, report
  {MODULE} analyze model=best.pt --compression 3.33x
      what would be kept of which layer, before anything is trained
  {MODULE} model=best.pt data=coco.yaml --compression 3.33x --epochs 25 imgsz=640 batch=16
  {MODULE} model=best.pt data=coco.yaml --method slr,admm --compression 2x
      two methods at the same budget in one report
  {MODULE} --resume runs/NAME
  {MODULE} eval model=runs/NAME/pruned.pt data=coco.yaml --min map50=0.35
      exit code 1 below the threshold: all that a CI job needs
  {MODULE} --backend yolov3 upstream=yolov3 \\
      model=yolov3-tiny.pt data=coco.yaml --compression 3.33x
      in your own checkout of ultralytics/yolov3, the anchor-based YOLOv3, by its own trainer
  {MODULE} shrink runs/NAME/pruned.pt -o small.pt --data coco.yaml
      without the filters that prune.projection=filter left dead: smaller and faster, the same outputs

Settings are key=value; what is not ours goes to the trainer (imgsz, batch, lr0, optimizer, mosaic, ...).
exit codes: 0 fine, 1 a metric is below --min, 2 something is wrong (one line on stderr says what)
"""


def _score_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotations", required=True, metavar="GT.json", help="COCO ground truth")
    parser.add_argument("--predictions", required=True, metavar="DT.json", help="COCO result file")
    parser.add_argument(
        "--iou", choices=("bbox", "segm"), default="bbox", help="overlap of boxes or of masks"
    )
    parser.add_argument("--json", action="store_true", help="print full precision as JSON, with every class")


def _score(options: argparse.Namespace) -> int:
    score(options.annotations, options.predictions, options.iou, options.json)
    return OK


TASK = Task(
    name="yolo",
    module=MODULE,
    adapter="ultralytics",
    report_task="detect",
    metric="AP50",
    shown=("AP50", "AP"),
    metric_aliases=METRIC_ALIASES,
    head="detection head",
    preset=YOLO,
    recipe="paper",
    description=__doc__ or "",
    settings=YOLO_SETTINGS,
    epilog=EPILOG,
    evaluates="COCO AP",
    minimum="map50=0.35",
    memory="batch=... or imgsz=...",
    extra=(
        ExtraVerb("score", "score any COCO result file with pycocotools", _score_arguments, _score),
        shrink_verb("ultralytics", "AP50"),
    ),
    backends={"ultralytics": "ultralytics", "yolov3": "yolov3"},
)
VERBS = TASK.verbs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return start(TASK, arguments)


if __name__ == "__main__":
    sys.exit(main())

"""Compress image classifiers: ``python -m slr_det.classify VERB ...``; ``--help`` on any verb teaches the rest."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from slr_det.command import start
from slr_det.presets import CLASSIFY, CLASSIFY_SETTINGS
from slr_det.shrink.verb import shrink_verb
from slr_det.task import Task

MODULE = "python -m slr_det.classify"

EPILOG = f"""examples:
  {MODULE}
      everything on handwritten digits that need no download: train, compress 20x with four methods, report
  {MODULE} analyze model=cifar_resnet20 --compression 20x
      what would be kept of which layer, before anything is trained
  {MODULE} model=cifar_resnet20 weights=resnet20.th data=cifar-10-binary.tar.gz --compression 20x
      from weights that somebody has trained; model=FILE.pt takes a checkpoint of slr_det itself
  {MODULE} model=resnet18 data=pictures dense_epochs=100 --method slr,admm --compression 10x
      a dense model first, then two methods at the same budget in one report
  {MODULE} --resume runs/NAME
  {MODULE} eval model=runs/NAME/pruned.pt data=pictures --min top1=0.9
      exit code 1 below the threshold: all that a CI job needs
  {MODULE} shrink runs/NAME/pruned.pt -o small.pt --data pictures
      without the filters that prune.projection=filter left dead: smaller and faster, the same outputs

Settings are key=value; what is not ours goes to the trainer (lr, batch, optimizer, size, augment, ...).
exit codes: 0 fine, 1 a metric is below --min, 2 something is wrong (one line on stderr says what)
"""

TASK = Task(
    name="classify",
    module=MODULE,
    adapter="timm",
    ranks=("timm",),
    report_task="classify",
    metric="top1",
    shown=("top1", "top5"),
    metric_aliases={"accuracy": "top1"},
    head="output layer",
    preset=CLASSIFY,
    recipe="recommended",
    description=__doc__ or "",
    settings=CLASSIFY_SETTINGS,
    epilog=EPILOG,
    evaluates="top-1 and top-5 accuracy",
    minimum="top1=0.9",
    lower_is_better=("loss",),
    memory="batch=... or size=...",
    extra=(shrink_verb("timm", "top1"),),
)
VERBS = TASK.verbs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return start(TASK, arguments)


if __name__ == "__main__":
    sys.exit(main())

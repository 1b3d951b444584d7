"""Scores while a model trains: taken by mmengine's validation loop, kept in a file beside the checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from slr_det.files import atomic_write
from slr_det_adapters.mmengine.checkpoints import last_checkpoint, read_checkpoint

SCORES_FILE = "scores.json"


class ScoresHook(Hook):
    """Keeps the score of every validation in ``scores.json``, phases without a method included.

    Args:
        folder: Where the file goes.
    """

    priority = "VERY_LOW"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Add the epoch's score; those of later epochs are of a run that was killed and has been resumed."""
        if metrics and is_main_process():
            known = {
                epoch: score for epoch, score in read_scores(self.folder).items() if epoch < runner.epoch
            }
            scores = {**known, runner.epoch: dict(metrics)}
            atomic_write(self.folder / SCORES_FILE, json.dumps(scores, indent=1) + "\n")


def read_scores(folder: Path) -> dict[int, Mapping[str, float]]:
    """The scores of a phase by epoch, from 1; empty where there are none."""
    try:
        content = json.loads((folder / SCORES_FILE).read_text(encoding="utf-8"))
        return {int(epoch): dict(metrics) for epoch, metrics in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # they are only shown


def history(folder: Path) -> list[dict[str, Any]]:
    """The records of a phase: those of the method's iterations, or without one the score of each epoch."""
    last = last_checkpoint(folder)
    engine = None if last is None else (read_checkpoint(last).get("slr_det") or {}).get("engine")
    scores = read_scores(folder)
    if engine is None:
        return [{"epoch": epoch, "metric": metric} for epoch, metric in sorted(scores.items())]
    records = [dict(record) for record in engine["history"]]
    for record, following in zip(records, [*records[1:], None], strict=True):
        ends_epoch = following is None or following["epoch"] != record["epoch"]
        if ends_epoch and record["epoch"] in scores:
            record["metric"] = scores[record["epoch"]]
    return records

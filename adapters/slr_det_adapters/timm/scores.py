"""Scores while a classifier trains: taken by mmengine's validation loop, kept in a file beside the checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook

from slr_det.files import atomic_write
from slr_det.metrics.classification import TopK
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


class TopKMetric(BaseMetric):
    """Top-1, top-5 and the loss, for mmengine's validation loop. Images without a label (-1) count for nothing.

    Args:
        classes: Class names.
    """

    default_prefix = ""  # None makes mmengine warn

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(collect_device="cpu")
        self.classes = tuple(classes)

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Keep the scores and labels of a batch."""
        # As arrays: processes exchange them pickled, and a row of a tensor is pickled with all of its batch.
        rows = torch.stack(list(data_samples)).float().cpu().numpy()
        self.results += list(zip(rows, data_batch["labels"].tolist(), strict=True))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Score all batches of all processes together."""
        metric = TopK(self.classes)
        known = [(row, label) for row, label in results if label >= 0]
        if known:
            rows, labels = zip(*known, strict=True)
            metric.process(torch.stack([torch.from_numpy(row) for row in rows]), torch.tensor(labels))
        return metric.evaluate().metrics


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

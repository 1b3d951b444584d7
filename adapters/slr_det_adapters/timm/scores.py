"""Scores of a classifier for mmengine's validation loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from slr_det.metrics.classification import TopK


class TopKMetric(BaseMetric):
    """Top-1, top-5 and the loss, for mmengine's validation loop. Images without a label (-1) count for nothing.

    Args:
        classes: Class names.
    """

    default_prefix = ""  # None makes mmengine warn

    def __init__(self, classes: Sequence[str]) -> None:
        # Through the connection of the processes: "cpu" means files, in a folder that machines may not share.
        super().__init__(collect_device="gpu")
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

"""The method's history as a file beside the checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from torch import Tensor

from slr_det.files import atomic_write

NAME = "slr_history.json"


class HistoryFile:
    """``slr_history.json``: the engine's records, for people and plots, written by the first rank.

    It also fills a gap: mmengine writes an epoch's checkpoint before it validates, so a run that is resumed from it
    would not know the score of that epoch.

    Args:
        folder: The work_dir.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def write(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the records, as a whole or not at all."""
        if is_main_process():
            atomic_write(self.path, json.dumps([dict(record) for record in history], indent=1) + "\n")

    def complete(self, history: Sequence[dict[str, Any]]) -> None:
        """Give records their ``metric`` where the file has it for the very same record."""
        try:
            written = json.loads(self.path.read_text(encoding="utf-8"))
            for record, known in zip(history, written, strict=False):
                if "metric" not in record and {k: v for k, v in known.items() if k != "metric"} == record:
                    record |= {"metric": known["metric"]} if "metric" in known else {}
        except (OSError, ValueError, TypeError, AttributeError):
            return  # it is only for people


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among the metrics of a validation."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if (isinstance(value, int | float | np.number) and not isinstance(value, bool))
        or (isinstance(value, Tensor) and value.numel() == 1)
    }

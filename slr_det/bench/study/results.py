"""What one cell of a study found: its scores, and their course during the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slr_det.bench.study.cells import Cell
from slr_det.report import load_report
from slr_det.runstate import RunState

#: What trainers call a metric of the evaluation that they measure in their own way during training.
TRAINERS_OWN = {"AP50": "map50", "AP": "map"}
STAGES = ("hard_prune", "bn_recalibrated", "final")


@dataclass(frozen=True)
class Point:
    """The score of the hard-pruned model after an epoch; masked retraining counts on from training."""

    epoch: int
    phase: str
    metric: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """What one finished cell found.

    Attributes:
        cell: The cell.
        scores: The metric by stage: dense, after hard pruning, batch-norm recalibration, and at the end.
        reached: Compression rate over what the study's rate counts.
        seconds: Training under the method, recalibration and retraining, as the run's report has them.
        curve: Scores during the run.
        warnings: Of the run.
        commit: The code that it was run with, where that is known.
    """

    cell: Cell
    scores: Mapping[str, float | None]
    reached: float | None
    seconds: float
    curve: tuple[Point, ...]
    warnings: tuple[str, ...]
    commit: str | None


def read_result(cell: Cell, metric: str) -> Result:
    """What a finished cell's folder holds."""
    report = load_report(cell.folder)
    phases = report["phases"]
    scores = {stage: phases.get(stage, {}).get("metrics", {}).get(metric) for stage in STAGES[:-1]}
    scores["dense"] = phases.get("dense", {}).get("metrics", {}).get(metric)
    scores["final"] = phases[report["final_phase"]]["metrics"].get(metric)
    spent = [phases.get(name, {}).get("seconds") for name in ("hard_prune", "bn_recalibrated", "retrain")]
    over = cell.config.prune.compression_over
    retrained = RunState.open(cell.folder).phases.get(f"{report['method']}/retrain_train", {})
    return Result(
        cell=cell,
        scores=scores,
        reached=report["compression"][over]["rate"],
        seconds=sum(seconds for seconds in spent if seconds is not None),
        curve=(
            *_points(report["history"], "train", 0),
            *_points(retrained.get("history", []), "retrain", cell.config.epochs),
        ),
        warnings=tuple(report["warnings"]),
        commit=report["commit"],
    )


def _points(history: Sequence[Mapping[str, Any]], phase: str, before: int) -> list[Point]:
    return [
        Point(
            int(record["epoch"]) + before,
            phase,
            {
                name: value
                for name, value in record["metric"].items()
                if value is not None and math.isfinite(value)
            },
        )
        for record in history
        if record.get("metric") and record.get("epoch") is not None
    ]


def epochs_to(curve: Sequence[Point], target: tuple[str, float] | None) -> int | None:
    """The first epoch whose score, hard-pruned at that moment, is at least the target; None where none is."""
    if target is None:
        return None
    name, value = target
    scores = [(point.epoch, score_of(point, name)) for point in curve]
    return min((epoch for epoch, score in scores if score is not None and score >= value), default=None)


def score_of(point: Point, name: str) -> float | None:
    """A point's score by a metric of the evaluation, or by the trainer's own form of it; None where it has neither."""
    own = point.metric.get(TRAINERS_OWN.get(name, name))
    return point.metric.get(name, own)

"""Which curves the page draws, from the records of the runs' iterations."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slr_det.report.html.charts import Line, chart
from slr_det.report.html.gather import Series
from slr_det.report.table import metric_label

# A trainer's own metrics go by other names than the evaluator's: record, phase, and what the page calls them.
_TRAINERS = {
    "map50": ("trainer_map50", "mAP50, the trainer's own"),
    "map": ("trainer_map", "mAP, the trainer's own"),
}
_RECORDED = {"AP50": "map50", "AP": "map"}
_SAME_RATE = 1.05  # within this factor a picture of score against rate shows one column of marks

_COURSES = (
    ("objective", "Loss", "the task's loss over an iteration, without the penalty"),
    (
        "distance",
        "Distance ||W - Z||",
        "between the weights and their sparse copies; near zero, pruning is gentle",
    ),
    ("penalty", "Penalty", "<Λ, W - Z> + ρ/2 ||W - Z||²"),
    ("step_size", "Step size s", "of the multipliers"),
    ("keep", "Share of weights kept", "what the set, or the masks so far, keep of the pruned groups"),
)

Named = Sequence[tuple[int, str, Series]]
Record = Mapping[str, Any]


def curves(series: Named, metric: str) -> str:
    """The figures of a task's series (numbered and named), by iteration; empty where nothing was recorded."""
    figures = [_trade(series, metric), _metric(series, metric)]
    for key, title, note in _COURSES:
        value = operator.methodcaller("get", key)
        lines = [_line(number, label, one, value) for number, label, one in series]
        figures.append(chart(title, note, lines, "iteration"))
    drawn = "".join(figures)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def _trade(series: Named, metric: str) -> str:
    """The score against the compression rate, a mark for each series; empty where all have about the same rate."""
    lines = []
    for number, label, one in series:
        rate = None if one.compression is None else one.compression["model"]["rate"]
        score = one.score(one.final, metric)
        if rate is not None and score is not None:
            lines.append(Line(number, label, [(float(rate), score)], [f"{rate:.2f}x"]))
    rates = [line.points[0][0] for line in lines]
    if not rates or max(rates) / min(rates) < _SAME_RATE:
        return ""
    return chart(
        f"{metric_label(metric)} against compression",
        "at the end of each run; dotted: the dense model",
        [*_levels(series, metric), *lines],
        "compression rate over the whole model",
        joined=False,
        log_x=max(rates) / min(rates) > 4,
    )


def _metric(series: Named, metric: str) -> str:
    key = recorded_metric([one for _, _, one in series], metric)
    if key is None:
        return ""
    in_phase, title = _TRAINERS.get(key, (key, metric_label(key)))
    lines = [
        _line(number, label, one, lambda record: (record.get("metric") or {}).get(key))
        for number, label, one in series
    ]
    note = "if hard-pruned at this iteration; dotted: the dense model"
    return chart(title, note, [*_levels(series, in_phase), *lines], "iteration")


def _levels(series: Named, metric: str) -> list[Line]:
    """The dense model's score of each run, under the colour of its first series."""
    found: dict[str, Line] = {}
    several = len({one.run for _, _, one in series}) > 1
    for number, _, one in series:
        dense = one.score("dense", metric)
        if dense is not None and one.run not in found:
            label = f"{one.run} dense" if several else "dense"
            found[one.run] = Line(number, label, [(1.0, dense)], level=True)
    return list(found.values())


def recorded_metric(series: Sequence[Series], metric: str) -> str | None:
    """The metric that the records hold: the headline or the trainer's name for it, else the first; None without."""
    names = [
        name
        for one in series
        for record in one.history
        for name, value in (record.get("metric") or {}).items()
        if value is not None
    ]
    for name in (metric, _RECORDED.get(metric)):
        if name in names:
            return name
    return next(iter(names), None)


def _line(number: int, label: str, series: Series, value: Callable[[Record], Any]) -> Line:
    points, names = [], []
    measured = [record for record in series.history if isinstance(value(record), int | float)]
    for record in sorted(measured, key=lambda record: int(record["iteration"])):
        iteration, epoch = int(record["iteration"]), record.get("epoch")
        points.append((float(iteration), float(value(record))))
        names.append(f"iteration {iteration}" + ("" if epoch is None else f", epoch {epoch}"))
    kept = [(point, name) for point, name in zip(points, names, strict=True) if math.isfinite(point[1])]
    return Line(number, label, [point for point, _ in kept], [name for _, name in kept])

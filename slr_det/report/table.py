"""A report's numbers as rows: what the terminal's table and the page share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from slr_det.report.schema import PHASES

PHASE_LABELS = {
    "dense": "dense",
    "hard_prune": "hard-pruned",
    "bn_recalibrated": "BN recalibrated",
    "retrain": "retrained",
}

_METRIC_LABELS = {
    "trainer_map50": "trainer's mAP50",
    "trainer_map": "trainer's mAP",
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "empty_accuracy": "no lanes",
    "point_accuracy": "points",
    "fp": "FP",
    "fn": "FN",
}
_PREFERRED = (
    *("AP50", "AP", "trainer_map50", "top1", "top5"),
    *("accuracy", "empty_accuracy", "point_accuracy", "fp", "fn"),
)
_MOST_METRICS = 4

METRIC_NOTES = {
    "empty_accuracy": "*no lanes* is the accuracy of a prediction without any lane on the same frames",
    "point_accuracy": "*points* is the share of the true points that are right",
    "fp": "*FP* is the share of the predicted lanes that are none",
    "fn": "*FN* is the share of the true lanes that are missed",
}
"""What the page says of metrics whose names do not say it."""

Report = Mapping[str, Any]


def runs(report: Report) -> Iterator[tuple[str, Report]]:
    """The run's own method, then every other method, as (label, block with phases, history and so on)."""
    yield report["method"], report
    yield from report["others"].items()


def metric_names(report: Report) -> list[str]:
    """The metrics that tables show, the headline first.

    A detector's AP50, AP and its trainer's mAP50; a classifier's top-1 and top-5 accuracy; a lane detector's accuracy,
    that of a prediction without lanes, the share of points that are right, and the false lanes of both kinds.
    """
    measured = [
        name
        for _, run in runs(report)
        for phase in run["phases"].values()
        for name, value in phase["metrics"].items()
        if not isinstance(value, Mapping)
    ]
    names = list(dict.fromkeys(measured))
    chosen = [name for name in _PREFERRED if name in names] or names[:_MOST_METRICS]
    wanted = report.get("metric")
    if wanted in names:
        chosen = [wanted, *(name for name in chosen if name != wanted)]
    return chosen


def headline(report: Report) -> str:
    """The metric of the one-sentence result."""
    return next(iter(metric_names(report)), "score")


def metric_label(name: str) -> str:
    """A metric's column title."""
    return _METRIC_LABELS.get(name, name)


def score(run: Report, phase: str, metric: str) -> float | None:
    """One phase's score, None where the phase did not run or the metric is not defined."""
    value: float | None = run["phases"].get(phase, {}).get("metrics", {}).get(metric)
    return value


def dense_score(report: Report, run: Report, metric: str) -> float | None:
    """The dense model's score; methods of one run start from the same dense model."""
    own = score(run, "dense", metric)
    return score(report, "dense", metric) if own is None else own


def phase_rows(report: Report) -> Iterator[tuple[str, str, Report]]:
    """(label, phase, run) for every row of the table: the shared dense model once, then method by method."""
    dense = report["phases"].get("dense")
    if dense is not None:
        yield "-", "dense", report
    for label, run in runs(report):
        for phase in PHASES:
            if phase in run["phases"] and (phase != "dense" or not _same_scores(run["phases"][phase], dense)):
                yield label, phase, run


def _same_scores(phase: Report, dense: Report | None) -> bool:
    return dense is not None and phase["metrics"] == dense["metrics"]


def phase_table(report: Report, names: Sequence[str]) -> list[list[str]]:
    """Titles and one row per method and phase, with a column for each metric of ``names``, headline first."""
    labels = [metric_label(name) for name in names]
    table = [["method", "phase", *labels[:1], "vs dense", *labels[1:], "compression", "epochs", "time"]]
    for label, phase, run in phase_rows(report):
        scores = [number(score(run, phase, name)) for name in names]
        value, base = score(run, phase, names[0]), dense_score(report, run, names[0])
        change = "" if phase == "dense" or value is None or base is None else f"{value - base:+.3f}"
        block = run["phases"][phase]
        reached = "" if phase == "dense" else rate(run["compression"]["model"]["rate"])
        epochs = "" if block.get("epochs") is None else f"{block['epochs']:g}"
        spent = duration(block.get("seconds"))
        table.append([label, PHASE_LABELS[phase], scores[0], change, *scores[1:], reached, epochs, spent])
    return table


def parts_pruned(compression: Report) -> str | None:
    """Which parts of the model were pruned and how far, in a line; None where the report does not tell parts apart.

    Such as "backbone 5.41x (20 of 21 layers pruned), head 14.90x (all 3 layers pruned)".
    """
    said = []
    for name, part in compression.get("parts", {}).items():
        pruned, layers = part["pruned_layers"], part["pruned_layers"] + part["dense_layers"]
        what = f"all {layers} layers pruned" if pruned == layers else f"{pruned} of {layers} layers pruned"
        said.append(f"{name} {rate(part['rate'])} ({what if pruned else 'dense'})")
    return ", ".join(said) or None


def files_line(sizes: Report) -> str | None:
    """The dense file, the packed one and their ratio in a line; None where one is not known.

    Such as "dense file 24.70 MB, packed file 0.34 MB: 72.65x smaller".
    """
    dense, packed = sizes.get("dense"), sizes.get("packed")
    if not dense or not packed:
        return None
    return f"dense file {_short(dense)}, packed file {_short(packed)}: {dense / packed:.2f}x smaller"


def number(value: float | None, digits: int = 3) -> str:
    """A score, or "n/a" where it is not defined."""
    return "n/a" if value is None else f"{value:.{digits}f}"


def rate(value: float | None) -> str:
    """A compression rate such as ``3.33x``; "n/a" where no weight is left."""
    return "n/a" if value is None else f"{value:.2f}x"


def duration(seconds: float | None) -> str:
    """Seconds as ``8.4s``, ``6m12s`` or ``2h05m``; empty where not measured."""
    if seconds is None:
        return ""
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours}h{minutes:02d}m"


def size(count: int | None) -> str:
    """Bytes as ``24.70 MB (24,700,123 bytes)``."""
    if count is None:
        return "n/a"
    exact = f"{count:,} bytes"
    return exact if count < 1e3 else f"{_short(count)} ({exact})"


def _short(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count} bytes"

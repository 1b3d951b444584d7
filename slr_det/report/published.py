"""Published numbers beside the run's own: the rows that the terminal's table and the page share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slr_det.report.schema import PHASES
from slr_det.report.table import PHASE_LABELS, Report, headline, metric_label, number, runs, score


def published_scores(report: Report) -> dict[tuple[str, str], dict[str, float]]:
    """Published numbers by method and phase, then by metric, on the published scale.

    A method's single number is its score after hard pruning; a number without a metric is one of the headline's
    (``paper.metric``). The dense model stands under ``("dense", "dense")``. Notes and missing numbers are left out.
    """
    metric, _ = _metric_and_scale(report)
    found = {}
    for name, value in (report["paper"] or {}).items():
        phases: Mapping[str, Any] = {"dense" if name == "dense" else "hard_prune": value}
        if name != "dense" and isinstance(value, Mapping):
            phases = value
        for phase in PHASES:
            scores = _by_metric(phases.get(phase), metric)
            if scores:
                found[name, phase] = scores
    return found


def beside_published(report: Report) -> tuple[str, list[list[str]]] | None:
    """What the numbers are, such as ``AP50 x100``, and a table with titles: each metric as published and here.

    A row is a method in a phase: those with published numbers, and of a method that ran also hard pruning and its last
    phase. With several metrics the titles name them, and what is left to say is the scale.

    Returns:
        None where nothing is published.
    """
    published = published_scores(report)
    if not published:
        return None
    metrics = list(dict.fromkeys(metric for scores in published.values() for metric in scores))
    _, scale_text = _metric_and_scale(report)
    scale = 100.0 if "100" in scale_text or "%" in scale_text else 1.0
    digits = _digits(published)
    labels = [metric_label(metric) for metric in metrics]
    what = f"{labels[0]} {scale_text}".rstrip() if len(labels) == 1 else scale_text
    pairs = (
        ["paper", "here"] if len(labels) == 1 else [f"{w}: {m}" for m in labels for w in ("paper", "here")]
    )
    rows = [["method", "phase", *pairs]]
    for name, phase, run in _rows(report, published):
        cells = ["-" if name == "dense" else name, PHASE_LABELS[phase]]
        for metric in metrics:
            paper = published.get((name, phase), {}).get(metric)
            cells.append("" if paper is None else number(paper, digits))
            own = None if run is None else score(run, phase, metric)
            ran = run is not None and phase in run["phases"]
            cells.append(number(None if own is None else own * scale, digits) if ran else "")
        rows.append(cells)
    return what, rows


def _rows(report: Report, published: Mapping[tuple[str, str], Any]) -> list[tuple[str, str, Report | None]]:
    """(method, phase, its run or None) for every row, in the order of the published methods."""
    blocks: dict[str, Report] = dict(runs(report))
    rows: list[tuple[str, str, Report | None]] = []
    for name in dict.fromkeys(name for name, _ in published):
        if name == "dense":
            rows.append((name, "dense", report))
            continue
        run = blocks.get(name)
        own = () if run is None else [p for p in ("hard_prune", run["final_phase"]) if p in run["phases"]]
        rows += [(name, phase, run) for phase in PHASES[1:] if (name, phase) in published or phase in own]
    return rows


def _metric_and_scale(report: Report) -> tuple[str, str]:
    """``paper.metric`` as a metric's name and a scale such as ``x100``; papers print the headline times 100."""
    stated = str((report["paper"] or {}).get("metric", f"{headline(report)} x100"))
    metric, _, scale = stated.partition(" ")
    return metric, scale


def _by_metric(value: Any, metric: str) -> dict[str, float]:
    scores = value if isinstance(value, Mapping) else {metric: value}
    return {name: published for name, published in scores.items() if isinstance(published, int | float)}


def _digits(published: Mapping[tuple[str, str], Mapping[str, float]]) -> int:
    """Decimals that the published numbers have, at least one: what is printed beside them has as many."""
    values = [value for scores in published.values() for value in scores.values()]
    return max([1, *(len(repr(float(value)).partition(".")[2]) for value in values)])

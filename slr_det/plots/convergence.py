"""Curves against the iteration: the score after hard pruning, ||W - Z|| and the step size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from slr_det.plots.style import MUTED, iteration_axis, looks, marker_size, new_figure, spread
from slr_det.report.table import headline, metric_label, runs

Report = Mapping[str, Any]

# A history's metric is the trainer's own; the phases hold it beside the evaluator's under another name.
_PHASE_METRICS = {"map50": ("trainer_map50", "AP50"), "map": ("trainer_map", "AP")}
_LABELS = {"map50": "mAP50 (trainer's own)", "map": "mAP (trainer's own)"}


def metric_figure(report: Report) -> Figure | None:
    """Score of the hard-pruned model at each iteration, a line per method, with the dense level.

    Thin dotted pieces bridge iterations without a score. The strip at the right holds each method's final
    hard-pruned score. None where nothing was measured after hard pruning.
    """
    everything = list(runs(report))
    recorded = _recorded_metric(everything, headline(report))
    key = recorded or headline(report)
    final = {label: _phase_score(run, "hard_prune", key) for label, run in everything}
    series = {label: _series(run["history"], key) for label, run in everything}
    if recorded is None and all(value is None for value in final.values()):
        return None
    last = max((x for _, run in everything for x in _iterations(run["history"])), default=1)
    strip, strip_width = last + 0.25 + 0.005 * last, 0.15 + 0.06 * last
    figure = new_figure(4.2)
    axes = figure.add_subplot()
    style = looks(everything)
    labels: list[tuple[float, str, str]] = []
    for label, _ in everything:
        points, value, look = series[label], final[label], style[label]
        if points:
            _line(axes, points, look)
        if value is not None:
            axes.plot(
                [strip + strip_width / 2],
                [value],
                look["marker"],
                color=look["color"],
                markersize=8,
                markeredgecolor="white",
                zorder=4,
            )
            labels.append((value, f"{label}  {value:.3f}", look["color"]))
        elif points:
            labels.append((points[-1][1], label, look["color"]))
    dense = _phase_score(report, "dense", key)
    if dense is not None:
        axes.axhline(dense, color=MUTED, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
        labels.append((dense, f"dense  {dense:.3f}", MUTED))
    iteration_axis(axes, last)
    axes.set_xlim(0.5, strip + strip_width)
    axes.margins(y=0.12)
    if any(value is not None for value in final.values()):
        axes.axvspan(strip, strip + strip_width, color="#f3f3f3", zorder=0, linewidth=0)
    if recorded is None:
        middle = (0.5, 0.5)
        axes.text(*middle, "not measured during the run", transform=axes.transAxes, color=MUTED, ha="center")
    axes.grid(axis="y")
    axes.set_ylabel(_LABELS.get(key, metric_label(key)))
    axes.set_title("Score if hard-pruned at this iteration (grey strip: the final hard-pruned model)")
    _label_right(axes, labels, figure.get_figheight())
    return figure


def convergence_figure(report: Report) -> Figure | None:
    """||W - Z|| and, where a method has one, the step size s; the axis is logarithmic from one decade on.

    A distance of exactly zero (converged) cannot stand on a logarithmic axis: it is drawn at its lower edge
    as an open marker. None where no method recorded a distance or a step size.
    """
    everything = list(runs(report))
    panels: list[tuple[str, str, str]] = [
        ("distance", "Distance between weights and sparse copies", "||W - Z||")
    ]
    panels.append(("step_size", "Step size of the multipliers", "s"))
    used = [panel for panel in panels if any(_series(run["history"], panel[0]) for _, run in everything)]
    if not used:
        return None
    last = max(x for _, run in everything for x in _iterations(run["history"]))
    figure = new_figure(3.0 * len(used) + 0.3)
    grid = figure.subplots(len(used), 1, sharex=True, squeeze=False)
    style = looks(everything)
    for row, (key, title, symbol) in enumerate(used):
        axes = grid[row][0]
        _panel(axes, everything, key, style)
        axes.set_title(title)
        axes.set_ylabel(symbol)
        iteration_axis(axes, last, label=row == len(used) - 1)
        axes.grid(axis="y", which="major")
        without = [label for label, run in everything if not _series(run["history"], key)]
        if without:
            axes.set_title(
                f"{', '.join(without)}: none", loc="right", fontsize=8, fontweight="normal", color=MUTED
            )
    handles, names = grid[0][0].get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 6))
    return figure


def _panel(axes: Axes, everything: Sequence[tuple[str, Report]], key: str, style: Mapping[str, Any]) -> None:
    """One quantity of all methods; on a logarithmic axis where it spans a decade or more."""
    series = {label: _series(run["history"], key) for label, run in everything}
    values = [value for points in series.values() for _, value in points]
    positive = [value for value in values if value > 0]
    logarithmic = bool(positive) and max(positive) >= 10 * min(positive)
    floor = min(positive, default=1.0) / 2
    for label, _ in everything:
        points, look = series[label], style[label]
        on_axis = [(x, value) for x, value in points if value > 0 or not logarithmic]
        if on_axis:
            _line(axes, on_axis, look, label)
        zeros = [x for x, value in points if value <= 0 and logarithmic]
        if zeros:
            floors = [floor] * len(zeros)
            name = None if on_axis else label
            axes.plot(
                zeros, floors, look["marker"], color=look["color"], mfc="white", markersize=5, label=name
            )
            at = (zeros[-1], floor)
            axes.annotate(
                "0", at, (7, 0), textcoords="offset points", va="center", color=look["color"], fontsize=8
            )
    if not logarithmic:
        if min(values) <= 0:
            axes.set_ylim(-0.05 * max(values), None) if positive else axes.set_ylim(-0.05, 1.0)
        return
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    if max(positive) < 1000 * min(
        positive
    ):  # a few decades: plain numbers, enough of them to read values off
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def _line(
    axes: Axes, points: Sequence[tuple[int, float]], look: Mapping[str, str], label: str | None = None
) -> None:
    """A line through ``points``: full between neighbouring iterations, dotted across missing ones."""
    xs, ys = [float(x) for x, _ in points], [y for _, y in points]
    for i in range(1, len(points)):
        if points[i][0] - points[i - 1][0] > 1:
            axes.plot(xs[i - 1 : i + 1], ys[i - 1 : i + 1], ":", color=look["color"], linewidth=1.2, zorder=2)
    broken_x, broken_y = xs[:1], ys[:1]
    for i in range(1, len(points)):
        if points[i][0] - points[i - 1][0] > 1:
            broken_x.append(math.nan)
            broken_y.append(math.nan)
        broken_x.append(xs[i])
        broken_y.append(ys[i])
    axes.plot(
        broken_x,
        broken_y,
        color=look["color"],
        marker=look["marker"],
        markersize=marker_size(len(points)),
        markeredgewidth=0,
        label=label,
        zorder=3,
    )


def _label_right(axes: Axes, labels: Sequence[tuple[float, str, str]], inches: float) -> None:
    """Names and values right of the axes, moved apart where they would overlap, tied to their level by a line."""
    low, high = axes.get_ylim()
    gap = (high - low) * (12.5 / 72) / (0.8 * inches)  # 12.5 points; the axes take about 0.8 of the figure
    places = spread([value for value, _, _ in labels], gap, low + gap / 2, high - gap / 2)
    for (value, text, color), place in zip(labels, places, strict=True):
        axes.annotate(
            text,
            xy=(1.0, value),
            xycoords=("axes fraction", "data"),
            xytext=(1.03, place),
            textcoords=("axes fraction", "data"),
            va="center",
            color=color,
            fontweight="bold",
            fontsize=8.5,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.7,
                "shrinkA": 2,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )


def _recorded_metric(everything: Sequence[tuple[str, Report]], headline: str) -> str | None:
    """The metric that the iterations recorded: the headline or map50, its trainer's form; else the first there is."""
    names = [
        name
        for _, run in everything
        for record in run["history"]
        for name, value in (record.get("metric") or {}).items()
        if value is not None
    ]
    return next((name for name in (headline, "map50") if name in names), next(iter(names), None))


def _phase_score(run: Report, phase: str, key: str) -> float | None:
    metrics = run["phases"].get(phase, {}).get("metrics", {})
    for name in (*_PHASE_METRICS.get(key, ()), key):
        value = metrics.get(name)
        if value is not None:
            return float(value)
    return None


def _series(history: Sequence[Report], key: str) -> list[tuple[int, float]]:
    """(iteration, value) of the records that have one; ``key`` is a field or else a metric's name."""
    points = []
    for record in history:
        value = record[key] if key in record else (record.get("metric") or {}).get(key)
        if value is not None:
            points.append((int(record["iteration"]), float(value)))
    return points


def _iterations(history: Sequence[Report]) -> list[int]:
    return [int(record["iteration"]) for record in history]

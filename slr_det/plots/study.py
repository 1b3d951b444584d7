"""The pictures of a study: accuracy against the compression rate, against the epoch, and against a hyperparameter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from slr_det.files import atomic_write
from slr_det.plots.style import (
    INK,
    MUTED,
    NOT_SATISFIED,
    SATISFIED,
    WIDTH,
    drawing,
    iteration_axis,
    looks,
    marker_size,
    new_figure,
    png,
)
from slr_det.report.table import metric_label

Document = Mapping[str, Any]
"""``results.json`` of a study."""

FILES = {
    "rates": "plots/accuracy_by_rate.png",
    "epochs": "plots/accuracy_by_epoch.png",
    "sweep": "plots/sweep.png",
}
"""Pictures by name, with their paths relative to the study's folder."""

_STAGES = {"hard_prune": "After hard pruning", "final": "At the end of the budget"}
_STAGE_LOOKS = {
    "hard_prune": {"color": NOT_SATISFIED, "marker": "s"},
    "final": {"color": SATISFIED, "marker": "o"},
}
_PANEL = 3.1  # inches
_LEVEL = 5  # labels of an axis that have room beside each other


def draw_study(folder: str | Path, document: Document, names: Sequence[str]) -> dict[str, str]:
    """Draw the pictures of ``names`` that the document has data for; returns their paths by name.

    Raises:
        StorageError: A file could not be written.
    """
    figures = {"rates": rates_figure, "epochs": epochs_figure, "sweep": sweep_figure}
    drawn: dict[str, str] = {}
    with drawing():
        for name in names:
            figure = figures[name](document)
            if figure is not None:
                atomic_write(Path(folder) / FILES[name], png(figure))
                drawn[name] = FILES[name]
    return drawn


def rates_figure(document: Document) -> Figure | None:
    """Score after hard pruning and at the end, against the compression rate: mean and deviation over seeds.

    None where no cell is finished.
    """
    entries = [entry for entry in _competitors(document) if _rows(document, entry["label"])]
    if not entries:
        return None
    figure = new_figure(3.9)
    panels = figure.subplots(1, 2)  # a scale for each: at the end, methods lie much closer together
    style = looks((entry["label"], entry) for entry in entries)
    rates = sorted({row["rate"] for row in document["table"]})
    for axes, (stage, title) in zip(panels, _STAGES.items(), strict=True):
        for index, entry in enumerate(entries):
            found = [(row["rate"], row["scores"][stage]) for row in _rows(document, entry["label"])]
            shift = 1.02 ** (index - (len(entries) - 1) / 2)  # so that error bars do not hide each other
            _with_bars(axes, [(rate * shift, s) for rate, s in found], style[entry["label"]], entry["label"])
        _dense(axes, document)
        value_axis(axes, rates, "compression rate", "{:g}x")
        axes.set_title(title)
        axes.grid(axis="y")
    panels[0].set_ylabel(f"{metric_label(document['metric'])}, points")
    shared_legend(figure)
    return figure


def epochs_figure(document: Document) -> Figure | None:
    """Score of the model if it were hard-pruned after each epoch, a panel per rate: mean and deviation over seeds.

    Where an entry is hard-pruned for good a larger mark stands, and the line goes on dotted through its masked
    retraining. None where no epoch was scored.
    """
    metric = document["epoch_metric"]
    entries = [entry for entry in _competitors(document) if _curves(document, entry["label"], None, metric)]
    if metric is None or not entries:
        return None
    rates = [
        rate
        for rate in document["rates"]
        if any(_curves(document, e["label"], rate, metric) for e in entries)
    ]
    target = document["epoch_target"]
    columns = min(len(rates), 3)
    lines = math.ceil(len(rates) / columns)
    figure = new_figure(0.7 + _PANEL * lines, WIDTH if columns > 1 else 0.75 * WIDTH)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    style = looks((entry["label"], entry) for entry in entries)
    for place, axes in enumerate(grid.flat):
        if place >= len(rates):
            axes.set_visible(False)
            continue
        for entry in entries:
            points = _mean_curve(_curves(document, entry["label"], rates[place], metric))
            _course(axes, points, entry, style[entry["label"]])
        if target is not None:
            axes.axhline(100 * target, color=MUTED, linestyle=":", linewidth=1.0)
        last = max(entry["epochs"] + entry["retrain_epochs"] for entry in entries)
        iteration_axis(axes, last, label=False)
        axes.set_xlabel("epoch")
        axes.set_title(f"{rates[place]:g}x")
        axes.grid(axis="y")
    for row in grid:
        row[0].set_ylabel(f"{metric_label(metric)} if pruned now, points")
    aim = "" if target is None else f"; dotted level: the target, {100 * target:g}"
    shared_legend(figure, f"large mark: hard-pruned for good; dotted lines: masked retraining{aim}")
    return figure


def sweep_figure(document: Document) -> Figure | None:
    """Score after hard pruning and at the end against each hyperparameter of the sweep, a row of panels per rate.

    The value that the swept entry itself has is ringed. None without a finished cell of a sweep.
    """
    names = list(dict.fromkeys(name for entry in document["entries"] for name in entry["swept"] or {}))
    rates = [rate for rate in document["rates"] if any(_swept(document, name, rate) for name in names)]
    if not rates:
        return None
    figure = new_figure(0.7 + 2.6 * len(rates))
    grid = figure.subplots(len(rates), len(names), squeeze=False, sharey="row", sharex="col")
    origin = _origin(document)
    for row, rate in enumerate(rates):
        for column, name in enumerate(names):
            axes: Axes = grid[row][column]
            points = _swept(document, name, rate)
            for stage, title in _STAGES.items():
                found = [(value, scores[stage]) for value, scores in points]
                _with_bars(axes, found, _STAGE_LOOKS[stage], title)
                own = [(v, s) for v, s in found if origin is not None and v == origin["hyper"][name]]
                for value, summary in own:
                    if summary["mean"] is not None:
                        at = ([value], [100 * summary["mean"]])
                        axes.plot(*at, "o", markersize=11, mfc="none", mec=INK, mew=0.9, zorder=5)
            value_axis(axes, [value for value, _ in points], name if row == len(rates) - 1 else "", "{:g}")
            axes.grid(axis="y")
            if column == 0:
                axes.set_ylabel(f"{metric_label(document['metric'])}, points")
                axes.set_title(f"{rate:g}x")
    ringed = f"ringed: {document['sweep_of']}" if document.get("sweep_of") else ""
    shared_legend(figure, ringed)
    return figure


def _competitors(document: Document) -> list[Document]:
    """The entries but those of a sweep, which would crowd out everything else."""
    return [entry for entry in document["entries"] if not entry["swept"]]


def _rows(document: Document, label: str) -> list[Document]:
    return sorted((row for row in document["table"] if row["label"] == label), key=lambda row: row["rate"])


def _origin(document: Document) -> Document | None:
    return next((e for e in document["entries"] if e["label"] == document.get("sweep_of")), None)


def _swept(document: Document, name: str, rate: float) -> list[tuple[float, Document]]:
    """(value, scores) of a hyperparameter at a rate, smallest value first; the swept entry itself is one of them."""
    origin = _origin(document)
    values = {
        entry["label"]: entry["swept"][name]
        for entry in document["entries"]
        if name in (entry["swept"] or {})
    }
    if origin is not None and values:
        values[origin["label"]] = origin["hyper"][name]
    rows = [row for row in document["table"] if row["rate"] == rate and row["label"] in values]
    return sorted(((values[row["label"]], row["scores"]) for row in rows), key=lambda point: point[0])


def _with_bars(
    axes: Axes, points: Sequence[tuple[float, Document]], look: Mapping[str, str], label: str
) -> None:
    """A line through means, with a bar of one deviation to each side."""
    known = [(x, summary) for x, summary in points if summary["mean"] is not None]
    if not known:
        return
    axes.errorbar(
        [x for x, _ in known],
        [100 * summary["mean"] for _, summary in known],
        [100 * (summary["deviation"] or 0.0) for _, summary in known],
        color=look["color"],
        marker=look["marker"],
        markersize=5,
        markeredgewidth=0,
        capsize=2.5,
        elinewidth=1.0,
        label=label,
    )


def _dense(axes: Axes, document: Document) -> None:
    dense = document["dense_score"]["mean"]
    if dense is not None:
        axes.axhline(100 * dense, color=MUTED, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1, label="dense")


def value_axis(axes: Axes, values: Sequence[float], label: str, form: str) -> None:
    """Ticks at the values that were tried; on a logarithmic axis where they are more than a factor 2 apart."""
    tried = sorted(set(values))
    if tried and tried[0] > 0 and tried[-1] > 2 * tried[0]:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(tried))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: form.format(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    if len(tried) > _LEVEL:
        axes.tick_params(axis="x", labelrotation=60)
    axes.margins(x=0.12)
    axes.set_xlabel(label)


def _curves(document: Document, label: str, rate: float | None, metric: str | None) -> list[dict[int, float]]:
    """Score by epoch of every seed; of every rate for None."""
    cells = [
        cell
        for cell in document["cells"]
        if cell["label"] == label and (rate is None or cell["rate"] == rate)
    ]
    curves = [
        {p["epoch"]: p["metric"][metric] for p in cell["curve"] if metric in p["metric"]} for cell in cells
    ]
    return [curve for curve in curves if curve]


def _mean_curve(curves: Sequence[Mapping[int, float]]) -> list[tuple[int, float, float]]:
    """(epoch, mean, deviation) in points, over the seeds that were scored at that epoch."""
    found = []
    for epoch in sorted({epoch for curve in curves for epoch in curve}):
        values = [100 * curve[epoch] for curve in curves if epoch in curve]
        mean = sum(values) / len(values)
        squares = sum((value - mean) ** 2 for value in values)
        found.append((epoch, mean, math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else 0.0))
    return found


def _course(
    axes: Axes, points: Sequence[tuple[int, float, float]], entry: Document, look: Mapping[str, str]
) -> None:
    if not points:
        return
    epochs = [epoch for epoch, _, _ in points]
    low = [mean - deviation for _, mean, deviation in points]
    high = [mean + deviation for _, mean, deviation in points]
    axes.fill_between(epochs, low, high, color=look["color"], alpha=0.13, linewidth=0)
    pruned = entry["epochs"]
    before = [point for point in points if point[0] <= pruned]
    after = [point for point in points if point[0] >= pruned]
    size = marker_size(len(points)) - 1.0
    mark: dict[str, Any] = {**look, "markersize": size, "markeredgewidth": 0}
    axes.plot([p[0] for p in before], [p[1] for p in before], **mark, label=entry["label"])
    axes.plot([p[0] for p in after], [p[1] for p in after], linestyle=":", **mark)
    for epoch, mean, _ in points:
        if epoch == pruned:
            axes.plot(
                [epoch], [mean], look["marker"], color=look["color"], markersize=9, mec="white", zorder=4
            )


def shared_legend(figure: Figure, note: str = "") -> None:
    """One legend for all panels, of which some may lack an entry that others have."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        found |= {label: handle for label, handle in zip(labels, handles, strict=True) if label not in found}
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside upper center",
        ncols=min(len(found), 6),
        title=note or None,
        title_fontproperties={"size": 8},
    )

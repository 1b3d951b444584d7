"""The picture of a sweep: scores against the compression rate, by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slr_det.files import atomic_write
from slr_det.plots.study import shared_legend, value_axis
from slr_det.plots.style import MUTED, drawing, looks, new_figure, png
from slr_det.report.table import metric_label

Document = Mapping[str, Any]
"""``results.json`` of a sweep."""

FILES = {"rates": "plots/score_by_rate.png", "sizes": "plots/score_by_size.png"}
"""Pictures by name, with their paths relative to the sweep's folder."""

_STAGES = {"hard_prune": "After hard pruning", "final": "At the end"}


def draw_sweep(folder: str | Path, document: Document) -> dict[str, str]:
    """Draw what the document has data for; returns paths by name. StorageError where one cannot be written."""
    drawn: dict[str, str] = {}
    with drawing():
        for name, make in {"rates": rates_figure, "sizes": sizes_figure}.items():
            figure = make(document)
            if figure is not None:
                atomic_write(Path(folder) / FILES[name], png(figure))
                drawn[name] = FILES[name]
    return drawn


def rates_figure(document: Document) -> Figure | None:
    """Score after hard pruning and at the end against the rate: the median over seeds, with bars over their range.

    None where nothing has finished.
    """
    rows = document["table"]
    if not rows:
        return None
    figure = new_figure(3.9)
    panels = figure.subplots(1, 2)  # a scale for each: at the end, methods lie much closer together
    for axes, (stage, title) in zip(panels, _STAGES.items(), strict=True):
        for shift, (method, look) in _placed(document):
            points = [
                (row["rate"] * shift, row["scores"][stage])
                for row in rows
                if row["method"] == method and row["scores"][stage]["median"] is not None
            ]
            _with_range(axes, points, look, method)
        if document["dense"]["median"] is not None:
            level = 100 * document["dense"]["median"]
            axes.axhline(level, color=MUTED, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1, label="dense")
        value_axis(axes, [row["rate"] for row in rows], "compression rate", "{:g}x")
        axes.set_title(title)
        axes.grid(axis="y")
    panels[0].set_ylabel(f"{metric_label(document['metric'])}, points")
    shared_legend(figure)
    return figure


def sizes_figure(document: Document) -> Figure | None:
    """Final score of every finished cell against the bytes of its packed checkpoint; None where none has both."""
    figure = new_figure(3.9, 5.6)
    axes = figure.subplots()
    seen = False
    for _, (method, look) in _placed(document):
        points = [
            (cell["bytes"]["packed"] / 1e6, 100 * score)
            for cell in document["cells"]
            if cell["method"] == method and "packed" in cell.get("bytes", {})
            if (score := cell["scores"]["final"].get(document["metric"])) is not None
        ]
        if points:
            seen = True
            sizes, scores = zip(*points, strict=True)
            axes.plot(sizes, scores, look["marker"], color=look["color"], markeredgewidth=0, label=method)
    if not seen:
        return None
    axes.set_xlabel("packed checkpoint, MB")
    axes.set_ylabel(f"{metric_label(document['metric'])} at the end, points")
    axes.set_title("Score by size, every cell")
    axes.grid()
    shared_legend(figure)
    return figure


def _placed(document: Document) -> list[tuple[float, tuple[str, dict[str, str]]]]:
    """Each method with its look, and how far its points are moved aside, so that bars do not hide each other."""
    methods = document["methods"]
    style = looks((method, {"method": method}) for method in methods)
    middle = (len(methods) - 1) / 2
    return [(1.02 ** (index - middle), (method, style[method])) for index, method in enumerate(methods)]


def _with_range(
    axes: Axes, points: Sequence[tuple[float, Document]], look: Mapping[str, str], label: str
) -> None:
    if not points:
        return
    medians = [100 * spread["median"] for _, spread in points]
    below = [100 * (spread["median"] - spread["low"]) for _, spread in points]
    above = [100 * (spread["high"] - spread["median"]) for _, spread in points]
    axes.errorbar(
        [x for x, _ in points],
        medians,
        [below, above],
        color=look["color"],
        marker=look["marker"],
        markersize=5,
        markeredgewidth=0,
        capsize=2.5,
        elinewidth=1.0,
        label=label,
    )

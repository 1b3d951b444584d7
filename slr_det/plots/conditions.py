"""A strip chart of the surrogate optimality conditions: at which iterations (6) and (11) held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from slr_det.plots.style import MUTED, NOT_SATISFIED, SATISFIED, iteration_axis, new_figure
from slr_det.report.table import runs

_CONDITIONS = (("condition_6", "(6) after training"), ("condition_11", "(11) after projection"))


def conditions_figure(report: Mapping[str, Any]) -> Figure | None:
    """One row per method and condition, one cell per iteration.

    Satisfied is a tall dark cell, not satisfied a short light one, not applicable an empty frame: the three
    differ in shape and brightness, not in hue alone. None where no method has conditions.
    """
    everything = list(runs(report))
    rows = [
        (label, title, [(int(record["iteration"]), record.get(key)) for record in run["history"]])
        for label, run in everything
        if any(record.get(key) is not None for record in run["history"] for key, _ in _CONDITIONS)
        for key, title in _CONDITIONS
    ]
    if not rows:
        return None
    last = max(iteration for _, _, cells in rows for iteration, _ in cells)
    figure = new_figure(1.2 + 0.42 * len(rows))
    axes = figure.add_subplot()
    width = 0.92 if last <= 100 else 1.0
    names = []
    for row, (label, title, cells) in enumerate(rows):
        names.append(f"{label}  {title}")
        for iteration, held in cells:
            height, face, edge = _cell(held)
            axes.add_patch(
                Rectangle(
                    (iteration - width / 2, row + 0.38 - height),
                    width,
                    height,
                    facecolor=face,
                    edgecolor=edge,
                    linewidth=0.6 if edge != "none" else 0,
                )
            )
        known = [held for _, held in cells if held is not None]
        axes.text(
            1.012,
            row,
            f"{sum(known)} of {len(known)}",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=8.5,
        )
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    iteration_axis(axes, last)
    axes.set_title("Conditions held at each iteration")
    without = [label for label, _ in everything if label not in {name for name, _, _ in rows}]
    if without:
        note = f"no such conditions: {', '.join(without)}"
        axes.set_title(note, loc="right", fontsize=8, fontweight="normal", color=MUTED)
    present = {held for _, _, cells in rows for _, held in cells}
    legend = [(True, "satisfied"), (False, "not satisfied"), (None, "not applicable")]
    handles = []
    for held, text in legend:
        if held in present:
            _, face, edge = _cell(held)
            handles.append(Patch(facecolor=face, edgecolor=edge, label=text))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8.5)
    return figure


def _cell(held: bool | None) -> tuple[float, str, str]:
    """(height, face colour, edge colour) of a cell; a row is 1 high."""
    if held is None:
        return 0.76, "white", "#adadad"
    return (0.76, SATISFIED, "none") if held else (0.3, NOT_SATISFIED, "none")

"""Pruned networks where they run: latency and memory by engine, speed-up by sparsity, layers under the roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slr_det.files import atomic_write
from slr_det.plots.style import COLOURS, INK, MUTED, drawing, new_figure, png

_ROOM = 1.22  # of the longest bar, for its label
_FAR = 1.3  # of the longest bar, to where quartiles are shown


def draw_engines(path: str | Path, results: Sequence[Mapping[str, Any]], title: str) -> Path:
    """Draw :func:`engines_figure` to a PNG file and return its path; StorageError where it cannot be written."""
    with drawing():
        return atomic_write(path, png(engines_figure(results, title)))


def draw_speedups(path: str | Path, rows: Sequence[Mapping[str, Any]], title: str) -> Path:
    """Draw :func:`speedups_figure` to a PNG file and return its path; StorageError where it cannot be written."""
    with drawing():
        return atomic_write(path, png(speedups_figure(rows, title)))


def draw_roofline(path: str | Path, layers: Sequence[Mapping[str, Any]], title: str) -> Path:
    """Draw :func:`roofline_figure` to a PNG file and return its path; StorageError where it cannot be written."""
    with drawing():
        return atomic_write(path, png(roofline_figure(layers, title)))


def engines_figure(results: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Bars for each engine: median latency with its quartiles and, where it was measured, memory.

    Args:
        results: With ``label``, ``milliseconds``, ``spread`` and ``memory`` (None, or with ``running``, bytes), as
            :class:`slr_det.engines.measure.Result`; those without a latency are left out.
        title: What network this is.
    """
    shown = [row for row in results if row["milliseconds"] is not None]
    running = [(row["memory"] or {}).get("running") for row in shown]
    panels = 2 if any(value is not None for value in running) else 1
    figure = new_figure(1.1 + 0.42 * max(len(shown), 1))
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    labels = [row["label"] for row in shown]
    times = [row["milliseconds"] for row in shown]
    # A machine with other work has quartiles far out; the bars stay readable.
    far = _FAR * max([*times, 0.0])
    ends = [min(row["spread"][1], far) for row in shown]
    _bars(axes[0], labels, times, [f"{value:.2f} ms" for value in times], ends)
    for place, row in enumerate(shown):
        low, high = (min(value, far) for value in row["spread"])
        axes[0].plot([low, high], [place, place], color=INK, lw=2.5, solid_capstyle="butt")
    axes[0].set_xlabel("latency (ms), median; the line spans the quartiles")
    axes[0].set_title(title)
    if panels == 2:
        sizes = [0.0 if value is None else value / 1e6 for value in running]
        texts = ["not measured" if value is None else f"{value / 1e6:.0f} MB" for value in running]
        _bars(axes[1], labels, sizes, texts)
        axes[1].set_xlabel("memory while it answers (MB)")
        axes[1].set_title("Memory")
    axes[0].invert_yaxis()
    return figure


def speedups_figure(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Speed-up over ONNX Runtime by the share of zeros, a line for each number of threads, and the targets.

    Args:
        rows: With ``sparsity`` (0 to 1), ``threads``, ``speed_up`` and ``target`` (None where there is none).
        title: What network this is.
    """
    figure = new_figure(3.6)
    axes = figure.subplots()
    order = sorted({row["sparsity"] for row in rows})
    places = {sparsity: place for place, sparsity in enumerate(order)}
    for index, threads in enumerate(sorted({row["threads"] for row in rows})):
        mine = sorted((row for row in rows if row["threads"] == threads), key=lambda row: row["sparsity"])
        colour = COLOURS[index % len(COLOURS)]
        label = f"{threads} thread{'s' if threads > 1 else ''}"
        x, y = [places[row["sparsity"]] for row in mine], [row["speed_up"] for row in mine]
        axes.plot(x, y, marker="o", color=colour, label=label)
        for at, value in zip(x, y, strict=True):
            axes.annotate(
                f"{value:.1f}x", (at, value), xytext=(0, 6), textcoords="offset points", ha="center"
            )
    targets = {places[row["sparsity"]]: row["target"] for row in rows if row["target"] is not None}
    if targets:
        axes.plot(
            list(targets),
            list(targets.values()),
            marker="_",
            ms=22,
            mew=2,
            ls="",
            color=MUTED,
            label="target",
        )
    axes.axhline(1.0, color=MUTED, lw=1)
    axes.set_xticks(range(len(order)), [f"{sparsity:.1%}" for sparsity in order])
    axes.set_xlim(-0.4, len(order) - 0.6)
    axes.set_ylim(0, 1.15 * max([1.0, *(row["speed_up"] for row in rows), *targets.values()]))
    axes.set_xlabel("weights that are zero")
    axes.set_ylabel("times as fast as ONNX Runtime, dense")
    axes.set_title(title)
    axes.grid(True, axis="y")
    axes.legend(loc="upper left")
    return figure


def roofline_figure(layers: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Bars for each layer: which share of the processor's multiply-adds, and of its cache's bandwidth, it reaches.

    Args:
        layers: With ``name``, ``peak_share`` and ``bandwidth_share`` (0 to 1).
        title: What network this is, and how sparse.
    """
    figure = new_figure(1.0 + 0.3 * max(len(layers), 1))
    axes = figure.subplots()
    for offset, (key, label) in enumerate(
        (
            ("peak_share", "of the peak of multiply-adds"),
            ("bandwidth_share", "of the first cache's bandwidth"),
        )
    ):
        places = [place + 0.36 * (offset - 0.5) for place in range(len(layers))]
        values = [100 * layer[key] for layer in layers]
        axes.barh(places, values, height=0.34, color=COLOURS[offset], label=label)
    axes.set_yticks(range(len(layers)), [layer["name"] for layer in layers])
    axes.axvline(100, color=MUTED, lw=1)
    axes.set_xlim(0, 105)
    axes.set_xlabel("share (%)")
    axes.set_title(title)
    axes.grid(True, axis="x")
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _bars(
    axes: Axes,
    labels: Sequence[str],
    values: Sequence[float],
    texts: Sequence[str],
    ends: Sequence[float] | None = None,
) -> None:
    """Horizontal bars, each with a text behind it, or behind its ``ends`` where those are longer."""
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(labels))]
    axes.barh(range(len(labels)), values, height=0.62, color=colours, alpha=0.75)
    axes.set_yticks(range(len(labels)), labels)
    behind = [max(pair) for pair in zip(values, values if ends is None else ends, strict=True)]
    top = max([*behind, 0.0]) or 1.0
    for place, (value, text) in enumerate(zip(behind, texts, strict=True)):
        axes.text(value + 0.02 * top, place, text, va="center", color=INK)
    axes.set_xlim(0, _ROOM * top)

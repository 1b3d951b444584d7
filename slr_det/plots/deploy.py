"""Score against latency and against bytes: what each variant of a model buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from slr_det.files import atomic_write
from slr_det.plots.style import COLOURS, MUTED, WIDTH, drawing, new_figure, png
from slr_det.report.table import metric_label

_HEIGHT = 3.6  # inches
_MARKERS = {"float32": "o", "int8": "s"}
_ROOM = 1.1  # of the largest value


def draw_deployed(path: str | Path, rows: Sequence[Mapping[str, Any]], metric: str) -> Path:
    """Draw :func:`deployed_figure` to a PNG file and return its path; StorageError where it cannot be written."""
    with drawing():
        return atomic_write(path, png(deployed_figure(rows, metric)))


def deployed_figure(rows: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """Two panels with one mark per variant: the score against the latency, and against the bytes that are shipped.

    What is shipped of a float32 variant is the packed checkpoint, of an INT8 one its ONNX file.

    Args:
        rows: With ``name``, ``kind`` (``float32`` or ``int8``), ``score``, ``milliseconds``, ``packed_bytes`` and
            ``onnx_bytes``.
        metric: Name of the score.
    """
    figure = new_figure(_HEIGHT, WIDTH)
    left, right = figure.subplots(1, 2, sharey=True)
    megabytes = [
        (row["packed_bytes"] if row["kind"] == "float32" else row["onnx_bytes"]) / 1e6 for row in rows
    ]
    _marks(left, rows, [row["milliseconds"] for row in rows], "latency of a sample (ms), one thread")
    _marks(right, rows, megabytes, "size (MB)")
    left.set_ylabel(metric_label(metric))
    left.set_title("Score against latency")
    right.set_title("Score against size")
    names = list(dict.fromkeys(row["name"] for row in rows))
    handles = [Line2D([], [], color=COLOURS[i % len(COLOURS)], marker=".", ls="") for i in range(len(names))]
    kinds = [Line2D([], [], color=MUTED, marker=marker, ls="") for marker in _MARKERS.values()]
    labels = [*names, "float32 (packed checkpoint)", "int8 (ONNX)"]
    figure.legend([*handles, *kinds], labels, loc="outside lower center", ncols=min(len(labels), 5))
    return figure


def _marks(axes: Axes, rows: Sequence[Mapping[str, Any]], values: Sequence[float], label: str) -> None:
    names = list(dict.fromkeys(row["name"] for row in rows))
    for x, row in zip(values, rows, strict=True):
        colour = COLOURS[names.index(row["name"]) % len(COLOURS)]
        hollow = "none" if row["kind"] == "int8" else colour
        marker = _MARKERS[row["kind"]]
        axes.plot([x], [row["score"]], marker=marker, color=colour, markerfacecolor=hollow, markersize=8)
    axes.set_xlim(0, _ROOM * max(values, default=1.0))
    axes.set_xlabel(label)
    axes.grid(True)

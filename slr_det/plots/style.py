"""How every picture looks: colours, fonts, axes, size."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

DPI = 130
WIDTH = 8.0  # inches

INK = "#222222"
MUTED = "#6b6b6b"
FAINT = "#e4e4e4"
SATISFIED = "#0072B2"
NOT_SATISFIED = "#E69F00"

# Okabe and Ito's palette, told apart with any colour vision; each method keeps its colour in every report.
_COLOURS = {
    "slr": "#0072B2",
    "admm": "#D55E00",
    "penalty": "#009E73",
    "gradual": "#CC79A7",
    "oneshot": "#8C6D00",
}
#: For what is no method, in this order.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6D00", "#56B4E9")
_SPARE_COLOURS = ("#56B4E9", "#000000", "#E69F00", "#7F3C8D", "#5A8F29")
_MARKERS = {"slr": "o", "admm": "s", "penalty": "^", "gradual": "D", "oneshot": "v"}
_SPARE_MARKERS = ("P", "X", "<", ">", "h")

_SETTINGS: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """The house style for the block; the caller's own matplotlib settings and backend stay as they are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, sizes in inches, with the Agg canvas (no display, no pyplot state)."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's content."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def looks(runs: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, dict[str, str]]:
    """Colour and marker by label; two runs of one method get different ones."""
    chosen: dict[str, dict[str, str]] = {}
    taken: set[str] = set()
    spare = 0
    for label, run in runs:
        method = run["method"]
        if method in _COLOURS and method not in taken:
            taken.add(method)
            chosen[label] = {"color": _COLOURS[method], "marker": _MARKERS[method]}
        else:
            index = spare % len(_SPARE_COLOURS)
            chosen[label] = {"color": _SPARE_COLOURS[index], "marker": _SPARE_MARKERS[index]}
            spare += 1
    return chosen


def iteration_axis(axes: Axes, last: int, label: bool = True) -> None:
    """Whole iterations from 1 to ``last`` along x."""
    axes.set_xlim(0.5, last + 0.5)
    ticks = MaxNLocator(integer=True, min_n_ticks=1, nbins=12, steps=[1, 2, 5, 10]).tick_values(
        1, max(last, 2)
    )
    axes.set_xticks([int(tick) for tick in ticks if 1 <= tick <= last])
    if label:
        axes.set_xlabel("iteration")


def marker_size(points: int) -> float:
    """Markers shrink as points crowd, in points."""
    return 5.0 if points <= 25 else 3.0


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions in the order of ``wanted``, at least ``gap`` apart, as close to them as least squares allows.

    Inside [low, high] as long as they fit there.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    clusters: list[list[float]] = []  # [sum of the wanted positions less their offsets, members]
    for rank, index in enumerate(order):
        clusters.append([wanted[index] - rank * gap, 1])
        while len(clusters) > 1 and clusters[-2][0] / clusters[-2][1] > clusters[-1][0] / clusters[-1][1]:
            total, members = clusters.pop()
            clusters[-1][0] += total
            clusters[-1][1] += members
    levels = [total / members for total, members in clusters for _ in range(int(members))]
    ceiling = high - (len(wanted) - 1) * gap
    placed = [0.0] * len(wanted)
    for rank, (index, level) in enumerate(zip(order, levels, strict=True)):
        placed[index] = max(min(level, ceiling), low) + rank * gap
    return placed

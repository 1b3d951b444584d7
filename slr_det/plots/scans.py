"""A laser scan seen from above, with the true boxes and those that each model predicts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from slr_det.files import atomic_write
from slr_det.plots.style import INK, MUTED, SATISFIED, WIDTH, drawing, new_figure, png

Prediction = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]
"""Boxes (n, 7), scores (n,) and 1-based labels (n,) of one model."""

#: Frames of a data set that pictures are drawn of, and those that they are chosen from.
PICTURES, LOOKED_AT = 2, 50
CAPTION = "True boxes are filled, predicted ones are outlines; a line out of the front shows the heading."

TRUE, PREDICTED = SATISFIED, "#D55E00"

_COLUMNS = 3
_TICK = 1.1  # metres that a heading reaches out of its box
_GREYS = (0.80, 0.25)  # of what lies on the ground, and of what is _TALL metres higher
_TALL = 2.5


def busiest(
    boxes: Iterable[npt.ArrayLike], area: tuple[float, float, float, float], most: int = PICTURES
) -> list[int]:
    """Numbers of the frames with the most boxes in an area, those first; of equals the earlier one.

    Args:
        boxes: (N, 2 or more) for each frame, x and y first, metres.
        area: Least x and y, greatest x and y, metres.
        most: How many frames.
    """
    low_x, low_y, high_x, high_y = area

    def count(rows: npt.ArrayLike) -> int:
        x, y = np.asarray(rows)[:, :2].T
        return int(((x > low_x) & (x < high_x) & (y > low_y) & (y < high_y)).sum())

    counts = [count(rows) for rows in boxes]
    return sorted(range(len(counts)), key=lambda index: -counts[index])[:most]


def draw_scan(
    points: npt.ArrayLike,
    truths: npt.ArrayLike,
    predictions: Mapping[str, Prediction],
    classes: Sequence[str],
    path: str | Path,
    *,
    area: tuple[float, float, float, float] = (0.0, -20.0, 42.0, 20.0),
    least_score: float = 0.3,
) -> Path:
    """Draw :func:`scan_figure` to a PNG file and return its path.

    Raises:
        StorageError: The file could not be written.
    """
    with drawing():
        figure = scan_figure(points, truths, predictions, classes, area=area, least_score=least_score)
        return atomic_write(path, png(figure))


def scan_figure(
    points: npt.ArrayLike,
    truths: npt.ArrayLike,
    predictions: Mapping[str, Prediction],
    classes: Sequence[str],
    *,
    area: tuple[float, float, float, float] = (0.0, -20.0, 42.0, 20.0),
    least_score: float = 0.3,
) -> Figure:
    """Seen from above, x up and y to the left in metres: a panel per model, or one without predictions for none.

    True boxes are filled, predicted ones are outlines, and a line out of the front shows each heading. Arrays and
    tensors on the CPU are taken.

    Args:
        points: (P, 3 or more), x, y, z in metres, lidar frame; the darker, the higher above the ground.
        truths: (N, 8): x, y, z, length, width, height, heading and 1-based class label.
        predictions: By the name of the model: boxes (n, 7) as those of ``truths``, scores (n,), labels (n,).
        classes: Names, in the order of the labels.
        area: Least x and y, greatest x and y of what is shown, metres.
        least_score: Predictions with a lower score are left out.
    """
    cloud = np.asarray(points, np.float64)
    true = np.asarray(truths, np.float64).reshape(-1, 8)
    panels: list[tuple[str, Prediction | None]] = [*predictions.items()] or [("", None)]
    columns = min(len(panels), _COLUMNS)
    lines = math.ceil(len(panels) / columns)
    width = WIDTH if columns > 1 else 0.65 * WIDTH
    panel = (width / columns - 0.45) * (area[2] - area[0]) / (area[3] - area[1])
    figure = new_figure(0.7 + lines * (panel + (0.55 if predictions else 0.3)), width)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    letters = abbreviations(classes)
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_visible(False)
            continue
        name, prediction = panels[place]
        _draw_points(axes, cloud, area)
        _draw_boxes(axes, true[:, :7], true[:, 7], letters, TRUE)
        if prediction is not None:
            boxes, scores, labels = (np.asarray(part, np.float64) for part in prediction)
            kept = scores.reshape(-1) >= least_score
            _draw_boxes(axes, boxes.reshape(-1, 7)[kept], labels.reshape(-1)[kept], letters, PREDICTED)
            axes.set_title(name)
        _frame(axes, area, left=place % columns == 0, bottom=place + columns >= len(panels))
    _legend(figure, letters, None if not predictions else least_score)
    return figure


def abbreviations(classes: Sequence[str]) -> dict[str, str]:
    """Return the shortest beginning of each name that no other name has: Ca, P and Cy for KITTI's three classes."""
    short = {}
    for name in classes:
        others = [other for other in classes if other != name]
        lengths = range(1, len(name) + 1)
        length = next((n for n in lengths if not any(o.startswith(name[:n]) for o in others)), len(name))
        short[name] = name[:length]
    return short


def _draw_points(axes: Axes, cloud: npt.NDArray[np.float64], area: tuple[float, float, float, float]) -> None:
    x, y, z = cloud[:, :3].T
    inside = (x >= area[0]) & (x <= area[2]) & (y >= area[1]) & (y <= area[3])
    if not inside.any():
        return
    x, y, z = x[inside], y[inside], z[inside]
    upward = np.argsort(z, kind="stable")  # the high ones on top
    ground = float(np.median(z))  # most of a scan lies on it
    grey = np.interp((z[upward] - ground) / _TALL, [0, 1], _GREYS)
    axes.scatter(
        y[upward], x[upward], s=0.9, c=grey, cmap="gray", vmin=0, vmax=1, linewidths=0, rasterized=True
    )


def _draw_boxes(
    axes: Axes,
    boxes: npt.NDArray[np.float64],
    labels: npt.NDArray[np.float64],
    letters: Mapping[str, str],
    colour: str,
) -> None:
    """Outlines, headings and class letters: true boxes filled, letters left; predicted ones open, letters right."""
    true = colour == TRUE
    short = list(letters.values())
    x, y, _, length, width, _, heading = boxes.T
    forward = np.stack([np.sin(heading), np.cos(heading)], axis=1)  # on the page: y, x
    sideways = np.stack([np.cos(heading), -np.sin(heading)], axis=1)
    middle = np.stack([y, x], axis=1)
    ahead, aside = forward * length[:, None] / 2, sideways * width[:, None] / 2
    corners = np.stack(
        [middle + ahead + aside, middle - ahead + aside, middle - ahead - aside, middle + ahead - aside],
        axis=1,
    )
    front = middle + ahead
    order = 4 if true else 5
    line: dict[str, Any] = {"linewidths": 1.3 if true else 1.1, "zorder": order}
    face = (*_rgb(colour), 0.18) if true else "none"
    axes.add_collection(PolyCollection(list(corners), edgecolors=colour, facecolors=face, **line))
    axes.add_collection(
        LineCollection(list(np.stack([front, front + forward * _TICK], axis=1)), colors=colour, **line)
    )
    reach = np.abs(corners[..., 0] - middle[:, None, 0]).max(axis=1, initial=0) + 0.4
    for index, label in enumerate(labels.astype(int)):
        axes.text(
            middle[index, 0] + (reach[index] if true else -reach[index]),
            middle[index, 1],
            short[label - 1],
            color=colour,
            fontsize=6.5,
            fontweight="bold",
            ha="right" if true else "left",  # y grows to the left of the page
            va="center",
            zorder=order + 2,
            clip_on=True,
            path_effects=[withStroke(linewidth=1.6, foreground="white")],
        )


def _frame(axes: Axes, area: tuple[float, float, float, float], *, left: bool, bottom: bool) -> None:
    axes.set_xlim(area[3], area[1])
    axes.set_ylim(area[0], area[2])
    axes.set_aspect("equal")
    axes.grid(color="#f0f0f0")
    if left:
        axes.set_ylabel("x, ahead (m)")
    if bottom:
        axes.set_xlabel("y, to the left (m)")
    axes.plot([0], [0], marker="^", color=INK, markersize=6, clip_on=False, zorder=6, linestyle="none")


def _legend(figure: Figure, letters: Mapping[str, str], least_score: float | None) -> None:
    handles: list[Any] = [
        Patch(facecolor=(*_rgb(TRUE), 0.18), edgecolor=TRUE, linewidth=1.3, label="true box")
    ]
    if least_score is not None:
        text = f"predicted box, score {least_score:g} or more"
        handles.append(Patch(facecolor="none", edgecolor=PREDICTED, linewidth=1.1, label=text))
    handles.append(
        Line2D([], [], color=INK, marker="^", markersize=6, linestyle="none", label="laser scanner")
    )
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    key = ", ".join(f"{short} {name}" for name, short in letters.items())
    figure.supxlabel(f"{key}; a line out of a box's front shows its heading", fontsize=8, color=MUTED)


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue

"""A road with the true lanes and those that each model predicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from PIL import Image

from slr_det.files import atomic_write
from slr_det.plots.style import WIDTH, drawing, new_figure, png

TRUE, PREDICTED = "#ffffff", "#E8590C"

_OUTLINE, _ROAD = "#202020", "#707276"
_DASHES = (0, (3.2, 1.8))
_COLUMNS = 2
_VEIL = 0.18  # white over the photograph, so that the lines stand out


def draw_lanes(
    image: Image.Image | npt.ArrayLike,
    truths: npt.ArrayLike,
    predictions: Mapping[str, npt.ArrayLike],
    h_samples: npt.ArrayLike,
    path: str | Path,
) -> Path:
    """Draw :func:`lanes_figure` to a PNG file and return its path.

    Raises:
        StorageError: The file could not be written.
    """
    with drawing():
        figure = lanes_figure(image, truths, predictions, h_samples)
        return atomic_write(path, png(figure))


def lanes_figure(
    image: Image.Image | npt.ArrayLike,
    truths: npt.ArrayLike,
    predictions: Mapping[str, npt.ArrayLike],
    h_samples: npt.ArrayLike,
) -> Figure:
    """The frame in a panel per model, or in one without predictions for none.

    Predicted lanes are orange, true ones are thin, white and dashed on top of them, so that a lane found exactly shows
    as an orange line with a white core. Arrays and tensors on the CPU are taken.

    Args:
        image: (H, W, 3) uint8, or a picture of Pillow.
        truths: (L, N), x in pixels of the picture at each height; negative (TuSimple's -2) where there is no point.
        predictions: Lanes (L, N) by the name of the model.
        h_samples: (N,), the heights, y in pixels.
    """
    picture = np.asarray(image, np.uint8)
    heights = np.asarray(h_samples, np.float64)
    panels: list[tuple[str, npt.ArrayLike | None]] = [*predictions.items()] or [("", None)]
    columns = min(len(panels), _COLUMNS)
    lines = math.ceil(len(panels) / columns)
    panel = WIDTH / columns * picture.shape[0] / picture.shape[1]
    figure = new_figure(0.45 + lines * (panel + (0.22 if predictions else 0.05)))
    grid = figure.subplots(lines, columns, squeeze=False)
    width = 2.2 if columns > 1 else 3.6
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_visible(False)
            continue
        name, found = panels[place]
        _draw_picture(axes, picture)
        if found is not None:
            _draw(axes, found, heights, colour=PREDICTED, width=width)
            axes.set_title(name)
        _draw(axes, truths, heights, colour=TRUE, width=width * 0.42, dashed=True)
    _legend(figure, bool(predictions))
    return figure


def _draw_picture(axes: Axes, picture: npt.NDArray[np.uint8]) -> None:
    height, width = picture.shape[:2]
    veiled = picture + (255 - picture.astype(np.float32)) * _VEIL
    axes.imshow(veiled.astype(np.uint8), extent=(0, width, height, 0), interpolation="antialiased")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()


def _draw(
    axes: Axes,
    lanes: npt.ArrayLike,
    heights: npt.NDArray[np.float64],
    *,
    colour: str,
    width: float,
    dashed: bool = False,
) -> None:
    """Draw each lane through its points; it is broken where points are missing."""
    for x in np.asarray(lanes, np.float64).reshape(-1, len(heights)):
        # A pixel's middle is half a pixel from its corner.
        axes.plot(
            np.where(x >= 0, x + 0.5, np.nan),
            heights + 0.5,
            color=colour,
            linewidth=width,
            linestyle=_DASHES if dashed else "-",
            solid_capstyle="round",
            zorder=4 if dashed else 3,
            path_effects=[withStroke(linewidth=width + 1.0, foreground=_OUTLINE, alpha=0.6)],
        )


def _legend(figure: Figure, predicted: bool) -> None:
    # White shows on the page only with a piece of road under it.
    road = Line2D([], [], color=_ROAD, linewidth=6, solid_capstyle="butt")
    white = Line2D([], [], color=TRUE, linewidth=1.3, linestyle=_DASHES)
    handles: list[Any] = [(road, white)]
    labels = ["true lane"]
    if predicted:
        handles.append((road, Line2D([], [], color=PREDICTED, linewidth=2.6)))
        labels.append("predicted lane")
    figure.legend(handles=handles, labels=labels, loc="outside upper center", ncols=len(handles))

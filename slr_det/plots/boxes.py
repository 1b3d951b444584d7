"""A photograph with the true boxes and those that each model finds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from slr_det.files import atomic_write
from slr_det.plots.style import WIDTH, drawing, new_figure, png

TRUE, PREDICTED = "#ffffff", "#E8590C"
CAPTION = "Predicted boxes are orange, with class and score; true ones white and dashed on top of them."
#: Pictures per report, the images that are looked at for them, and the most objects that a picture should have.
PICTURES, LOOKED_AT, CROWDED = 2, 200, 15
#: Predictions below this score are not drawn: a detector's result files hold hundreds of them per image.
SCORE = 0.25

_OUTLINE, _GROUND = "#202020", "#707276"
_DASHES = (0, (3.2, 1.8))
_MOST_COLUMNS = 3
_ROOM = 0.05  # of the height, that a label takes
_TALLEST = 6.5  # inches of a panel, for photographs that stand upright

Found = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]


def instructive(counts: Iterable[int], most: int = PICTURES) -> list[int]:
    """Numbers of the images to draw: those with the most objects that are not crowded; of equals the earlier one."""
    numbered = list(enumerate(counts))
    fitting = [(index, count) for index, count in numbered if count <= CROWDED] or numbered
    return [index for index, _ in sorted(fitting, key=lambda item: -item[1])[:most]]


def draw_boxes(
    image: Image.Image | npt.ArrayLike,
    truths: npt.ArrayLike,
    predictions: Mapping[str, Found],
    classes: Sequence[str],
    path: str | Path,
) -> Path:
    """Draw :func:`boxes_figure` to a PNG file and return its path.

    Raises:
        StorageError: The file could not be written.
    """
    with drawing():
        return atomic_write(path, png(boxes_figure(image, truths, predictions, classes)))


def boxes_figure(
    image: Image.Image | npt.ArrayLike,
    truths: npt.ArrayLike,
    predictions: Mapping[str, Found],
    classes: Sequence[str],
) -> Figure:
    """The photograph in a panel per model, each with the true boxes and the model's own.

    Args:
        image: (H, W, 3) uint8, or a picture of Pillow.
        truths: (N, 4), x and y of two corners, pixels.
        predictions: By the name of the model: boxes (M, 4) likewise, scores (M,), class indices (M,). Those below
            :data:`SCORE` are left out.
        classes: Names of the classes by index.
    """
    picture = np.asarray(image, np.uint8)
    columns = min(max(len(predictions), 1), _MOST_COLUMNS)
    lines = math.ceil(max(len(predictions), 1) / columns)
    panel = min(WIDTH / columns * picture.shape[0] / picture.shape[1], _TALLEST)
    figure = new_figure(0.45 + lines * (panel + 0.22))
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (name, found) in zip(grid.flat, predictions.items(), strict=False):
        height, width = picture.shape[:2]
        axes.imshow(picture, extent=(0, width, height, 0), interpolation="antialiased")
        axes.set_title(name)
        _predicted(axes, found, classes, height)
        for box in np.asarray(truths, np.float64).reshape(-1, 4):
            axes.add_patch(_rectangle(box, TRUE, 1.0, dashed=True))
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
    _legend(figure)
    return figure


def _predicted(axes: Axes, found: Found, classes: Sequence[str], height: int) -> None:
    boxes, scores, labels = (np.asarray(part, np.float64) for part in found)
    for box, score, label in zip(boxes.reshape(-1, 4), scores.reshape(-1), labels.reshape(-1), strict=True):
        if score < SCORE:
            continue
        axes.add_patch(_rectangle(box, PREDICTED, 2.0))
        name = classes[int(label)] if 0 <= int(label) < len(classes) else str(int(label))
        above = box[1] > _ROOM * height  # else the label would leave the photograph
        axes.text(
            max(box[0], 0.0),
            max(box[1], 0.0),
            f"{name} {score:.2f}",
            color="white",
            fontsize=6,
            va="bottom" if above else "top",
            clip_on=True,
            zorder=5,
            path_effects=[withStroke(linewidth=1.8, foreground=_OUTLINE)],
        )


def _rectangle(box: npt.NDArray[np.float64], colour: str, width: float, *, dashed: bool = False) -> Rectangle:
    return Rectangle(
        (box[0], box[1]),
        box[2] - box[0],
        box[3] - box[1],
        fill=False,
        edgecolor=colour,
        linewidth=width,
        linestyle=_DASHES if dashed else "-",
        zorder=4 if dashed else 3,
        path_effects=[withStroke(linewidth=width + 0.9, foreground=_OUTLINE, alpha=0.6)],
    )


def _legend(figure: Figure) -> None:
    # White shows on the page only with a piece of photograph under it.
    ground = Line2D([], [], color=_GROUND, linewidth=6, solid_capstyle="butt")
    white = Line2D([], [], color=TRUE, linewidth=1.0, linestyle=_DASHES)
    handles: list[Any] = [(ground, white), (ground, Line2D([], [], color=PREDICTED, linewidth=2.0))]
    figure.legend(handles=handles, labels=["true box", "predicted box"], loc="outside upper center", ncols=2)

"""Pictures of the weights: sparsity per layer, and one layer before and after pruning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from slr_det.plots.style import FAINT, INK, MUTED, SATISFIED, new_figure

_NAME_WIDTH = 38
_MOST_COLUMNS = 180  # cells stay about six pixels wide
_MOST_ROWS = 64
_ZERO_COLOUR = "#c6c6c6"  # what survives pruning is dark red and dark blue: only a light ground shows it


def sparsity_figure(report: Mapping[str, Any]) -> Figure | None:
    """Share of zeros in each layer of the run's own method, in the model's order from the top.

    Dense layers are grey bands that hold the reason. A short vertical line marks what was planned
    where a layer of a shared budget ended elsewhere. None for a report without layers.
    """
    layers = report["compression"]["layers"]
    if not layers:
        return None
    crowded = len(layers) > 30
    row_height, font = (0.155, 6.5) if crowded else (0.21, 8.0)
    figure = new_figure(1.0 + row_height * max(len(layers), 3), 9.0)
    axes = figure.add_subplot()
    targets = False
    for row, layer in enumerate(layers):
        zeros = 1 - layer["nonzero"] / layer["weights"] if layer["weights"] else 0.0
        if layer["keep"] is None:
            axes.barh(row, 100, height=0.8, color=FAINT, linewidth=0)
            text = f"dense: {layer['reason'] or 'not selected'}"
            axes.text(1, row, _middle_cut(text, 90), va="center", fontsize=font, style="italic", color=MUTED)
        else:
            axes.barh(row, 100 * zeros, height=0.8, color=SATISFIED, linewidth=0)
            target = 1 - layer["keep"]
            if abs(target - zeros) > 0.005:
                targets = True
                axes.plot(
                    [100 * target] * 2,
                    [row - 0.4, row + 0.4],
                    color=INK,
                    linewidth=1.4,
                    solid_capstyle="butt",
                )
        side = axes.get_yaxis_transform()
        share = "" if layer["keep"] is None else f"{zeros:.1%}"
        axes.text(1.065, row, share, transform=side, va="center", ha="right", fontsize=font)
        axes.text(
            1.145, row, _short_count(layer["weights"]), transform=side, va="center", ha="right", fontsize=font
        )
    side = axes.get_yaxis_transform()
    axes.text(1.065, -1.0, "zeros", transform=side, va="center", ha="right", fontsize=font, color=MUTED)
    axes.text(1.145, -1.0, "weights", transform=side, va="center", ha="right", fontsize=font, color=MUTED)
    names = [_middle_cut(layer["name"].removesuffix(".weight"), _NAME_WIDTH) for layer in layers]
    axes.set_yticks(range(len(layers)), names, fontsize=font)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("zero weights, %")
    axes.grid(axis="x")
    axes.set_title(f"Sparsity per layer ({report['method']})")
    if targets:
        mark = Line2D([], [], color=INK, linewidth=1.4, marker="|", linestyle="none", markersize=8)
        figure.legend([mark], ["planned (the layer shares a budget)"], loc="outside lower right", fontsize=8)
    return figure


def heatmap_figure(name: str, before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> Figure:
    """One layer's weights as a matrix (out, in x kernel height x kernel width), before and after pruning.

    Both pictures share one colour scale, symmetric about zero; exact zeros have a colour of their own. A large
    layer is cropped to its first filters and inputs: every cell is one weight, so that patterns stay visible.

    Raises:
        ValueError: The two arrays differ in shape, or are empty.
    """
    if before.shape != after.shape or before.size == 0:
        raise ValueError(f"{name}: weights before {before.shape} and after {after.shape} cannot be compared")
    matrices = [_matrix(before), _matrix(after)]
    rows, columns = matrices[0].shape
    stacked = columns > 100 or columns > 2 * rows
    shown_rows = min(rows, _MOST_ROWS)
    shown_columns = min(columns, _whole_kernels(before.shape, _MOST_COLUMNS))
    crops = [matrix[:shown_rows, :shown_columns] for matrix in matrices]
    sizes = np.abs(np.concatenate([crop[crop != 0] for crop in crops]))
    limit = float(np.nanpercentile(sizes, 99.5)) if sizes.size else 1.0
    if stacked:
        panel = float(np.clip(8.0 * shown_rows / shown_columns, 1.1, 3.4))
        figure = new_figure(2 * panel + 1.6, 9.5)
        grid = figure.subplots(2, 1, sharex=True)
    else:
        panel = float(np.clip(4.0 * shown_rows / shown_columns, 1.6, 5.0))
        figure = new_figure(panel + 1.5, 9.5)
        grid = figure.subplots(1, 2, sharey=True)
    colours = _colours()
    for axes, crop, matrix, title in zip(grid, crops, matrices, ("before", "after pruning"), strict=True):
        picture = axes.imshow(
            np.ma.masked_where(crop == 0, crop),
            cmap=colours,
            vmin=-limit,
            vmax=limit,
            aspect="auto",
            interpolation="nearest",
        )
        axes.set_title(f"{title}: {np.mean(matrix == 0):.1%} of the layer is zero")
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(False)
    grid[0].set_ylabel("filter")
    if stacked:
        grid[1].set_ylabel("filter")
    for axes in grid:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    kernel = " x kernel position" if np.prod(before.shape[2:]) > 1 else ""
    for axes in grid[1:] if stacked else grid:
        axes.set_xlabel(f"input{kernel}")
    bar = figure.colorbar(picture, ax=list(grid), shrink=0.85, pad=0.02, aspect=30, extend="both")
    bar.set_label("weight")
    bar.outline.set_visible(False)
    shape = " x ".join(map(str, before.shape))
    crop_text = (
        "" if crops[0].size == matrices[0].size else f"; first {shown_rows} filters, {shown_columns} columns"
    )
    figure.suptitle(f"{_middle_cut(name, 60)} ({shape}{crop_text})", fontsize=10, x=0.01, ha="left")
    figure.legend(
        handles=[Patch(facecolor=_ZERO_COLOUR, label="exactly zero")], loc="upper right", fontsize=8.5
    )
    return figure


def _colours() -> Any:
    """Blue to white to red, with a colour for masked (zero) cells."""
    import matplotlib

    return matplotlib.colormaps["RdBu_r"].with_extremes(bad=_ZERO_COLOUR)


def _matrix(weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return weight.reshape(weight.shape[0], -1) if weight.ndim > 1 else weight.reshape(1, -1)


def _whole_kernels(shape: tuple[int, ...], most: int) -> int:
    """The largest number of columns up to ``most`` that cuts no kernel in two."""
    kernel = int(np.prod(shape[2:])) if len(shape) > 2 else 1
    return max(most // kernel, 1) * kernel


def _middle_cut(text: str, width: int) -> str:
    """Long layer names differ at both ends: cut them in the middle."""
    if len(text) <= width:
        return text
    head = (width - 3) // 2
    return f"{text[:head]}...{text[-(width - 3 - head) :]}"


def _short_count(count: int) -> str:
    for unit, scale in (("M", 1e6), ("k", 1e3)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}" if count < 10 * scale else f"{count / scale:.1f} {unit}"
    return str(count)

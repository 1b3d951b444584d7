"""The picture of a frame's lanes holds the photograph, the true lanes and the predicted ones where they belong."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from PIL import Image

from slr_det.errors import StorageError
from slr_det.plots.lanes import PREDICTED, TRUE, draw_lanes, lanes_figure
from slr_det.plots.style import DPI, WIDTH, drawing, png

HEIGHTS = np.arange(160, 720, 10)
ROAD = Image.new("RGB", (1280, 720), (80, 90, 100))
TRUTHS = np.stack(
    [np.where(HEIGHTS < 300, -2, 600 - HEIGHTS // 2), np.where(HEIGHTS < 300, -2, 700 + HEIGHTS // 2)]
)
FOUND = {
    "dense": TRUTHS + np.where(TRUTHS >= 0, 8, 0),
    "slr, 12x": TRUTHS[:1].repeat(3, axis=0) + np.where(TRUTHS[:1] >= 0, [[4], [90], [200]], 0),
}


@pytest.fixture(scope="module")
def figure() -> Figure:
    with drawing():
        return lanes_figure(ROAD, TRUTHS, FOUND, HEIGHTS)


def curves(axes: Axes, colour: str) -> list[Line2D]:
    return [line for line in axes.lines if to_hex(line.get_color()).upper() == colour.upper()]


def test_each_model_has_a_panel_with_its_lanes_under_the_true_ones(figure: Figure) -> None:
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(FOUND)
    for axes, count in zip(figure.axes, (2, 3), strict=True):
        true, predicted = curves(axes, TRUE), curves(axes, PREDICTED)
        assert (len(true), len(predicted)) == (2, count)
        assert all(line.is_dashed() for line in true) and not any(line.is_dashed() for line in predicted)
        assert min(line.get_zorder() for line in true) > max(line.get_zorder() for line in predicted)
        assert max(line.get_linewidth() for line in true) < min(line.get_linewidth() for line in predicted)


def test_lanes_run_through_the_middles_of_their_pixels_and_are_broken_where_points_are_missing(
    figure: Figure,
) -> None:
    axes = figure.axes[0]
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 1280), (720, 0))
    first = curves(axes, TRUE)[0]
    x, y = np.asarray(first.get_xdata()), np.asarray(first.get_ydata())
    missing = TRUTHS[0] < 0
    assert np.isnan(x[missing]).all() and missing.sum() == 14
    assert np.array_equal(x[~missing], TRUTHS[0][~missing] + 0.5)
    assert np.array_equal(y, HEIGHTS + 0.5)
    assert np.nanmax(np.asarray(curves(axes, PREDICTED)[1].get_xdata()) - x) > 100


def test_a_lane_is_drawn_at_the_place_of_its_pixels() -> None:
    """The whole way to the file: a mark in the photograph and a lane through it end in the same place."""
    photograph = np.full((720, 1280, 3), 60, np.uint8)
    photograph[400:410, 900:910] = (0, 255, 0)
    lane = np.where(np.abs(HEIGHTS - 405) < 60, 904, -2)[None]
    with drawing():
        drawn = [
            np.asarray(imread(io.BytesIO(png(lanes_figure(photograph, truth, {}, HEIGHTS))), format="png"))
            for truth in (lane[:0], lane)
        ]
    green = (drawn[0][..., 1] > 0.9) & (drawn[0][..., 0] < 0.5)
    changed = np.abs(drawn[0] - drawn[1]).max(axis=2) > 0.3
    assert green.sum() >= 9
    assert np.nonzero(changed)[1].mean() == pytest.approx(np.nonzero(green)[1].mean(), abs=1.5)
    assert np.nonzero(changed)[0].mean() == pytest.approx(np.nonzero(green)[0].mean(), abs=5)


def test_the_legend_is_outside_and_names_both_kinds(figure: Figure) -> None:
    figure.canvas.draw()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["true lane", "predicted lane"]
    top = max(axes.get_tightbbox().y1 for axes in figure.axes)  # type: ignore[union-attr]
    assert legend.get_window_extent().y0 >= top
    with drawing():
        alone = lanes_figure(ROAD, TRUTHS, {}, HEIGHTS)
    assert [text.get_text() for text in alone.legends[0].get_texts()] == ["true lane"]


@pytest.mark.parametrize("models", [0, 1, 2, 3])
def test_any_number_of_models_makes_a_picture_no_wider_than_a_page(tmp_path: Path, models: int) -> None:
    predictions = {f"model {i}": FOUND["dense"] for i in range(models)}
    path = draw_lanes(ROAD, TRUTHS, predictions, HEIGHTS, tmp_path / "plots" / "lanes.png")
    image = np.asarray(imread(path))[..., :3]
    height, width = image.shape[:2]
    assert width <= WIDTH * DPI and 300 < height < WIDTH * DPI
    orange = np.array([int(PREDICTED[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    assert ((np.abs(image - orange).max(axis=2) < 0.05).sum() > 100) is np.bool_(models > 0)


def test_nothing_true_and_nothing_found_are_drawn_as_well() -> None:
    with drawing():
        empty = lanes_figure(ROAD, np.zeros((0, 56)), {"dense": []}, HEIGHTS)
        data = png(empty)
    assert np.asarray(imread(io.BytesIO(data), format="png")).std() > 0
    assert empty.axes[0].lines[:] == []


def test_tensors_and_arrays_are_taken_and_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first = draw_lanes(ROAD, TRUTHS, FOUND, HEIGHTS, tmp_path / "a.png")
    tensors = {name: torch.tensor(lanes) for name, lanes in FOUND.items()}
    second = draw_lanes(np.asarray(ROAD), torch.tensor(TRUTHS), tensors, HEIGHTS.tolist(), tmp_path / "b.png")
    assert first.read_bytes() == second.read_bytes()
    assert matplotlib.rcParams["legend.frameon"] == matplotlib.rcParamsDefault["legend.frameon"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        draw_lanes(ROAD, TRUTHS, {}, HEIGHTS, tmp_path / "file" / "lanes.png")

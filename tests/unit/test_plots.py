"""The pictures hold the report's numbers, are no wider than a page, and are not blank."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage, imread
from matplotlib.patches import Rectangle
from report_example import DENSE, make_classifier_report, make_report, make_weights

from slr_det import plots
from slr_det.plots.conditions import conditions_figure
from slr_det.plots.convergence import convergence_figure, metric_figure
from slr_det.plots.layers import heatmap_figure, sparsity_figure
from slr_det.plots.style import DPI, NOT_SATISFIED, SATISFIED, drawing, png, spread

ALL = ("slr", "admm", "penalty", "gradual", "oneshot")
Report = dict[str, Any]


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(imread(io.BytesIO(data), format="png"))[..., :3]


def texts(figure: Figure) -> str:
    found = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    return "\n".join(found)


def lines_of(figure: Figure, panel: int = 0) -> dict[str, dict[float, float]]:
    """Points of every labelled or full line of a panel by its colour, without gaps."""
    found: dict[str, dict[float, float]] = {}
    for line in figure.axes[panel].lines:
        xs, ys = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        if line.get_linestyle() == "-" and line.get_zorder() == 3:
            found[str(line.get_color())] = {x: y for x, y in zip(xs, ys, strict=True) if np.isfinite(y)}
    return found


@pytest.mark.parametrize(
    ("methods", "iterations", "layers"), [(("slr",), 3, 8), (("slr", "admm"), 1, 4), (ALL, 60, 75)]
)
def test_every_picture_is_drawn_and_none_is_blank(
    tmp_path: Path, methods: tuple[str, ...], iterations: int, layers: int
) -> None:
    before, after = make_weights((32, 16, 3, 3))
    report = make_report(methods, iterations, layers)
    drawn = plots.draw_all(tmp_path, report, heatmap_layer="w", before=before, after=after)
    assert drawn == plots.FILES
    for name, path in drawn.items():
        image = pixels((tmp_path / path).read_bytes())
        height, width = image.shape[:2]
        assert 8 * DPI <= width <= 10 * DPI, name
        assert 1.5 * DPI <= height <= 16 * DPI, name
        assert image.std() > 0.05, name
        assert len(np.unique((image * 255).astype(int) @ np.array([1, 256, 65536]))) > 8, name
        ink = image.min(axis=2) < 0.9
        assert ink.any(axis=0).mean() > 0.5 and ink.any(axis=1).mean() > 0.5, name
        # No text is cut at the edge of the picture.
        assert not (ink[:, :2].any() or ink[:, -2:].any() or ink[:2].any() or ink[-2:].any()), name


def test_the_score_of_each_iteration_is_on_its_line() -> None:
    report = make_report(("slr", "admm"), 12)
    report["history"][4]["metric"] = None
    report["history"][5]["metric"]["map50"] = None
    figure = metric_figure(report)
    assert figure is not None
    found = list(lines_of(figure).values())
    assert found[0] == {
        r["iteration"]: r["metric"]["map50"] for r in report["history"] if r["iteration"] not in (5, 6)
    }
    admm = report["others"]["admm"]
    assert found[1] == {r["iteration"]: r["metric"]["map50"] for r in admm["history"]}
    dense = [line for line in figure.axes[0].lines if line.get_zorder() == 1]
    assert [set(np.asarray(line.get_ydata(), float)) for line in dense] == [{round(DENSE - 0.003, 4)}]
    for text in ("slr  0.856", "admm  0.801", "dense  0.868", "mAP50 (trainer's own)"):
        assert text in texts(figure)
    bridges = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert [list(np.asarray(line.get_xdata(), float)) for line in bridges] == [[4.0, 7.0]]
    assert all(1 <= tick <= 12 for tick in figure.axes[0].get_xticks())


def test_the_curve_of_a_classifier_is_its_headline() -> None:
    report = make_classifier_report(("slr",), 5)
    figure = metric_figure(report)
    assert figure is not None
    (points,) = lines_of(figure).values()
    assert points == {r["iteration"]: r["metric"]["top1"] for r in report["history"]}
    hard = report["phases"]["hard_prune"]["metrics"]["top1"]
    for text in (f"slr  {hard:.3f}", f"dense  {DENSE:.3f}", "top-1 accuracy"):
        assert text in texts(figure)


def test_without_scores_during_the_run_the_final_ones_still_show() -> None:
    report = make_report(("slr", "oneshot"), 5)
    for record in report["history"]:
        record["metric"] = None
    figure = metric_figure(report)
    assert figure is not None
    for text in ("slr  0.859", "oneshot  0.354", "dense  0.871", "not measured during the run", "AP50"):
        assert text in texts(figure)
    for block in (report, report["others"]["oneshot"]):
        block["phases"] = {"dense": block["phases"]["dense"]}
    assert metric_figure(report) is None


def test_distance_and_step_size_are_drawn_where_they_exist() -> None:
    report = make_report(("slr", "admm", "oneshot"), 60)
    figure = convergence_figure(report)
    assert figure is not None
    distance, step = figure.axes
    assert distance.get_yscale() == "log"  # two decades
    assert step.get_yscale() == "linear"  # less than one
    both = list(lines_of(figure).values())
    assert both[0] == {r["iteration"]: r["distance"] for r in report["history"]}
    assert both[1] == {r["iteration"]: r["distance"] for r in report["others"]["admm"]["history"]}
    assert list(lines_of(figure, 1).values()) == [{r["iteration"]: r["step_size"] for r in report["history"]}]
    assert "admm, oneshot: none" in texts(figure)


def test_without_a_step_size_there_is_one_panel_and_without_a_distance_none() -> None:
    report = make_report(("admm",), 5)
    figure = convergence_figure(report)
    assert figure is not None and len(figure.axes) == 1
    for record in report["history"]:
        record["distance"] = None
    assert convergence_figure(report) is None
    assert convergence_figure(make_report(("oneshot",))) is None


def test_a_distance_of_zero_shows_as_an_open_mark_below_the_rest() -> None:
    report = make_report(("slr",), 60)
    for record in report["history"][50:]:
        record["distance"] = 0.0
    figure = convergence_figure(report)
    assert figure is not None
    axes = figure.axes[0]
    smallest = min(record["distance"] for record in report["history"][:50])
    marks = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [list(np.asarray(m.get_xdata(), float)) for m in marks] == [[float(x) for x in range(51, 61)]]
    assert float(np.asarray(marks[0].get_ydata(), float).max()) < smallest
    assert "0" in [text.get_text() for text in axes.texts]
    for record in report["history"]:
        record["distance"] = 0.0
    figure = convergence_figure(report)
    assert figure is not None and figure.axes[0].get_yscale() == "linear"
    assert set(lines_of(figure)["#0072B2"].values()) == {0.0}


def test_the_conditions_are_cells_of_three_kinds() -> None:
    report = make_report(("slr", "admm"), 20)
    report["history"][7]["condition_6"] = None
    figure = conditions_figure(report)
    assert figure is not None
    axes = figure.axes[0]
    cells = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(cells) == 40 and not axes.findobj(PatchCollection)

    def kind(cell: Rectangle) -> bool | None:
        colour = matplotlib.colors.to_hex(cell.get_facecolor())
        return {SATISFIED.lower(): True, NOT_SATISFIED.lower(): False, "#ffffff": None}[colour]

    for start, key in ((0, "condition_6"), (20, "condition_11")):
        row = cells[start : start + 20]
        assert [kind(cell) for cell in row] == [record[key] for record in report["history"]]
        assert [cell.get_x() + cell.get_width() / 2 for cell in row] == pytest.approx(range(1, 21))
    heights = {kind(cell): cell.get_height() for cell in cells}
    assert heights[False] < heights[True] / 2  # told apart without colour
    held = sum(record["condition_6"] or False for record in report["history"])
    assert f"{held} of 19" in texts(figure) and "no such conditions: admm" in texts(figure)
    assert "not applicable" in texts(figure)


def test_methods_without_conditions_have_no_strip_chart() -> None:
    assert conditions_figure(make_report(("admm", "gradual"))) is None
    report = make_report(("slr",))
    for record in report["history"]:
        record["condition_6"] = record["condition_11"] = None
    assert conditions_figure(report) is None


@pytest.mark.parametrize("count", [10, 75])
def test_the_bars_are_the_layers_sparsity_and_dense_ones_are_grey(count: int) -> None:
    report = make_report(("slr",), 3, count)
    layers = report["compression"]["layers"]
    figure = sparsity_figure(report)
    assert figure is not None
    axes = figure.axes[0]
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(bars) == count
    for bar, layer in zip(bars, layers, strict=True):
        colour = matplotlib.colors.to_hex(bar.get_facecolor())
        if layer["keep"] is None:
            assert colour == "#e4e4e4" and bar.get_width() == 100
            assert f"dense: {layer['reason']}" in texts(figure)
        else:
            assert colour == SATISFIED.lower()
            assert bar.get_width() == pytest.approx(100 * (1 - layer["nonzero"] / layer["weights"]))
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [layer["name"].removesuffix(".weight") for layer in layers]
    # Rows are far enough apart to be read: the line of text is lower than the row.
    with drawing():
        png(figure)
    rows = axes.get_window_extent().height / (count + 0.2)
    tallest = max(label.get_window_extent().height for label in axes.get_yticklabels())
    assert tallest < rows * 1.1


def test_long_layer_names_are_cut_in_the_middle() -> None:
    report = make_report(("slr",))
    report["compression"]["layers"][1]["name"] = "backbone.stage3." + "block." * 20 + "conv.weight"
    figure = sparsity_figure(report)
    assert figure is not None
    label = figure.axes[0].get_yticklabels()[1].get_text()
    assert len(label) == 38 and label.startswith("backbone.stage3.") and label.endswith("block.conv")
    report["compression"]["layers"] = []
    assert sparsity_figure(report) is None


@pytest.mark.parametrize(
    ("shape", "crop"),
    [
        ((16, 3, 3, 3), (16, 27)),
        ((512, 64, 3, 3), (64, 180)),
        ((64, 40, 5, 5), (64, 175)),  # no kernel is cut in two
        ((300, 20), (64, 20)),
        ((2, 3, 15, 15), (2, 225)),
        ((7,), (1, 7)),
    ],
)
def test_the_heat_map_shows_single_weights_on_one_symmetric_scale(
    shape: tuple[int, ...], crop: tuple[int, int]
) -> None:
    before, after = make_weights(shape)
    figure = heatmap_figure("conv", before, after)
    first, second = (
        image for axes in figure.axes for image in axes.findobj(AxesImage) if image.get_array().ndim == 2
    )
    for image, weight in ((first, before), (second, after)):
        shown = np.ma.asarray(image.get_array())
        assert shown.shape == crop
        matrix = weight.reshape(weight.shape[0], -1) if weight.ndim > 1 else weight.reshape(1, -1)
        expected = matrix[: crop[0], : crop[1]]
        np.testing.assert_array_equal(shown.filled(0), expected)
        np.testing.assert_array_equal(np.ma.getmaskarray(shown), expected == 0)  # zeros have their own colour
        low, high = image.get_clim()
        assert low == -high and high > 0
    assert first.get_clim() == second.get_clim()
    assert f"after pruning: {np.mean(after == 0):.1%} of the layer is zero" in texts(figure)


def test_a_heat_map_of_zeros_or_of_two_shapes() -> None:
    zeros = np.zeros((4, 4), np.float32)
    assert pixels(png(heatmap_figure("conv", zeros, zeros))).std() > 0.05
    with pytest.raises(ValueError, match="cannot be compared"):
        heatmap_figure("conv", zeros, zeros[:2])


def test_labels_move_apart_and_no_further_than_needed() -> None:
    assert spread([0.2, 0.8], 0.1, 0.0, 1.0) == [0.2, 0.8]
    assert spread([0.5, 0.5], 0.1, 0.0, 1.0) == pytest.approx([0.45, 0.55])
    assert spread([0.52, 0.5, 0.9], 0.1, 0.0, 1.0) == pytest.approx([0.56, 0.46, 0.9])
    assert spread([1.0, 1.0, 1.0], 0.1, 0.0, 1.0) == pytest.approx([0.8, 0.9, 1.0])
    assert spread([0.0, 0.0], 0.1, 0.0, 1.0) == pytest.approx([0.0, 0.1])
    rng = np.random.default_rng(0)
    for _ in range(200):
        wanted = rng.random(6).tolist()
        placed = spread(wanted, 0.08, 0.0, 1.0)
        assert min(np.diff(np.sort(placed))) >= 0.08 - 1e-9
        assert min(placed) >= -1e-9 and max(placed) <= 1 + 1e-9
        assert np.argsort(placed).tolist() == np.argsort(wanted).tolist()


def test_the_callers_settings_of_matplotlib_stay(tmp_path: Path) -> None:
    with matplotlib.rc_context({"font.size": 23, "axes.spines.top": True}):
        assert len(plots.draw_all(tmp_path, make_report(("oneshot",), 2, 4))) == 2
        assert matplotlib.rcParams["font.size"] == 23
        assert matplotlib.rcParams["axes.spines.top"] is True

"""The picture of a scan holds the points, the true boxes and the predicted ones where they belong."""

from __future__ import annotations

import io
import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from slr_det.errors import StorageError
from slr_det.plots.scans import PREDICTED, TRUE, Prediction, abbreviations, busiest, draw_scan, scan_figure
from slr_det.plots.style import DPI, WIDTH, drawing, png

CLASSES = ("Car", "Pedestrian", "Cyclist")
POINTS = np.array(
    [[10, 5, -1.7, 0.2], [20, -5, -1.7, 0.3], [30, 0, -1.7, 0.1], [30, 0.1, 1.0, 0.9], [90, 0, 0, 0]]
)
TRUTHS = np.array(
    [
        [10.0, 5.0, -1, 4, 2, 1.5, 0.0, 1],
        [20, -5, -1, 1, 0.6, 1.7, 2.0, 2],
        [30, 0, -1, 1.8, 0.6, 1.7, -1.0, 3],
    ]
)
FOUND: dict[str, Prediction] = {
    "dense": (TRUTHS[:2, :7] + 0.1, [0.9, 0.2], [1, 2]),
    "slr, 4x": (TRUTHS[:, :7], [0.9, 0.8, 0.3], [1, 2, 3]),
}


@pytest.fixture(scope="module")
def figure() -> Figure:
    with drawing():
        return scan_figure(POINTS, TRUTHS, FOUND, CLASSES)


def shapes(axes: Axes, kind: type, colour: str) -> list[np.ndarray]:
    """Vertices (n, 2) of the polygons or lines of a colour."""
    found = []
    for collection in axes.collections:
        if (
            isinstance(collection, kind)
            and to_hex(np.asarray(collection.get_edgecolor())[0].tolist()).upper() == colour
        ):
            found += [np.asarray(path.vertices) for path in collection.get_paths()]
    return found


def texts(figure: Figure | Axes) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def test_each_model_has_a_panel_with_its_boxes_above_the_least_score(figure: Figure) -> None:
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(FOUND)
    for axes, count in zip(figure.axes, (1, 3), strict=True):
        assert len(shapes(axes, PolyCollection, TRUE)) == 3
        assert len(shapes(axes, PolyCollection, PREDICTED)) == count
        assert len(shapes(axes, LineCollection, PREDICTED)) == count


def test_boxes_lie_where_they_are_with_y_to_the_left_and_x_up(figure: Figure) -> None:
    axes = figure.axes[0]
    low_y, high_y = axes.get_xlim()
    low_x, high_x = axes.get_ylim()
    assert low_y > high_y and low_x < high_x
    assert axes.get_aspect() == 1
    outline = shapes(axes, PolyCollection, TRUE)[0]
    assert (outline.min(axis=0), outline.max(axis=0)) == (
        pytest.approx([4.0, 8.0]),
        pytest.approx([6.0, 12.0]),
    )


@pytest.mark.parametrize("heading", [0.0, 0.5, 2.0, -1.3])
def test_outlines_have_the_boxs_sides_and_the_tick_points_along_its_heading(heading: float) -> None:
    truth = np.array([[20.0, 3.0, -1, 4, 2, 1.5, heading, 1]])
    axes = scan_figure(POINTS, truth, {}, CLASSES).axes[0]
    (outline,) = shapes(axes, PolyCollection, TRUE)
    corners = outline[:4]
    sides = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    assert sorted(sides) == pytest.approx([2, 2, 4, 4])
    assert corners.mean(axis=0) == pytest.approx([3, 20])
    (tick,) = shapes(axes, LineCollection, TRUE)
    forward = np.array([math.sin(heading), math.cos(heading)])  # y, x
    assert tick[0] == pytest.approx(np.array([3, 20]) + 2 * forward)
    direction = tick[1] - tick[0]
    assert direction / np.linalg.norm(direction) == pytest.approx(forward)


def test_points_in_the_area_are_drawn_and_high_ones_are_darker(figure: Figure) -> None:
    (cloud,) = (c for c in figure.axes[0].collections if isinstance(c, PathCollection))
    offsets, grey = np.asarray(cloud.get_offsets()), np.asarray(cloud.get_array())
    assert len(offsets) == 4  # one of five is out of the area
    assert offsets[-1] == pytest.approx([0.1, 30])  # drawn last, on top
    assert grey[-1] < 0.3 < 0.7 < grey[:3].min()


def test_classes_are_told_by_the_shortest_letters_that_differ(figure: Figure) -> None:
    assert abbreviations(CLASSES) == {"Car": "Ca", "Pedestrian": "P", "Cyclist": "Cy"}
    assert abbreviations(["Truck"]) == {"Truck": "T"}
    assert abbreviations(["Per", "Person"]) == {"Per": "Per", "Person": "Pers"}
    for axes, letters in zip(figure.axes, (["Ca", "P", "Cy", "Ca"], ["Ca", "P", "Cy"] * 2), strict=True):
        assert [t for t in texts(axes) if t in ("Ca", "P", "Cy")] == letters
    assert any("Ca Car, P Pedestrian, Cy Cyclist" in text for text in texts(figure))


def test_the_letters_of_true_and_predicted_boxes_stand_on_different_sides(figure: Figure) -> None:
    places = {to_hex(t.get_color()).upper(): t.get_position()[0] for t in figure.axes[0].texts[::3]}
    assert places[TRUE] > 6 and places[PREDICTED] < 4  # y of a car from 4 to 6, and y grows to the left


def test_the_legend_is_outside_and_names_both_kinds(figure: Figure) -> None:
    figure.canvas.draw()
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["true box", "predicted box, score 0.3 or more", "laser scanner"]
    below = max(axes.get_tightbbox().y1 for axes in figure.axes)  # type: ignore[union-attr]
    assert legend.get_window_extent().y0 >= below


@pytest.mark.parametrize("models", [0, 1, 2, 3, 5])
def test_any_number_of_models_makes_a_picture_no_wider_than_a_page(tmp_path: Path, models: int) -> None:
    predictions = {f"model {i}": FOUND["dense"] for i in range(models)}
    path = draw_scan(POINTS, TRUTHS, predictions, CLASSES, tmp_path / "plots" / "scan.png")
    image = np.asarray(imread(path))[..., :3]
    height, width = image.shape[:2]
    assert width <= WIDTH * DPI and 300 < height < 1.5 * WIDTH * DPI
    colours = image.reshape(-1, 3)
    for colour, wanted in ((TRUE, True), (PREDICTED, models > 0)):
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        assert bool((np.abs(colours - rgb).max(axis=1) < 0.05).sum() > 30) is wanted


def test_nothing_true_nothing_found_and_no_points_are_drawn_as_well() -> None:
    nothing = (np.zeros((0, 7)), np.zeros(0), np.zeros(0))
    with drawing():
        empty = scan_figure(np.zeros((0, 4)), np.zeros((0, 8)), {"dense": nothing}, CLASSES)
        data = png(empty)
    assert np.asarray(imread(io.BytesIO(data), format="png")).std() > 0
    assert shapes(empty.axes[0], PolyCollection, TRUE) == []


def test_tensors_are_taken_and_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = {name: tuple(torch.tensor(np.asarray(part)) for part in found) for name, found in FOUND.items()}
    first = draw_scan(POINTS, TRUTHS, FOUND, CLASSES, tmp_path / "a.png")
    second = draw_scan(
        torch.tensor(POINTS),
        torch.tensor(TRUTHS),
        tensors,  # type: ignore[arg-type]
        CLASSES,
        tmp_path / "b.png",
    )
    assert first.read_bytes() == second.read_bytes()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        draw_scan(POINTS, TRUTHS, {}, CLASSES, tmp_path / "file" / "scan.png")


def test_the_busiest_frames_are_those_with_most_boxes_inside() -> None:
    frames = [
        np.array([[x, y, 0.0] for x, y in rows]).reshape(-1, 3)
        for rows in (
            [(5, 0)],
            [(5, 0), (6, 1), (50, 0)],
            [],
            [(1, 1), (2, 2), (3, -30)],
            [(1, 1), (2, 2), (3, 3)],
        )
    ]
    area = (0.0, -20.0, 40.0, 20.0)
    assert busiest(frames, area, 3) == [4, 1, 3], "of equals the earlier one first"
    assert busiest(frames[:1], area) == [0] and busiest([], area) == []

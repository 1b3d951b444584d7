"""The picture of detections holds the photograph, the true boxes and the predicted ones where they belong."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from PIL import Image

from slr_det.errors import StorageError
from slr_det.plots.boxes import PREDICTED, TRUE, boxes_figure, draw_boxes, instructive
from slr_det.plots.style import DPI, WIDTH, drawing, png

PHOTO = Image.new("RGB", (320, 240), (80, 90, 100))
TRUTHS = [[10, 20, 110, 220], [200, 30, 300, 90]]
FOUND = {
    "dense": ([[12, 18, 108, 222], [198, 30, 300, 92]], [0.9, 0.8], [0, 1]),
    "slr": ([[12, 2, 108, 222], [0, 0, 5, 5], [40, 40, 60, 60]], [0.7, 0.1, 0.25], [0, 1, 7]),
}


@pytest.fixture(scope="module")
def figure() -> Figure:
    with drawing():
        return boxes_figure(PHOTO, TRUTHS, FOUND, ["car", "van"])


def boxes(axes: Axes, colour: str) -> list[tuple[float, float, float, float]]:
    found = [
        p
        for p in axes.patches
        if isinstance(p, Rectangle) and to_hex(p.get_edgecolor()).upper() == colour.upper()
    ]
    return [(*p.get_xy(), p.get_xy()[0] + p.get_width(), p.get_xy()[1] + p.get_height()) for p in found]


def test_each_model_has_a_panel_with_its_boxes_and_the_true_ones(figure: Figure) -> None:
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(FOUND)
    dense, slr = figure.axes
    assert boxes(dense, TRUE) == boxes(slr, TRUE) == [tuple(box) for box in TRUTHS]
    assert boxes(dense, PREDICTED) == [(12, 18, 108, 222), (198, 30, 300, 92)]
    assert boxes(slr, PREDICTED) == [
        (12, 2, 108, 222),
        (40, 40, 60, 60),
    ]  # the one with a score of 0.1 is left out
    assert (dense.get_xlim(), dense.get_ylim()) == ((0, 320), (240, 0))


def test_labels_say_class_and_score_and_stay_inside(figure: Figure) -> None:
    dense, slr = figure.axes
    assert [text.get_text() for text in dense.texts] == ["car 0.90", "van 0.80"]
    assert [text.get_text() for text in slr.texts] == ["car 0.70", "7 0.25"]  # a class that has no name
    assert [text.get_va() for text in slr.texts] == ["top", "bottom"]  # no room above the first


def test_the_picture_is_as_wide_as_a_page_and_shows_the_photograph(tmp_path: Path) -> None:
    path = draw_boxes(PHOTO, TRUTHS, FOUND, ["car", "van"], tmp_path / "new" / "boxes.png")
    pixels = imread(path)
    assert pixels.shape[1] == WIDTH * DPI
    grey = np.abs(pixels[..., :3] - np.array([80, 90, 100]) / 255).max(-1) < 0.02
    assert grey.mean() > 0.4


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_any_number_of_models_fits(count: int) -> None:
    found = {f"m{index}": FOUND["dense"] for index in range(count)}
    with drawing():
        figure = boxes_figure(Image.new("RGB", (60, 600)), [], found, ["car", "van"])
        picture = imread(io.BytesIO(png(figure)))
    assert sum(bool(axes.get_title(loc="left")) for axes in figure.axes) == count
    assert picture.shape[1] == WIDTH * DPI


def test_images_with_many_objects_are_chosen_and_crowds_are_not() -> None:
    assert instructive([3, 40, 9, 9, 0]) == [2, 3]
    assert instructive([40, 50]) == [1, 0]
    assert instructive([]) == []


def test_a_picture_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        draw_boxes(PHOTO, TRUTHS, FOUND, [], tmp_path / "file" / "boxes.png")

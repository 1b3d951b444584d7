"""Boxes, label files, image headers and link names: the parts of a data set."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_sets import write_image

from slr_det.data.labels import label_file, label_line, read_labels, to_fractions, to_pixels
from slr_det.data.mirror import image_size, link_names
from slr_det.errors import DataError


@given(
    st.integers(16, 4000),
    st.integers(16, 4000),
    st.tuples(*[st.floats(0, 1)] * 4),
)
def test_boxes_survive_the_way_through_a_label_file(
    width: int, height: int, part: tuple[float, float, float, float]
) -> None:
    left, top = part[0] * (width - 2), part[1] * (height - 2)
    box = (left, top, 1 + part[2] * (width - left - 1), 1 + part[3] * (height - top - 1))
    inside = to_fractions(box, width, height)
    assert inside is not None
    text = label_line(3, inside).split()
    assert text[0] == "3"
    written = (float(text[1]), float(text[2]), float(text[3]), float(text[4]))
    assert written == pytest.approx(inside, abs=1e-9)
    assert to_pixels(inside, width, height) == pytest.approx(box, abs=1e-6)
    # What reaches the file is the box to a millionth of the picture's side.
    assert to_pixels(written, width, height) == pytest.approx(box, abs=1e-6 * max(width, height))


def test_a_box_is_clipped_to_its_picture() -> None:
    assert to_fractions((90, -5, 40, 30), 100, 50) == pytest.approx((0.95, 0.25, 0.1, 0.5))
    assert to_fractions((100, 0, 10, 10), 100, 50) is None
    assert to_fractions((10, 10, 0, 10), 100, 50) is None
    assert to_fractions((10, 10, -4, 10), 100, 50) is None


def test_labels_lie_where_the_trainer_looks() -> None:
    assert label_file(Path("/d/images/train/a.b.jpg")) == Path("/d/labels/train/a.b.txt")
    assert label_file(Path("/images/d/images/a.png")) == Path("/images/d/labels/a.txt")
    assert label_file(Path("/d/pictures/a.png")) == Path("/d/pictures/a.txt")


def test_labels_are_read_once_each_and_polygons_have_a_hull(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("1 0.5 0.5 0.2 0.4\n\n1 0.5 0.5 0.2 0.4\n0 0.5 0.5 0.2 0.4\n")
    assert [(label.index, label.box) for label in read_labels(file, 2)] == [
        (1, (0.5, 0.5, 0.2, 0.4)),
        (0, (0.5, 0.5, 0.2, 0.4)),
    ]
    file.write_text("4 0.1 0.2 0.5 0.2 0.3 0.8\n")
    (label,) = read_labels(file)
    assert label.box == pytest.approx((0.3, 0.5, 0.4, 0.6))
    assert label.polygon == (0.1, 0.2, 0.5, 0.2, 0.3, 0.8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.2", "line 1: '0 0.5 0.5 0.2', expected"),
        ("0 0.5 0.5 0.2 0.1\n0 0.5 x 0.2 0.1", "line 2: '0 0.5 x 0.2 0.1', expected"),
        ("0 0.5 0.5 0.2 0.1 0.9", "expected 'class x y width height'"),
        ("0 0.5 0.5 nan 0.1", "expected 'class x y width height'"),
        ("1.5 0.5 0.5 0.2 0.1", "class 1.5, expected a whole number"),
        ("-1 0.5 0.5 0.2 0.1", "class -1, expected a whole number"),
        ("3 0.5 0.5 0.2 0.1", "class 3, but only 3 classes"),
        ("0 320 240 20 10", "coordinate 320, expected a fraction"),
        ("0 0.5 0.5 0.2 0.1\n0 0.1 0.1 0.2 0.1 0.2 0.2", "boxes and polygons"),
    ],
)
def test_a_bad_label_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.txt"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_labels(file, 3)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_image_sizes_come_from_the_header_with_turns_applied(tmp_path: Path) -> None:
    from PIL import Image

    assert image_size(write_image(tmp_path / "a.png", 30, 20)) == (30, 20)
    turned = Image.Exif()
    turned[274] = 6
    assert image_size(write_image(tmp_path / "b.jpg", 30, 20, exif=turned)) == (20, 30)
    # Pixels are not needed: a file cut after its header still tells.
    whole = write_image(tmp_path / "c.jpg", 300, 200).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    assert image_size(tmp_path / "cut.jpg") == (300, 200)


def test_a_bad_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"x\.jpg: not a readable image"):
        image_size(tmp_path / "x.jpg")
    with pytest.raises(DataError, match=r"y\.jpg: no such image"):
        image_size(tmp_path / "y.jpg")


def test_link_names_have_stems_of_their_own() -> None:
    names = link_names(["a/1.jpg", "b/1.jpg", "1.png", "1-0.jpg", "2.png"])
    assert names[-2:] == ["1-0.jpg", "2.png"]
    assert len({Path(name).stem for name in names}) == 5
    assert [Path(name).suffix for name in names] == [".jpg", ".jpg", ".png", ".jpg", ".png"]

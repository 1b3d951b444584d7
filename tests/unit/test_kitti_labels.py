"""KITTI object files: what is read, what is written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slr_det.data.kitti.labels import KittiObjects, read_objects, write_objects
from slr_det.errors import DataError, StorageError

LABEL = "Car 0.25 1 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44 -1.56"
REGION = "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10"


def test_every_field_lands_where_it_belongs(tmp_path: Path) -> None:
    file = tmp_path / "000001.txt"
    file.write_text(f"{LABEL}\n{REGION}\n", encoding="utf-8")
    objects = read_objects(file)
    assert objects.names == ("Car", "DontCare") and len(objects) == 2
    assert objects.truncated.tolist() == [0.25, -1]
    assert objects.occluded.tolist() == [1, -1] and objects.occluded.dtype == np.int64
    assert objects.alpha.tolist() == [-1.57, -10]
    assert objects.boxes_2d[0].tolist() == [599.41, 156.40, 629.75, 189.25]
    assert objects.dimensions[0].tolist() == [2.85, 2.63, 12.34]
    assert objects.locations[0].tolist() == [0.47, 1.49, 69.44]
    assert objects.rotations.tolist() == [-1.56, -10]
    assert objects.scores is None
    floats = (objects.truncated, objects.alpha, objects.boxes_2d, objects.dimensions, objects.rotations)
    assert {array.dtype for array in floats} == {np.dtype(np.float64)}


@pytest.mark.parametrize("scored", [None, True])
def test_a_sixteenth_field_is_the_score(tmp_path: Path, scored: bool | None) -> None:
    file = tmp_path / "000001.txt"
    file.write_text(f"\ufeff{LABEL} 0.75\r\n\r\n{LABEL}   -3\r\n", encoding="utf-8")
    scores = read_objects(file, scored=scored).scores
    assert scores is not None and scores.tolist() == [0.75, -3]


def test_a_file_without_lines_has_no_objects(tmp_path: Path) -> None:
    file = tmp_path / "000001.txt"
    file.write_text("\n", encoding="utf-8")
    assert len(read_objects(file)) == 0 and read_objects(file).scores is None
    scored = read_objects(file, scored=True)
    assert scored.scores is not None and scored.scores.shape == (0,)
    assert scored.boxes_2d.shape == (0, 4) and scored.locations.shape == (0, 3)


@pytest.mark.parametrize(
    ("text", "scored", "message"),
    [
        ("Car 1 2", None, "000001.txt:1: 3 fields, expected 15 (a label) or 16 (a detection)"),
        (f"{LABEL}\n\n{LABEL} 0.5", None, "000001.txt:3: 16 fields, expected 15 as in the lines before it"),
        (f"{LABEL} 0.5", False, "000001.txt:1: 16 fields, expected 15: a label has no score"),
        (LABEL, True, "000001.txt:1: 15 fields, expected 16: a detection ends with its score"),
        (LABEL.replace("69.44", "far"), None, "000001.txt:1: z is 'far', expected a number"),
        (LABEL.replace("69.44", "nan"), None, "000001.txt:1: z is nan, expected a finite number"),
        (f"{LABEL} inf", True, "000001.txt:1: score is inf, expected a finite number"),
        (LABEL.replace(" 1 ", " 0.5 ", 1), None, "000001.txt:1: occluded is 0.5, expected a whole number"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_field(
    tmp_path: Path, text: str, scored: bool | None, message: str
) -> None:
    file = tmp_path / "000001.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_objects(file, scored=scored)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_and_a_picture_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"000002\.txt: no such file"):
        read_objects(tmp_path / "000002.txt")
    (tmp_path / "000003.txt").write_bytes(b"\x89PNG\xff")
    with pytest.raises(DataError, match=r"000003\.txt: not a text file"):
        read_objects(tmp_path / "000003.txt")


@pytest.mark.parametrize("scored", [False, True])
def test_what_is_written_is_read_again(tmp_path: Path, scored: bool) -> None:
    random = np.random.default_rng(0)
    written = KittiObjects(
        ("Car", "Person_sitting", "DontCare"),
        random.uniform(0, 1, 3),
        np.array([0, 3, -1]),
        random.uniform(-3, 3, 3),
        random.uniform(0, 1200, (3, 4)),
        random.uniform(0, 10, (3, 3)),
        random.uniform(-70, 70, (3, 3)),
        random.uniform(-3, 3, 3),
        random.uniform(-9, 9, 3) if scored else None,
    )
    read = read_objects(write_objects(tmp_path / "000001.txt", written), scored=scored)
    assert read.names == written.names and read.occluded.tolist() == written.occluded.tolist()
    for field in ("truncated", "alpha", "boxes_2d", "dimensions", "locations", "rotations"):
        np.testing.assert_allclose(getattr(read, field), getattr(written, field), rtol=0, atol=5.1e-5)
    if read.scores is not None and written.scores is not None:
        np.testing.assert_allclose(read.scores, written.scores, rtol=0, atol=5.1e-7)
    assert len(read_objects(write_objects(tmp_path / "none.txt", written.take([])))) == 0


def test_objects_are_taken_by_mask_and_by_index(tmp_path: Path) -> None:
    file = tmp_path / "000001.txt"
    file.write_text(f"{LABEL}\n{REGION}\n", encoding="utf-8")
    objects = read_objects(file)
    assert objects.take(np.array([False, True])).names == ("DontCare",)
    assert objects.take([1, 0, 1]).occluded.tolist() == [-1, 1, -1]
    assert len(objects.take(np.zeros(2, bool))) == 0


def test_fields_of_other_lengths_are_refused() -> None:
    none = KittiObjects.empty()
    with pytest.raises(DataError, match=r"boxes_2d has the shape \(0, 4\), expected \(1, 4\) for 1 names"):
        KittiObjects(("Car",), [0], [0], [0], none.boxes_2d, [[1, 1, 1]], [[0, 0, 0]], [0])  # type: ignore[arg-type]


def test_bad_numbers_names_and_places_are_not_written(tmp_path: Path) -> None:
    good = KittiObjects(("Car",), [0], [0], [0], [[0, 0, 1, 1]], [[1, 1, 1]], [[0, 0, 9]], [0])  # type: ignore[arg-type]
    file = tmp_path / "000001.txt"
    with pytest.raises(StorageError, match=r"000001\.txt: cannot be written"):
        write_objects(tmp_path / "none" / "000001.txt", good)
    good.locations[0, 2] = np.nan
    with pytest.raises(DataError, match=r"000001\.txt:1: z is not a finite number"):
        write_objects(file, good)
    named = KittiObjects(("A car",), [0], [0], [0], [[0, 0, 1, 1]], [[1, 1, 1]], [[0, 0, 9]], [0])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"000001\.txt:1: type 'A car', expected one word"):
        write_objects(file, named)
    assert not file.exists()


@pytest.mark.samples
def test_the_real_labels_and_detections_are_read(samples: Path) -> None:
    root = samples / "kitti"
    objects = read_objects(root / "training" / "label_2" / "000001.txt", scored=False)
    assert objects.names[:3] == ("Truck", "Car", "Cyclist") and set(objects.names[3:]) == {"DontCare"}
    assert objects.locations[1].tolist() == [-16.53, 2.39, 58.49]
    found = read_objects(root / "predictions" / "000001.txt", scored=True)
    assert found.scores is not None and found.scores[:2].tolist() == [0.50, 0.39]

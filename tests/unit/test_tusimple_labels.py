"""TuSimple's label files: what is read and written, and what is refused with its line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slr_det.data.tusimple.labels import LaneRow, read_rows, write_rows
from slr_det.errors import DataError

GOOD = {"raw_file": "clips/a/20.jpg", "lanes": [[-2, 5, 7], [1, 2, -2]], "h_samples": [160, 170, 180]}


def write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines), encoding="utf-8")
    return path


def test_rows_are_read_as_they_are(tmp_path: Path) -> None:
    second = GOOD | {"raw_file": "clips/b/20.jpg", "lanes": [], "run_time": 12.5}
    rows = read_rows(write(tmp_path / "labels.json", GOOD, "", second, ""))
    assert [row.raw_file for row in rows] == ["clips/a/20.jpg", "clips/b/20.jpg"]
    assert rows[0].lanes.dtype == np.int64 and rows[0].lanes.tolist() == GOOD["lanes"]
    assert rows[0].h_samples.tolist() == GOOD["h_samples"]
    assert rows[1].lanes.shape == (0, 3)
    assert [row.run_time for row in rows] == [None, 12.5]
    assert [row.where for row in rows] == [f"{tmp_path / 'labels.json'}:{line}" for line in (1, 3)]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    heights = np.array([160, 170])
    rows = [
        LaneRow("a.jpg", np.array([[-2, 3], [4, 5]]), heights),
        LaneRow("b.jpg", np.zeros((0, 2), np.int64), heights, 8.25),
        LaneRow("c.jpg", np.array([[1.5, -2.0]]), heights, 10.0),
    ]
    file = write_rows(tmp_path / "found.json", rows)
    again = read_rows(file)
    for row, copy in zip(rows, again, strict=True):
        assert (row.raw_file, row.run_time) == (copy.raw_file, copy.run_time)
        assert row.lanes.dtype == copy.lanes.dtype or not len(row.lanes)
        assert np.array_equal(row.lanes, copy.lanes) and np.array_equal(row.h_samples, copy.h_samples)
    # As the benchmark's own files: whole numbers, and no run_time in a label.
    first, second, _ = map(json.loads, file.read_text().splitlines())
    assert first == {"raw_file": "a.jpg", "lanes": [[-2, 3], [4, 5]], "h_samples": [160, 170]}
    assert second["run_time"] == 8.25


def test_predictions_need_no_heights(tmp_path: Path) -> None:
    bare = {key: value for key, value in GOOD.items() if key != "h_samples"}
    file = write(tmp_path / "found.json", bare)
    (row,) = read_rows(file, predictions=True)
    assert row.lanes.tolist() == GOOD["lanes"] and row.h_samples.shape == (0,)
    with pytest.raises(DataError, match=r"found.json:1: no 'h_samples'"):
        read_rows(file)
    ragged = write(tmp_path / "ragged.json", bare | {"lanes": [[1, 2, 3], [1, 2]]})
    with pytest.raises(DataError, match=r"ragged.json:1: lane 2 has 2 points, lane 1 has 3"):
        read_rows(ragged, predictions=True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (json.dumps(GOOD)[:-9], "not valid JSON"),
        ("[1, 2]", "a JSON list, expected an object"),
        ({"lanes": [], "h_samples": [1]}, "no 'raw_file'"),
        ({"raw_file": "a.jpg", "h_samples": [1]}, "no 'lanes'"),
        (GOOD | {"raw_file": 7}, "raw_file is 7"),
        (GOOD | {"lanes": [[1, 2, 3], [1, 2]]}, "lane 2 has 2 points, h_samples has 3"),
        (GOOD | {"lanes": [1, 2, 3]}, "lane 1 is 1, expected a list of x"),
        (GOOD | {"lanes": "none"}, "lanes is 'none'"),
        (GOOD | {"lanes": [[1, 2, "x"]]}, "something else than numbers"),
        (GOOD | {"lanes": [[1, 2, float("nan")]]}, "something else than numbers"),
        (GOOD | {"lanes": [[1, 2, [3]]]}, "something else than numbers"),
        (GOOD | {"h_samples": []}, "h_samples is"),
        (GOOD | {"h_samples": [160, 170.5, 180]}, "h_samples is"),
        (GOOD | {"run_time": "fast"}, "run_time is 'fast'"),
        (GOOD | {"run_time": float("inf")}, "run_time is inf"),
    ],
)
def test_a_malformed_line_is_one_line_with_its_number(tmp_path: Path, line: object, expected: str) -> None:
    with pytest.raises(DataError) as error:
        read_rows(write(tmp_path / "labels.json", GOOD, line))
    assert str(error.value).startswith(f"{tmp_path / 'labels.json'}:2: {expected}") or (
        "something else" in expected and expected in str(error.value) and ":2: " in str(error.value)
    )
    assert "\n" not in str(error.value)


def test_a_missing_and_an_empty_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "none.json")
    with pytest.raises(DataError, match="no rows"):
        read_rows(write(tmp_path / "empty.json", ""))


def test_nothing_malformed_is_written(tmp_path: Path) -> None:
    heights = np.array([160, 170])
    for lanes, run_time in ((np.array([[1, 2, 3]]), 1.0), (np.array([[1, 2]]), float("nan"))):
        with pytest.raises(DataError, match=r"found.json:1: .*nothing was written"):
            write_rows(tmp_path / "found.json", [LaneRow("a.jpg", lanes, heights, run_time)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.samples
def test_the_real_files(samples: Path) -> None:
    rows = read_rows(samples / "tusimple" / "golden" / "label_data.json")
    assert len(rows) == 2858 and {row.lanes.shape for row in rows} == {(4, 48)}
    mini = read_rows(samples / "tusimple" / "mini" / "label_data_0601.json")
    assert [row.lanes.shape for row in mini] == [(4, 56)] * 3 + [(5, 56)]

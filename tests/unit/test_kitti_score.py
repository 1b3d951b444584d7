"""Folders of KITTI detections: which frames are evaluated, what is printed, what is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from kitti_scenes import LEVELS, objects, scenes

from slr_det.data.kitti.labels import write_objects
from slr_det.errors import DataError
from slr_det.metrics.kitti import score, score_folders, summary


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    truths, predictions = scenes(30, frames=4, objects=6, detections=8, odd=False)
    labels, found = tmp_path / "label_2", tmp_path / "found"
    for folder, frames in ((labels, truths), (found, predictions)):
        folder.mkdir()
        for index, frame in enumerate(frames):
            write_objects(folder / f"{index:06d}.txt", frame)
    return labels, found


def test_an_empty_prediction_file_counts_and_a_frame_without_one_does_not(tmp_path: Path) -> None:
    labels, found = tmp_path / "label_2", tmp_path / "found"
    labels.mkdir()
    found.mkdir()
    cars = [("Car", 10.0 * i) for i in range(20)]
    for index in range(4):
        write_objects(labels / f"{index:06d}.txt", objects(*cars))
        write_objects(found / f"{index:06d}.txt", objects(*cars, score=0.5 + index / 10))
    assert score_folders(labels, found)[0]["3d_R40"]["Car"]["easy"] == pytest.approx(100)
    for index in (0, 1):
        (found / f"{index:06d}.txt").write_text("\n", encoding="utf-8")
    result, frames = score_folders(labels, found)
    assert frames == 4 and result["3d_R40"]["Car"]["easy"] == pytest.approx(50)
    for index in (0, 1):
        (found / f"{index:06d}.txt").unlink()
        (labels / f"{index:06d}.txt").write_text("not looked at", encoding="utf-8")
    # Of 40 objects each is a level of recall of its own, the first of them for recall 0.
    result, frames = score_folders(labels, found)
    assert frames == 2 and result["3d_R40"]["Car"]["easy"] == pytest.approx(100 * 39 / 40)


def test_the_command_prints_json_or_a_table(folders: tuple[Path, Path]) -> None:
    lines: list[str] = []
    result = score(*folders, overlap="0.5", as_json=True, out=lines.append)
    assert json.loads("\n".join(lines)) == result == score_folders(*folders, "0.5")[0]
    lines.clear()
    score(*folders, overlap="loose", classes=["car"], out=lines.append)
    text = "\n".join(lines)
    assert "4 frames, overlaps 'loose'" in text and "Car (bbox 0.7, bev 0.5, 3d 0.5)" in text
    assert len([line for line in lines if line.startswith("  ")]) == 8
    loose = score_folders(*folders, "loose")[0]["3d_R40"]["Car"]
    (row,) = (line.split() for line in lines if line.startswith("  3d_R40"))
    assert row[1:] == [f"{loose[level]:.2f}" for level in LEVELS]


def test_the_table_says_why_orientation_is_left_out(folders: tuple[Path, Path]) -> None:
    labels, found = folders
    for file in found.iterdir():
        words = file.read_text(encoding="utf-8").split()
        rows = [words[i : i + 16] for i in range(0, len(words), 16)]
        file.write_text("\n".join(" ".join([*row[:3], "-10", *row[4:]]) for row in rows), encoding="utf-8")
    lines: list[str] = []
    score(labels, found, out=lines.append)
    assert "aos" in lines[-1] and "-10" in lines[-1]
    assert not any(line.startswith("  aos") for line in lines)


def test_a_summary_is_the_mean_over_the_classes(folders: tuple[Path, Path]) -> None:
    result, _ = score_folders(*folders)
    expected = {d: np.mean([row[d] for row in result["bev_R11"].values()]) for d in LEVELS}
    assert summary(result, "bev_R11") == pytest.approx(expected)
    assert summary(result) == summary(result, "3d_R40")


def test_folders_that_do_not_fit_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    labels, found = folders
    with pytest.raises(DataError, match=r"predictions .*nowhere: no such folder"):
        score_folders(labels, tmp_path / "nowhere")
    with pytest.raises(
        DataError, match=r"predictions .*: no \*\.txt file in it.*with such files are found, label_2"
    ):
        score_folders(labels, tmp_path)
    (found / "000009.txt").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"000009\.txt: no label file .*label_2.000009\.txt"):
        score_folders(labels, found)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Car 0 0 0 1 2 3 4 1.5 1.6 4 0 1.7 20 0", r"000001\.txt:9: 15 fields, expected 16"),
        ("Car 0 0 0 1 2 3 4 1.5 1.6 4 0 nan 20 0 0.5", r"000001\.txt:9: y is nan, expected a finite"),
        ("Car 0 0 0 1 2 3 4 1.5 1.6 4 0 1.7 20 0 high", r"000001\.txt:9: score is 'high', expected a"),
    ],
)
def test_a_malformed_prediction_is_named_by_file_and_line(
    folders: tuple[Path, Path], line: str, message: str
) -> None:
    labels, found = folders
    file = found / "000001.txt"
    file.write_text(file.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        score_folders(labels, found)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_validation_split_takes_less_than_a_minute(tmp_path: Path) -> None:
    truths, predictions = scenes(40, frames=3769, objects=8, detections=20)
    for name, frames in (("labels", truths), ("found", predictions)):
        (tmp_path / name).mkdir()
        for index, frame in enumerate(frames):
            write_objects(tmp_path / name / f"{index:06d}.txt", frame)
    start = time.perf_counter()
    _, count = score_folders(tmp_path / "labels", tmp_path / "found")
    assert count == 3769
    assert time.perf_counter() - start < 60

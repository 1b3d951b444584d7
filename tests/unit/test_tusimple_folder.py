"""Folders in TuSimple's layout: which rows a split has, converted lists, and what is missing or malformed."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tusimple_frames import HEIGHTS, folder, row, save

from slr_det.data.tusimple import LaneRow, TuSimpleFolder, read_rows, slot_marks, write_rows
from slr_det.data.tusimple.marks import read_marks
from slr_det.errors import ConfigError, DataError


def names(rows: list[LaneRow]) -> list[str]:
    return [r.raw_file.split("/")[1] + "/" + r.raw_file.split("/")[2] for r in rows]


def test_splits_come_from_the_names_of_label_files(tmp_path: Path) -> None:
    root = folder(tmp_path, label_data_0531=1, label_data_0313=2, label_data_val=1, test_label=2)
    opened = TuSimpleFolder.open(root)
    assert names(opened.split("train")) == ["label_data_0313/0", "label_data_0313/1", "label_data_0531/0"]
    assert names(opened.split("val")) == ["label_data_val/0"]
    assert names(opened.split("test")) == ["test_label/0", "test_label/1"]
    assert opened.image(opened.split("test")[1]) == root / "clips/test_label/1/20.jpg"
    (root / "label_data_val.json").unlink()
    assert names(opened.split("val")) == ["test_label/0", "test_label/1"]


def test_lists_choose_rows(tmp_path: Path) -> None:
    opened = TuSimpleFolder.open(folder(tmp_path, label_data_0313=4))
    (tmp_path / "val.txt").write_text("clips/label_data_0313/2/20.jpg\n\n", encoding="utf-8")
    assert names(opened.split("val")) == ["label_data_0313/2"]
    assert names(opened.split("train")) == [f"label_data_0313/{i}" for i in (0, 1, 3)]
    (tmp_path / "train.txt").write_text("clips/label_data_0313/3/20.jpg more words\n", encoding="utf-8")
    assert names(opened.split("train")) == ["label_data_0313/3"]
    (tmp_path / "val.txt").write_text("\nclips/label_data_0313/7/20.jpg\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"val.txt:2: clips/label_data_0313/7/20.jpg has no label \(did you"):
        opened.split("val")


def test_without_anything_to_validate_on_the_training_rows_are_used_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = TuSimpleFolder.open(folder(tmp_path, label_data_0313=2))
    with caplog.at_level(logging.WARNING):
        assert names(opened.split("val")) == names(opened.split("train"))
        opened.split("val")
    assert len(caplog.records) == 1 and "evaluating on the training rows" in caplog.text
    with pytest.raises(DataError, match=r"no test_label.json \(found clips, label_data_0313.json\)"):
        opened.split("test")
    with pytest.raises(ConfigError, match=r"split 'vall'.*did you mean 'val'"):
        opened.split("vall")


def test_the_folders_of_the_benchmarks_archives(tmp_path: Path) -> None:
    folder(tmp_path / "train_set", label_data_0313=1)
    folder(tmp_path / "test_set", test_label=1)
    (tmp_path / "test_set" / "test_label.json").rename(tmp_path / "test_label.json")
    opened = TuSimpleFolder.open(tmp_path)
    (train,), (test,) = opened.split("train"), opened.split("test")
    assert opened.image(train).is_relative_to(tmp_path / "train_set")
    assert opened.image(test).is_relative_to(tmp_path / "test_set")


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no labels \(it is empty\), expected clips/"):
        TuSimpleFolder.open(tmp_path)
    (tmp_path / "tusimple").mkdir()
    with pytest.raises(DataError, match=r"no such folder \(did you mean 'tusimple'\?\)"):
        TuSimpleFolder.open(tmp_path / "tusimpl")
    root = folder(tmp_path / "tusimple", label_data_0313=1)
    with pytest.raises(DataError, match=r"no train_gt.txt"):
        TuSimpleFolder.open(root, converted=True)


def convert(root: Path, stem: str, size: tuple[int, int] = (1280, 720)) -> None:
    """Write the list and the pictures of lanes that upstream's conversion writes."""
    lines = []
    for label in read_rows(root / f"{stem}.json"):
        name = label.raw_file[:-3] + "png"
        marks = Image.fromarray(slot_marks(label.lanes, label.h_samples))
        marks.resize(size, Image.Resampling.NEAREST).save(root / name)
        lines.append(f"/{label.raw_file} /{name} 1 1 1 1\n")
    (root / "train_gt.txt").write_text("".join(lines), encoding="utf-8")


def test_converted_lists_are_read_where_there_are_no_labels_or_on_demand(tmp_path: Path) -> None:
    root = folder(tmp_path, label_data_0313=2)
    convert(root, "label_data_0313")
    labels = TuSimpleFolder.open(root)
    lists = TuSimpleFolder.open(root, converted=True)
    assert not labels.converted and lists.converted
    for drawn, read in zip(labels.split("train"), lists.split("train"), strict=True):
        assert lists.image(read) == labels.image(drawn)
        assert read.segmentation is not None and np.array_equal(lists.marks(read), labels.marks(drawn))
    (root / "label_data_0313.json").unlink()
    assert TuSimpleFolder.open(root).converted
    with pytest.raises(DataError, match="no rows to evaluate on"):
        TuSimpleFolder.open(root).split("val")


def test_pictures_of_lanes_may_have_another_size(tmp_path: Path) -> None:
    root = folder(tmp_path, label_data_0313=1)
    convert(root, "label_data_0313", (640, 360))
    lists = TuSimpleFolder.open(root, converted=True)
    (read,) = lists.split("train")
    same = lists.marks(read) == TuSimpleFolder.open(root).marks(row(""))
    assert same.shape == (720, 1280) and same.mean() > 0.99
    convert(root, "label_data_0313", (640, 400))
    with pytest.raises(DataError, match="20.png: 640 x 400 pixels, expected the proportions of 1280 x 720"):
        lists.marks(read)


def test_malformed_converted_lists_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, label_data_0313=1)
    (root / "train_gt.txt").write_text("\nclips/label_data_0313/0/20.jpg\n", encoding="utf-8")
    lists = TuSimpleFolder.open(root, converted=True)
    with pytest.raises(DataError, match=r"train_gt.txt:2: 'clips/.*expected an image and the picture"):
        lists.split("train")
    (root / "train_gt.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="lists no image"):
        lists.split("train")
    (root / "train_gt.txt").write_text(
        "clips/label_data_0313/0/20.jpg clips/none.png 0 0 0 0", encoding="utf-8"
    )
    (read,) = lists.split("train")
    with pytest.raises(DataError, match=r"train_gt.txt:1: clips/none.png: no such picture of lanes"):
        lists.marks(read)
    for name, content, expected in (
        ("rgb", Image.new("RGB", (8, 8)), "a picture in RGB, expected one channel"),
        ("large", Image.new("L", (8, 8), 5), "a pixel is 5, expected the numbers of the lanes, 0 to 4"),
    ):
        content.save(root / f"{name}.png")
        with pytest.raises(DataError, match=f"{name}.png: {expected}"):
            read_marks(root / f"{name}.png", 4)
    (root / "cut.png").write_bytes((root / "rgb.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"cut.png: cannot be decoded"):
        read_marks(root / "cut.png", 4)


def many(root: Path, count: int, missing: int) -> TuSimpleFolder:
    """A folder whose frames share one picture by links, the last few without any."""
    save(root, "clips/one.jpg")
    for index in range(count - missing):
        (root / f"clips/{index}.jpg").symlink_to(root / "clips/one.jpg")
    write_rows(root / "label_data_0313.json", [row(f"clips/{i}.jpg") for i in range(count)])
    return TuSimpleFolder.open(root)


def test_training_goes_on_past_a_missing_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = many(tmp_path, 200, missing=2)
    with caplog.at_level(logging.WARNING):
        assert len(opened.split("train")) == 198
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2 and "label_data_0313.json:199: clips/198.jpg: no such image" in messages[0]
    with pytest.raises(DataError, match=r"label_data_0313.json:199: clips/198.jpg: no such image.*2 of 200"):
        opened.split("val")
    with pytest.raises(DataError, match="no such image"):
        opened.image(row("clips/nowhere.jpg"))


def test_many_missing_images_stop_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"label_data_0313.json:198: clips/197.jpg: .*3 of 200 images"):
        many(tmp_path, 200, missing=3).split("train")


def test_frames_without_lanes_are_kept_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path, label_data_0313=3)
    rows = read_rows(root / "label_data_0313.json")
    none, empty = np.zeros((0, 56), np.int64), np.full((2, 56), -2)
    rows[1:] = [LaneRow(r.raw_file, x, HEIGHTS) for r, x in zip(rows[1:], (none, empty), strict=True)]
    write_rows(root / "label_data_0313.json", rows)
    with caplog.at_level(logging.WARNING):
        assert len(TuSimpleFolder.open(root).split("train")) == 3
    (record,) = caplog.records
    assert (
        "label_data_0313.json:2: clips/label_data_0313/1/20.jpg has no lane, nor have 1 more"
        in record.getMessage()
    )


def test_malformed_labels_are_refused_with_their_line(tmp_path: Path) -> None:
    root = folder(tmp_path, test_label=2)
    with pytest.raises(DataError, match="no rows to train on"):
        TuSimpleFolder.open(root).split("train")
    rows = read_rows(root / "test_label.json")
    write_rows(root / "test_label.json", [*rows, rows[0]])
    with pytest.raises(DataError, match=r"test_label.json:3: .*again, already in .*test_label.json:1"):
        TuSimpleFolder.open(root).split("test")
    write_rows(root / "test_label.json", [LaneRow(rows[0].raw_file, rows[0].lanes, HEIGHTS + 200)])
    with pytest.raises(DataError, match=r"test_label.json:1: h_samples up to 910, expected below 720"):
        TuSimpleFolder.open(root).split("test")
    with (root / "test_label.json").open("a", encoding="utf-8") as file:
        file.write('{"raw_file": "clips/')
    with pytest.raises(DataError, match=r"test_label.json:2: not valid JSON"):
        TuSimpleFolder.open(root).split("test")

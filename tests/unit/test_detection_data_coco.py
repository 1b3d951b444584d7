"""Data in COCO's JSON: labels and links from it, a ground truth that is it, one line where it is malformed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from sample_sets import coco, load, sample, write_coco_set, write_image, write_json

from slr_det.data.detection import ground_truth, resolve
from slr_det.data.labels import label_file, read_labels, to_pixels
from slr_det.data.mirror import image_size
from slr_det.errors import DataError


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def coco_folder(tmp_path: Path) -> Path:
    return write_coco_set(tmp_path / "set")


def test_a_coco_folder_becomes_yolo_labels_and_links(coco_folder: Path, work: Path) -> None:
    said: list[str] = []
    file = resolve(coco_folder, workdir=work, say=said.append)
    data = load(file)
    assert data["names"] == {0: "car", 1: "dog", 2: "toothbrush"}
    root = Path(data["path"])
    assert root.is_relative_to(work)
    assert sorted(p.name for p in (root / data["train"]).iterdir()) == ["a.jpg", "b.png"]
    assert (root / data["val"] / "c.jpg").resolve() == coco_folder / "images" / "val2017" / "c.jpg"
    lines = (root / "labels" / "train" / "a.txt").read_text().splitlines()
    rows = [[float(v) for v in line.split()] for line in lines]
    # The dog; the car, clipped to [90, 100] x [0, 25]. The toothbrush lies outside, the second dog is a crowd.
    assert rows[0] == pytest.approx([1, 20.5 / 100, 20.25 / 50, 0.2, 0.6], abs=1e-6)
    assert rows[1] == pytest.approx([0, 0.95, 0.25, 0.1, 0.5], abs=1e-6)
    assert len(rows) == 2
    assert (root / "labels" / "train" / "b.txt").read_text() == ""
    assert [note.split(": ")[1] for note in said] == [
        "1 crowd regions, which count in the evaluation only",
        "1 boxes clipped to their image",
        "1 boxes dropped, which have no area inside their image",
    ]
    assert data["notes"] == said


def test_the_ground_truth_of_a_coco_folder_is_the_json_itself(coco_folder: Path, work: Path) -> None:
    file = resolve(coco_folder, workdir=work)
    original = json.loads((coco_folder / "annotations" / "instances_val2017.json").read_text())
    truth = ground_truth(file)
    assert truth.coco == original
    assert truth.coco["annotations"][0]["area"] == 77.5
    assert truth.category_id(2) == 90
    assert truth.image_id(Path(load(file)["path"]) / "images" / "val" / "c.jpg") == 5
    train = ground_truth(file, "train")
    assert [a["iscrowd"] for a in train.coco["annotations"]] == [0, 0, 0, 1]
    assert sorted(train.images.values()) == [7, 9]
    with pytest.raises(DataError, match="not in the ground truth of 1 images"):
        truth.image_id("elsewhere/c.jpg")
    with pytest.raises(DataError, match="class 3: the data have 3 classes"):
        truth.category_id(3)


def test_a_mirror_is_made_once_and_again_when_the_json_changes(coco_folder: Path, work: Path) -> None:
    first = resolve(coco_folder, workdir=work)
    stamp = first.stat().st_mtime_ns
    assert resolve(coco_folder, workdir=work) == first
    assert first.stat().st_mtime_ns == stamp
    json_file = coco_folder / "annotations" / "instances_val2017.json"
    content = json.loads(json_file.read_text())
    content["annotations"][0]["bbox"] = [0, 0, 32, 24]
    write_json(json_file, content)
    second = resolve(coco_folder, workdir=work)
    assert second != first
    assert (second.parent / "labels" / "val" / "c.txt").read_text().split() == [
        "2", "0.250000000", "0.250000000", "0.500000000", "0.500000000"
    ]  # fmt: skip
    assert [p.name for p in work.iterdir() if p.name.startswith(".")] == []


def test_a_work_folder_that_was_moved_is_made_anew(coco_folder: Path, work: Path, tmp_path: Path) -> None:
    before = resolve(coco_folder, workdir=work)
    work.rename(tmp_path / "moved")
    after = resolve(coco_folder, workdir=tmp_path / "moved")
    assert after.parent.name == before.parent.name
    assert load(after)["path"] == str(after.parent)


def test_notes_go_to_the_log_unless_taken(
    coco_folder: Path, work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="slr_det"):
        resolve(coco_folder, workdir=work)
        resolve(coco_folder, workdir=work)
    assert sum("crowd regions" in record.message for record in caplog.records) == 2


def test_one_json_serves_as_both_splits_and_says_so(coco_folder: Path, work: Path) -> None:
    said: list[str] = []
    file = resolve(coco_folder / "annotations" / "instances_val2017.json", workdir=work, say=said.append)
    assert ground_truth(file, "train").coco == ground_truth(file, "val").coco
    assert "only one split" in said[0]
    assert "seen images" in said[0]
    resolve(coco_folder / "annotations" / "instances_val2017.json", workdir=work, say=said.append)
    assert said[0] == said[1]


def test_equal_file_names_in_two_folders_stay_apart(tmp_path: Path, work: Path) -> None:
    for name, width in (("cam1/1.jpg", 30), ("cam2/1.jpg", 40), ("cam2/1.png", 50)):
        write_image(tmp_path / "images" / name, width, 30)
    boxes = [(1, 1, [0, 0, 15, 15]), (2, 1, [0, 0, 20, 15]), (3, 1, [0, 0, 25, 15])]
    content = coco(
        [(1, "cam1/1.jpg", 30, 30), (2, "cam2/1.jpg", 40, 30), (3, "cam2/1.png", 50, 30)], boxes, {1: "x"}
    )
    write_json(tmp_path / "annotations" / "all.json", content)
    file = resolve(tmp_path / "annotations" / "all.json", workdir=work, say=lambda note: None)
    truth = ground_truth(file)
    sizes = {i["id"]: i["width"] for i in truth.coco["images"]}
    assert len(truth.images) == 3
    for place, image_id in truth.images.items():
        assert image_size(Path(place)) == (sizes[image_id], 30)
        (label,) = read_labels(label_file(Path(place)))
        assert label.box == pytest.approx((0.25, 0.25, 0.5, 0.5))


def test_a_data_yaml_may_name_the_jsons_alone(coco_folder: Path, work: Path) -> None:
    write_json(coco_folder / "annotations" / "instances_train2014.json", "{}")
    with pytest.raises(DataError, match="2 files for 'train'.*train2014.*train2017"):
        resolve(coco_folder, workdir=work)
    chosen = coco_folder.parent / "coco2017.yaml"
    names = {split: f"annotations/instances_{split}2017.json" for split in ("train", "val")}
    chosen.write_text(yaml.safe_dump({"path": "set", "annotations": names}))
    assert ground_truth(resolve(chosen, workdir=work), "train").category_id(1) == 18


def test_roboflow_exports_are_understood(tmp_path: Path, work: Path) -> None:
    for split in ("train", "valid"):
        write_image(tmp_path / "set" / split / f"{split}.jpg", 20, 10)
        content = coco([(0, f"{split}.jpg", 20, 10)], [(0, 1, [0, 0, 10, 5])], {0: "all", 1: "bolt"})
        write_json(tmp_path / "set" / split / "_annotations.coco.json", content)
    file = resolve(tmp_path / "set", workdir=work)
    assert load(file)["names"] == {0: "all", 1: "bolt"}
    assert [i["file_name"] for i in ground_truth(file).coco["images"]] == ["valid.jpg"]


BOX = {"id": 4, "image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1]}


def change(folder: Path, split: str, **changes: Any) -> Path:
    file = folder / "annotations" / f"instances_{split}2017.json"
    write_json(file, {**json.loads(file.read_text()), **changes})
    return file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "the list 'images' is empty"),
        ({"categories": None}, "no list 'categories'"),
        ({"images": [{"id": 5}]}, "has no 'file_name'"),
        ({"images": [{"id": 5, "file_name": "c.jpg"}] * 2}, "images: the id 5 occurs twice"),
        ({"annotations": [{**BOX, "image_id": 6}]}, "annotation 4: image_id 6"),
        ({"annotations": [{**BOX, "category_id": 4}]}, "annotation 4: category_id 4"),
        ({"annotations": [{**BOX, "bbox": None}]}, "annotation 4: bbox None"),
        ({"annotations": [{**BOX, "bbox": [0, 0, "1", 1]}]}, "four finite numbers"),
        ({"annotations": [{**BOX, "image_id": None}]}, "has no 'image_id'"),
        ({"images": [{"id": 5, "file_name": "gone.jpg"}]}, r"image 'gone\.jpg' not found; looked in"),
        ({"images": [{"id": 5, "file_name": "c.jpg", "width": 48, "height": 64}]}, "is 48 x 64 pixels there.*64 x 48"),
        ({"categories": [{"id": 3, "name": "truck"}]}, "category 3 is 'truck', but 'car' in the other"),
        ({"categories": [{"id": "3", "name": "car"}]}, "expected a whole number"),
    ],
)  # fmt: skip
def test_a_malformed_json_is_named(
    coco_folder: Path, work: Path, changes: dict[str, Any], message: str
) -> None:
    file = change(coco_folder, "val", **changes)
    with pytest.raises(DataError, match=message) as caught:
        resolve(coco_folder, workdir=work)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not work.exists() or list(work.iterdir()) == []


def test_a_corrupt_json_is_named(coco_folder: Path, work: Path) -> None:
    file = coco_folder / "annotations" / "instances_val2017.json"
    write_json(file, file.read_text()[:-30])
    with pytest.raises(DataError, match=r"instances_val2017\.json: not valid JSON"):
        resolve(coco_folder, workdir=work)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"instances_val2017\.json: not a text file"):
        resolve(coco_folder, workdir=work)


def test_links_become_copies_where_there_are_none(
    coco_folder: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    root = resolve(coco_folder, workdir=work).parent
    copied = root / "images" / "val" / "c.jpg"
    assert not copied.is_symlink()
    assert copied.read_bytes() == (coco_folder / "images" / "val2017" / "c.jpg").read_bytes()


@pytest.mark.samples
def test_tiny_coco_of_the_samples(work: Path) -> None:
    folder = sample("coco/tiny")
    said: list[str] = []
    file = resolve(folder, workdir=work, say=said.append)
    data = load(file)
    assert (len(data["names"]), data["names"][79], data["category_ids"][79]) == (80, "toothbrush", 90)
    original = json.loads((folder / "annotations" / "instances_train2017.json").read_text())
    truth = ground_truth(file)
    assert truth.coco == original
    assert {Path(place).name: i for place, i in truth.images.items()} == {
        i["file_name"]: i["id"] for i in original["images"]
    }
    sizes = {i["id"]: (i["width"], i["height"]) for i in original["images"]}
    lines = 0
    for place, image_id in truth.images.items():
        labels = read_labels(label_file(Path(place)), 80)
        wanted = [a for a in original["annotations"] if a["image_id"] == image_id and not a["iscrowd"]]
        assert len(labels) == len(wanted)
        for label, a in zip(labels, wanted, strict=True):
            assert truth.category_id(label.index) == a["category_id"]
            assert to_pixels(label.box, *sizes[image_id]) == pytest.approx(a["bbox"], abs=0.011)
        lines += len(labels)
    assert lines == 284  # 288 annotations, 4 of them crowds
    assert any("4 crowd regions" in note for note in said)

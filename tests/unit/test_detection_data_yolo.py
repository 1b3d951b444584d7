"""Data in YOLO layout: names, splits and a ground truth out of folders of labels."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
from sample_sets import load, sample, write_image, write_yolo_set

from slr_det.data.detection import ground_truth, resolve
from slr_det.errors import DataError


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def yolo_folder(tmp_path: Path) -> Path:
    return write_yolo_set(tmp_path / "plain")


def test_a_yolo_folder_becomes_a_ground_truth(yolo_folder: Path, work: Path) -> None:
    before = sorted(yolo_folder.rglob("*"))
    file = resolve(yolo_folder, workdir=work)
    assert load(file)["names"] == {0: "ant", 1: "bee", 2: "cat"}
    truth = ground_truth(file, "train")
    assert [(i["id"], i["file_name"], i["width"], i["height"]) for i in truth.coco["images"]] == [
        (1, "a.jpg", 100, 50),
        (2, "b.jpg", 100, 50),
    ]
    assert [c["name"] for c in truth.coco["categories"]] == ["ant", "bee", "cat"]
    first, second = truth.coco["annotations"]
    assert (first["id"], first["image_id"], first["category_id"]) == (1, 1, truth.category_id(0))
    assert first["bbox"] == pytest.approx([40, 15, 20, 20], abs=1e-9)
    assert second["bbox"] == pytest.approx([0, 0, 50, 50], abs=1e-9)
    assert (first["area"], second["area"]) == pytest.approx((400, 2500))
    assert second["category_id"] == truth.category_id(2)
    assert sorted(yolo_folder.rglob("*")) == before


def test_the_ground_truth_agrees_with_itself_in_pycocotools(yolo_folder: Path, work: Path) -> None:
    pytest.importorskip("pycocotools", reason='needs the yolo extra: uv pip install "slr-det[yolo]"')
    from slr_det.metrics.coco import evaluate

    truth = ground_truth(resolve(yolo_folder, workdir=work), "train")
    perfect = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.5}
        for a in truth.coco["annotations"]
    ]
    assert evaluate(truth.coco, perfect).metrics["AP"] == pytest.approx(1.0)
    assert set(evaluate(truth.coco, perfect).per_class) == {"ant", "cat"}


def test_a_changed_label_makes_a_new_mirror(yolo_folder: Path, work: Path) -> None:
    first = resolve(yolo_folder, workdir=work)
    assert resolve(yolo_folder, workdir=work) == first
    (yolo_folder / "labels" / "train" / "b.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    second = resolve(yolo_folder, workdir=work)
    assert second != first
    assert len(ground_truth(second, "train").coco["annotations"]) == 3


def test_unnamed_classes_are_taken_for_cocos_and_said(yolo_folder: Path, work: Path) -> None:
    (yolo_folder / "classes.txt").unlink()
    said: list[str] = []
    names = load(resolve(yolo_folder, workdir=work, say=said.append))["names"]
    assert (len(names), names[0], names[79]) == (80, "person", "toothbrush")
    assert len(said) == 1
    assert "COCO's 80" in said[0]
    (yolo_folder / "labels" / "val" / "c.txt").write_text("80 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"up to class 80 and nothing names the classes; add classes\.txt"):
        resolve(yolo_folder, workdir=work)


def test_too_few_names_are_named(yolo_folder: Path, work: Path) -> None:
    (yolo_folder / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(DataError, match=r"classes\.txt: 2 names, but the labels go up to class 2"):
        resolve(yolo_folder, workdir=work)


def test_polygon_labels_have_the_polygons_area(yolo_folder: Path, work: Path) -> None:
    (yolo_folder / "labels" / "val" / "c.txt").write_text("1 0.1 0.2 0.5 0.2 0.1 0.8\n")
    (annotation,) = ground_truth(resolve(yolo_folder, workdir=work)).coco["annotations"]
    assert annotation["bbox"] == pytest.approx([10, 10, 40, 30])
    assert annotation["area"] == pytest.approx(40 * 30 / 2)
    assert annotation["segmentation"][0] == pytest.approx([10, 10, 50, 10, 10, 40])


def test_boxes_without_area_are_left_out_and_counted(
    yolo_folder: Path, work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (yolo_folder / "labels" / "val" / "c.txt").write_text("1 0.3 0.6 0 0.2\n1 0.3 0.6 0.1 0.2\n")
    file = resolve(yolo_folder, workdir=work)
    with caplog.at_level(logging.WARNING, logger="slr_det"):
        assert len(ground_truth(file).coco["annotations"]) == 1
    assert "1 boxes without area" in caplog.text


@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_other_yolo_layouts(tmp_path: Path, work: Path, layout: str) -> None:
    folder = tmp_path / "set"
    places = {
        "flat": [("images", "labels")],
        "nested": [(f"{s}/images", f"{s}/labels") for s in ("train", "valid")],
    }
    for number, (images, labels) in enumerate(places[layout]):
        write_image(folder / images / f"{number}.jpg", 20, 10)
        (folder / labels).mkdir(parents=True)
        (folder / labels / f"{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "classes.txt").write_text("only\n")
    said: list[str] = []
    file = resolve(folder, workdir=work, say=said.append)
    assert [i["file_name"] for i in ground_truth(file, "val").coco["images"]] == [
        "0.jpg" if layout == "flat" else "1.jpg"
    ]
    assert len(said) == (layout == "flat")


def test_images_without_any_label_file_are_no_data_set(yolo_folder: Path, work: Path) -> None:
    for file in (yolo_folder / "labels").rglob("*.txt"):
        file.unlink()
    with pytest.raises(DataError, match="no label file"):
        resolve(yolo_folder, workdir=work)
    for file in (yolo_folder / "images" / "val").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="no images for 'val'"):
        resolve(yolo_folder, workdir=work)


def test_a_broken_label_stops_before_training(yolo_folder: Path, work: Path) -> None:
    file = yolo_folder / "labels" / "train" / "a.txt"
    file.write_text("0 0.5 0.5\n")
    with pytest.raises(DataError, match="line 1") as caught:
        resolve(yolo_folder, workdir=work)
    assert str(file) in str(caught.value)


@pytest.mark.samples
def test_coco128_of_the_samples(work: Path) -> None:
    said: list[str] = []
    file = resolve(sample("coco/coco128"), workdir=work, say=said.append)
    truth = ground_truth(file)
    assert len(truth.coco["images"]) == 128
    assert len(truth.coco["annotations"]) == 929
    assert len(truth.coco["categories"]) == 80
    without = 128 - len({a["image_id"] for a in truth.coco["annotations"]})
    assert without == 2
    assert all(math.isfinite(v) for a in truth.coco["annotations"] for v in a["bbox"])
    assert len(said) == 2

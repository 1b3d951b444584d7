"""Data YAMLs, the generated shapes, and what is no data set at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from sample_sets import coco, load, write_json, write_yolo_set

from slr_det.data import shapes
from slr_det.data.detection import ground_truth, resolve
from slr_det.data.labels import read_labels
from slr_det.errors import DataError


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def yolo_folder(tmp_path: Path) -> Path:
    return write_yolo_set(tmp_path / "plain")


def data_yaml(folder: Path, **content: Any) -> Path:
    file = folder / "data.yaml"
    default = {"path": ".", "train": "images/train", "val": "images/val", "names": ["ant", "bee", "cat"]}
    document = {key: value for key, value in {**default, **content}.items() if value is not None}
    file.write_text(yaml.safe_dump(document))
    return file


def test_a_data_yaml_gets_absolute_paths(yolo_folder: Path, work: Path) -> None:
    source = data_yaml(yolo_folder, download="rm -rf everything", nc=3, kpt_shape=[17, 3], test="images/val")
    file = resolve(source, workdir=work)
    data = load(file)
    assert file.parent == work
    assert (data["train"], data["val"]) == (
        str(yolo_folder / "images/train"),
        str(yolo_folder / "images/val"),
    )
    assert data["test"] == data["val"]
    assert data["names"] == {0: "ant", 1: "bee", 2: "cat"}
    assert data["kpt_shape"] == [17, 3]
    assert "download" not in data
    truth = ground_truth(file, "val")
    assert truth.image_id(yolo_folder / "images" / "val" / "c.jpg") == 1
    assert ground_truth(source, "val").coco == truth.coco
    assert resolve(file, workdir=work) == file
    assert load(file) == data


def test_a_folder_with_a_data_yaml_is_that_data_yaml(yolo_folder: Path, work: Path) -> None:
    data_yaml(yolo_folder, names=["x", "y", "z"])
    (yolo_folder / "hyper.yaml").write_text("lr0: 0.1\n")
    assert load(resolve(yolo_folder, workdir=work))["names"][0] == "x"
    (yolo_folder / "data.yaml").rename(yolo_folder / "one.yaml")
    (yolo_folder / "two.yaml").write_text((yolo_folder / "one.yaml").read_text())
    with pytest.raises(DataError, match=r"2 data YAMLs: one\.yaml, two\.yaml"):
        resolve(yolo_folder, workdir=work)


def test_a_set_that_was_moved_is_found_beside_its_yaml(yolo_folder: Path, work: Path) -> None:
    file = resolve(data_yaml(yolo_folder, path="/nowhere/any/more", train="../images/train"), workdir=work)
    assert load(file)["train"] == str(yolo_folder / "images" / "train")


def test_lists_of_images_and_folders_are_followed(yolo_folder: Path, work: Path) -> None:
    (yolo_folder / "list.txt").write_text("./images/train/b.jpg\n./images/val/c.jpg\n")
    file = resolve(data_yaml(yolo_folder, train=["images/train", "images/val"], val="list.txt"), workdir=work)
    assert [i["file_name"] for i in ground_truth(file, "val").coco["images"]] == ["b.jpg", "c.jpg"]
    assert [i["file_name"] for i in ground_truth(file, "train").coco["images"]] == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_yaml_may_add_the_official_annotations(yolo_folder: Path, work: Path) -> None:
    truth = coco(
        [(31, "c.jpg", 100, 50), (32, "other.jpg", 10, 10)],
        [(31, 6, [25, 25, 10, 10]), (32, 4, [0, 0, 5, 5])],
        {4: "ant", 5: "cat", 6: "bee"},
        area=60.5,
    )
    write_json(yolo_folder / "truth.json", truth)
    file = resolve(data_yaml(yolo_folder, annotations={"val": "truth.json"}), workdir=work)
    found = ground_truth(file, "val")
    assert [found.category_id(i) for i in range(3)] == [4, 6, 5]  # by name, not by order
    assert found.image_id(yolo_folder / "images" / "val" / "c.jpg") == 31
    assert [(a["image_id"], a["area"]) for a in found.coco["annotations"]] == [(31, 60.5)]
    assert ground_truth(file, "train").coco["images"][0]["id"] == 1
    truth["categories"][0]["name"] = "aunt"
    write_json(yolo_folder / "truth.json", truth)
    with pytest.raises(DataError, match=r"no category 'ant'.*\(did you mean 'aunt'\?\)"):
        ground_truth(file, "val")
    truth["images"][0]["file_name"] = "d.jpg"
    truth["categories"][0]["name"] = "ant"
    write_json(yolo_folder / "truth.json", truth)
    with pytest.raises(DataError, match=r"image 'c\.jpg' of the data is not in it"):
        ground_truth(file, "val")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": "images/trian"}, "train: 'images/trian' does not exist in"),
        ({"val": ["images/val", "images/more"]}, "val: 'images/more' does not exist"),
        ({"train": None, "val": None}, "no 'train' and no 'val'"),
        ({"val": "labels/val"}, "val: no images in 'labels/val'"),
        ({"names": None}, "names: None, expected the list of classes"),
        ({"names": {1: "ant", 2: "bee"}}, r"names: keys \[1, 2\], expected 0 to 1"),
        ({"nc": 4}, "nc: 4, but names lists 3 classes"),
        ({"annotations": "truth.json"}, "annotations: 'truth.json', expected COCO JSONs by split"),
        ({"annotations": {"val": "truth.json"}}, "annotations: val: '.*truth.json' does not exist"),
    ],
)
def test_a_bad_data_yaml_is_named(
    yolo_folder: Path, work: Path, content: dict[str, Any], message: str
) -> None:
    source = data_yaml(yolo_folder, **content)
    with pytest.raises(DataError, match=message) as caught:
        resolve(source, workdir=work)
    assert str(source) in str(caught.value)


def test_a_yaml_of_one_split_says_so(yolo_folder: Path, work: Path) -> None:
    said: list[str] = []
    file = resolve(data_yaml(yolo_folder, val=None), workdir=work, say=said.append)
    assert load(file)["val"] == load(file)["train"]
    assert "only one split (train)" in said[0]


def test_a_split_that_is_not_there_is_named(yolo_folder: Path, work: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'tain' \(did you mean 'train'\?\); there are train, val"):
        ground_truth(data_yaml(yolo_folder), "tain")


def test_what_is_no_data_set_is_named(tmp_path: Path, work: Path) -> None:
    (tmp_path / "shapes.yaml").write_text("- a\n- b\n")
    with pytest.raises(
        DataError, match=r"shapes\.yml': no such file or folder \(did you mean 'shapes\.yaml'\?\)"
    ):
        resolve(tmp_path / "shapes.yml", workdir=work)
    with pytest.raises(DataError, match="did you mean 'shapes'"):
        resolve("shape", workdir=work)
    with pytest.raises(DataError, match=r"shapes\.yaml: expected a mapping"):
        resolve(tmp_path / "shapes.yaml", workdir=work)
    (tmp_path / "broken.yaml").write_text("a: [1,\nb: {")
    with pytest.raises(DataError, match=r"broken\.yaml: not valid YAML") as caught:
        resolve(tmp_path / "broken.yaml", workdir=work)
    assert "\n" not in str(caught.value)
    (tmp_path / "data.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"a file '\.csv', expected a \.yaml, a \.json or a folder"):
        resolve(tmp_path / "data.csv", workdir=work)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no data set; expected a data YAML"):
        resolve(tmp_path / "empty", workdir=work)


def test_the_shapes_are_a_data_set_like_any_other(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = shapes.build(tmp_path, images=(3, 2), size=64)
    monkeypatch.setattr(shapes, "build", lambda: file)
    assert resolve("shapes", workdir=work) == file
    truth = ground_truth(file, "val")
    original = json.loads((file.parent / "annotations" / "instances_val.json").read_text())
    assert truth.coco == original
    assert truth.image_id(file.parent / "images" / "val" / "val_000001.jpg") == 2
    # The COCO way and the YOLO way into the same data give the same boxes.
    (file.parent / "shapes.yaml").unlink()
    mirrored = resolve(file.parent, workdir=work)
    for name in ("val_000000.txt", "val_000001.txt"):
        ours = read_labels(file.parent / "labels" / "val" / name)
        theirs = read_labels(mirrored.parent / "labels" / "val" / name)
        assert [label.index for label in ours] == [label.index for label in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one.box == pytest.approx(other.box, abs=1e-6)

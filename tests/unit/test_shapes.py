"""The generated set: the same bytes every time, boxes that fit what is drawn, a valid COCO layout."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from slr_det.data import model_files
from slr_det.data.generated import cache_dir
from slr_det.data.labels import read_labels, to_pixels
from slr_det.data.render import (
    CLASSES,
    MIN_VISIBLE,
    RADIUS_RANGE,
    Shape,
    clip_polygon,
    draw_picture,
    outline,
    polygon_area,
)
from slr_det.data.shapes import build
from slr_det.errors import ConfigError, StorageError

SIZE = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("cache"), images=(12, 5), size=SIZE, seed=4).parent


def digest(folder: Path) -> dict[str, str]:
    # The data file holds the folder's own path.
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "shapes.yaml")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_same_seed_gives_the_same_bytes_elsewhere(folder: Path, tmp_path: Path) -> None:
    again = build(tmp_path, images=(12, 5), size=SIZE, seed=4).parent
    assert len(digest(folder)) == 2 * 17 + 2 + 1
    assert digest(again) == digest(folder)


def test_another_seed_gives_other_pictures_and_another_folder(folder: Path, tmp_path: Path) -> None:
    other = build(tmp_path, images=(12, 5), size=SIZE, seed=5).parent
    assert other.name != folder.name
    ours, theirs = digest(folder), digest(other)
    pictures = [name for name in ours if name.endswith(".jpg")]
    assert all(ours[name] != theirs[name] for name in pictures)


def test_a_larger_set_begins_with_the_smaller_one(folder: Path, tmp_path: Path) -> None:
    larger = digest(build(tmp_path, images=(14, 5), size=SIZE, seed=4).parent)
    ours = digest(folder)
    pictures = [name for name in ours if name.endswith((".jpg", ".txt")) and "README" not in name]
    assert len(pictures) == 34
    assert all(larger[name] == ours[name] for name in pictures)


def test_train_and_val_share_no_picture(folder: Path) -> None:
    hashes = [value for name, value in digest(folder).items() if name.endswith(".jpg")]
    assert len(set(hashes)) == 17


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_json_is_complete_coco(folder: Path, split: str) -> None:
    coco = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
    assert [c["name"] for c in coco["categories"]] == list(CLASSES)
    assert [c["id"] for c in coco["categories"]] == list(range(1, len(CLASSES) + 1))
    assert len({a["id"] for a in coco["annotations"]}) == len(coco["annotations"]) > 0
    assert min(a["id"] for a in coco["annotations"]) == 1
    files = sorted(p.name for p in (folder / "images" / split).iterdir())
    assert sorted(i["file_name"] for i in coco["images"]) == files
    for record in coco["images"]:
        with Image.open(folder / "images" / split / record["file_name"]) as image:
            assert (image.size, image.mode) == ((record["width"], record["height"]), "RGB")
    for a in coco["annotations"]:
        x, y, w, h = a["bbox"]
        xs, ys = np.array(a["segmentation"][0][0::2]), np.array(a["segmentation"][0][1::2])
        assert (xs.min(), ys.min()) == pytest.approx((x, y), abs=0.011)
        assert (xs.max(), ys.max()) == pytest.approx((x + w, y + h), abs=0.021)
        assert 0 < a["area"] <= w * h + 0.02
        assert min(x, y) >= 0
        assert max(x + w, y + h) <= SIZE + 0.011
        assert a["iscrowd"] == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_yolo_labels_are_the_boxes_of_the_json(folder: Path, split: str) -> None:
    coco = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
    for record in coco["images"]:
        labels = read_labels(
            (folder / "labels" / split / record["file_name"]).with_suffix(".txt"), len(CLASSES)
        )
        boxes = [to_pixels(label.box, SIZE, SIZE) for label in labels]
        wanted = [a for a in coco["annotations"] if a["image_id"] == record["id"]]
        assert [label.index + 1 for label in labels] == [a["category_id"] for a in wanted]
        for box, a in zip(boxes, wanted, strict=True):
            assert box == pytest.approx(
                a["bbox"], abs=0.011
            )  # a rounded box may reach out by half a hundredth


def test_pycocotools_reads_the_polygons_with_the_area_told(folder: Path) -> None:
    mask = pytest.importorskip(
        "pycocotools.mask", reason='needs the yolo extra: uv pip install "slr-det[yolo]"'
    )
    coco = json.loads((folder / "annotations" / "instances_train.json").read_text())
    seen = set()
    for a in coco["annotations"]:
        area = float(mask.area(mask.merge(mask.frPyObjects(a["segmentation"], SIZE, SIZE))))
        perimeter = 2 * (a["bbox"][2] + a["bbox"][3])
        assert abs(area - a["area"]) <= 0.5 * perimeter + 4, CLASSES[a["category_id"] - 1]
        seen.add(a["category_id"])
    assert len(seen) == len(CLASSES)


@pytest.mark.parametrize("label", range(len(CLASSES)), ids=CLASSES)
@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_boxes_and_areas_fit_the_drawn_mask(label: int, angle: float) -> None:
    size, radius, centre = 128, 30.0, np.array([70.3, 61.8])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shape = Shape(label, tuple(ring @ turn.T * radius + centre for ring in outline(CLASSES[label])))
    alpha = shape.alpha(size)
    x, y, w, h = shape.bbox(size)
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    # The covered pixels begin and end in the pixels that the box's sides fall into, or the next ones.
    assert columns[0] == pytest.approx(np.floor(x), abs=1)
    assert rows[0] == pytest.approx(np.floor(y), abs=1)
    assert columns[-1] == pytest.approx(np.floor(x + w), abs=1)
    assert rows[-1] == pytest.approx(np.floor(y + h), abs=1)
    covered = float(alpha.sum())
    assert covered == pytest.approx(polygon_area(shape.polygon(size)), rel=0.03)


def test_areas_of_the_outlines_in_closed_form() -> None:
    areas = {name: polygon_area(Shape(i, outline(name)).rings[0]) for i, name in enumerate(CLASSES)}
    assert areas["square"] == pytest.approx(1.7**2)
    assert areas["cross"] == pytest.approx(4 * 0.6 - 0.36)
    assert areas["triangle"] == pytest.approx(3 * np.sqrt(3) / 4 * 1.05**2)
    assert areas["circle"] == pytest.approx(32 * np.sin(2 * np.pi / 64))
    shifted = Shape(CLASSES.index("ring"), tuple(ring + 1.5 for ring in outline("ring")))
    assert polygon_area(shifted.polygon(3)) == pytest.approx(areas["circle"] * (1 - 0.52**2))


def test_a_polygon_is_clipped_to_the_picture() -> None:
    square = np.array([[-5.0, 2.0], [5.0, 2.0], [5.0, 12.0], [-5.0, 12.0]])
    clipped = clip_polygon(square, 10.0)
    assert polygon_area(clipped) == pytest.approx(5 * 8)
    assert clipped.min() == 0.0
    assert clipped.max() == 10.0
    assert len(clip_polygon(square - 100.0, 10.0)) == 0
    inside = np.array([[1.0, 1.0], [3.0, 1.0], [2.0, 4.0]])
    assert clip_polygon(inside, 10.0) is inside


def test_objects_stay_visible_and_vary() -> None:
    sides, counts, labels = [], set(), set()
    for i in range(40):
        _, shapes = draw_picture(np.random.default_rng([9, i]), SIZE)
        hidden = np.zeros((SIZE, SIZE), dtype=bool)
        counts.add(len(shapes))
        for shape in reversed(shapes):  # front to back
            cover = shape.alpha(SIZE) >= 0.5
            assert (cover & ~hidden).sum() >= MIN_VISIBLE * cover.sum()
            hidden |= cover
            sides.append(max(shape.bbox(SIZE)[2:]))
            labels.add(shape.label)
    assert labels == set(range(len(CLASSES)))
    assert counts >= {1, 2, 3, 4}
    assert min(sides) < 2.6 * RADIUS_RANGE[0] * SIZE
    assert max(sides) > 1.7 * RADIUS_RANGE[1] * SIZE


def test_objects_stand_off_from_what_is_behind() -> None:
    """A picture differs from the one without its objects wherever an object is."""
    picture, shapes = draw_picture(np.random.default_rng(3), SIZE)
    pixels = np.asarray(picture, dtype=np.float32)
    front = shapes[-1].alpha(SIZE) >= 0.99
    assert pixels.shape == (SIZE, SIZE, 3)
    assert pixels.std() > 10
    border = (shapes[-1].alpha(SIZE) == 0) & _near(front, 4)
    assert np.linalg.norm(pixels[front].mean(axis=0) - pixels[border].mean(axis=0)) > 25


def _near(mask: np.ndarray, steps: int) -> np.ndarray:
    for _ in range(steps):
        mask = mask | np.roll(mask, 1, 0) | np.roll(mask, -1, 0) | np.roll(mask, 1, 1) | np.roll(mask, -1, 1)
    return mask


def test_a_finished_set_is_not_made_again(folder: Path) -> None:
    stamp = (folder / "annotations" / "instances_train.json").stat().st_mtime_ns
    assert build(folder.parent, images=(12, 5), size=SIZE, seed=4).parent == folder
    assert (folder / "annotations" / "instances_train.json").stat().st_mtime_ns == stamp


def test_path_follows_a_cache_that_was_moved(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, moved)
    assert yaml.safe_load((moved / "shapes.yaml").read_text())["path"] == str(folder)
    file = build(moved.parent, images=(12, 5), size=SIZE, seed=4)
    assert file == moved / "shapes.yaml"
    assert yaml.safe_load(file.read_text())["path"] == str(moved)


def test_two_builders_at_once_leave_one_whole_set(folder: Path, tmp_path: Path) -> None:
    results: list[Path] = []
    threads = [
        threading.Thread(target=lambda: results.append(build(tmp_path, images=(12, 5), size=SIZE, seed=4)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]
    assert results == [tmp_path / folder.name / "shapes.yaml"] * 2
    assert digest(tmp_path / folder.name) == digest(folder)


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def draw(*args: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw_picture(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("slr_det.data.shapes.draw_picture", draw)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, images=(4, 1), size=64)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLR_DET_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    assert build(images=(1, 1), size=64).is_relative_to(tmp_path / "mine")
    monkeypatch.delenv("SLR_DET_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache_dir() == tmp_path / "home" / ".cache" / "slr_det"


def test_all_wrong_arguments_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        build(tmp_path, images=(0, 5), size=32, seed=-1)
    assert len(caught.value.problems) == 3
    assert "0 train pictures" in str(caught.value)
    assert "32 pixels" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="SLR_DET_CACHE"):
        build(tmp_path / "file" / "cache", images=(1, 1), size=64)


def test_the_slim_model_ships_with_the_classes_of_the_set() -> None:
    files = {file.name: file for file in model_files()}
    assert yaml.safe_load(files["yolov3-tiny-slim.yaml"].read_text())["nc"] == len(CLASSES)

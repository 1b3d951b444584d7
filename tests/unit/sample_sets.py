"""Where the real sample data lie, and small data sets written on the spot."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def sample(name: str) -> Path:
    """A file or folder of the real samples; skips the test where they are not at hand."""
    root = Path(os.environ.get("SLR_DET_SAMPLES") or ROOT.parent / "shared" / "data")
    if not (root / name).exists():
        pytest.skip(f"needs the sample data '{name}': set SLR_DET_SAMPLES to their folder (looked in {root})")
    return root / name


def write_image(path: Path, width: int, height: int, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, dtype=np.uint8)).save(path, **options)
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def coco(
    images: list[tuple[int, str, int, int]],
    boxes: list[tuple[int, int, list[float]]],
    categories: dict[int, str],
    **every: Any,
) -> dict[str, Any]:
    """A COCO ground truth of (id, file, width, height) images and (image, category, box) annotations."""
    return {
        "images": [{"id": i, "file_name": f, "width": w, "height": h} for i, f, w, h in images],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0, **every}
            for n, (i, c, b) in enumerate(boxes, start=1)
        ],
        "categories": [{"id": i, "name": name} for i, name in categories.items()],
    }


def load(file: Path) -> dict[str, Any]:
    content = yaml.safe_load(file.read_text())
    assert isinstance(content, dict)
    return content


def write_coco_set(folder: Path) -> Path:
    """COCO layout with two splits, gaps in the ids, a crowd, a box that reaches out and one that lies outside."""
    write_image(folder / "images" / "train2017" / "a.jpg", 100, 50)
    write_image(folder / "images" / "train2017" / "b.png", 40, 40)
    write_image(folder / "images" / "val2017" / "c.jpg", 64, 48)
    train = coco(
        [(7, "a.jpg", 100, 50), (9, "b.png", 40, 40)],
        [
            (7, 18, [10.5, 5.25, 20, 30]),
            (7, 3, [90, -5, 40, 30]),
            (7, 90, [200, 0, 10, 10]),
            (7, 18, [0, 0, 5, 5]),
        ],
        {3: "car", 18: "dog", 90: "toothbrush"},
    )
    train["annotations"][3].update(iscrowd=1, segmentation={"size": [50, 100], "counts": [0, 25, 4975]})
    write_json(folder / "annotations" / "instances_train2017.json", train)
    val = coco(
        [(5, "c.jpg", 64, 48)], [(5, 90, [1, 2, 30, 40])], {3: "car", 18: "dog", 90: "toothbrush"}, area=77.5
    )
    write_json(folder / "annotations" / "instances_val2017.json", val)
    write_json(folder / "annotations" / "captions_val2017.json", {"annotations": []})
    return folder


def write_yolo_set(folder: Path) -> Path:
    """YOLO layout with two splits; one image has no label file."""
    for name in ("train/a", "train/b", "val/c"):
        write_image(folder / "images" / f"{name}.jpg", 100, 50)
    for name, text in (
        ("train/a", "0 0.5 0.5 0.2 0.4\n2 0.25 0.5 0.5 1\n"),
        ("val/c", "1 0.3 0.6 0.1 0.2\n"),
    ):
        file = folder / "labels" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "classes.txt").write_text("ant\nbee\ncat\n")
    return folder

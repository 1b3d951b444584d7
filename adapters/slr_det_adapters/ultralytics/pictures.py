"""Photographs with true and predicted boxes, dense against pruned."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from slr_det.adapter import EvalJob, Picture
from slr_det.data.pictures import decode
from slr_det.data.truth import ground_truth
from slr_det.errors import DataError
from slr_det.plots.boxes import CAPTION, LOOKED_AT, PICTURES, SCORE, draw_boxes, instructive
from slr_det_adapters.ultralytics.models import load_native
from slr_det_adapters.ultralytics.offline import load_ultralytics

_PASSED_ON = frozenset({"iou", "max_det", "agnostic_nms"})


def illustrate(models: Mapping[str, str], job: EvalJob, folder: Path) -> list[Picture]:
    """Draw validation images with many objects, one panel per model."""
    truth = ground_truth(job.data, str(job.args.get("split", "val")))
    files = list(truth.images.items())[:LOOKED_AT]
    boxes: dict[Any, list[list[float]]] = defaultdict(list)
    for annotation in truth.coco["annotations"]:
        x, y, width, height = annotation["bbox"]
        boxes[annotation["image_id"]].append([x, y, x + width, y + height])
    counts = Counter({image: len(rows) for image, rows in boxes.items()})
    ranked = [files[index] for index in instructive((counts[image] for _, image in files), len(files))]
    chosen = list(islice(_readable(ranked), PICTURES))
    paths = [file for file, _, _ in chosen]
    found = {name: _detect(path, paths, job) for name, path in models.items()}
    names = {category["id"]: str(category["name"]) for category in truth.coco["categories"]}
    classes = [names[category] for category in truth.categories]
    drawn = []
    for number, (file, image, picture) in enumerate(chosen):
        key = f"boxes_{number + 1}"
        predictions = {name: rows[number] for name, rows in found.items()}
        draw_boxes(picture, boxes[image], predictions, classes, folder / f"{key}.png")
        drawn.append(Picture(key, f"{key}.png", f"Image {Path(file).name}", CAPTION))
    return drawn


def _readable(files: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any, Image.Image]]:
    """The images with their pixels, without those that the trainer has left out as well."""
    for file, image in files:
        try:
            yield file, image, ImageOps.exif_transpose(decode(file)).convert("RGB")
        except DataError:
            continue


def _detect(model: str, files: list[str], job: EvalJob) -> list[tuple[Any, Any, Any]]:
    """Boxes, scores and class indices of each file."""
    load_native(model)
    yolo = load_ultralytics().YOLO(model)
    args = {key: value for key, value in job.args.items() if key in _PASSED_ON}
    size = job.args.get("imgsz", yolo.overrides.get("imgsz", 640))
    found = []
    for file in files:  # one by one: images of several shapes would be made one shape in a batch
        (result,) = yolo.predict(
            file, conf=SCORE, imgsz=size, device=job.device or None, verbose=False, save=False, **args
        )
        rows = result.boxes
        found.append((rows.xyxy.cpu().numpy(), rows.conf.cpu().numpy(), rows.cls.cpu().numpy()))
    return found

"""COCO average precision by pycocotools: the twelve official numbers, per class, and thresholds on them."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slr_det.errors import ConfigError, DataError, MissingExtraError, nearest

STATS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
METRIC_ALIASES = {"map": "AP", "map50": "AP50", "map75": "AP75"}
IOU_TYPES = ("bbox", "segm")
# pycocotools' own wording, in the order of STATS: title, short title, IoU, area, maxDets.
_LINES = (
    ("Average Precision", "(AP)", "0.50:0.95", "all", 100),
    ("Average Precision", "(AP)", "0.50", "all", 100),
    ("Average Precision", "(AP)", "0.75", "all", 100),
    ("Average Precision", "(AP)", "0.50:0.95", "small", 100),
    ("Average Precision", "(AP)", "0.50:0.95", "medium", 100),
    ("Average Precision", "(AP)", "0.50:0.95", "large", 100),
    ("Average Recall", "(AR)", "0.50:0.95", "all", 1),
    ("Average Recall", "(AR)", "0.50:0.95", "all", 10),
    ("Average Recall", "(AR)", "0.50:0.95", "all", 100),
    ("Average Recall", "(AR)", "0.50:0.95", "small", 100),
    ("Average Recall", "(AR)", "0.50:0.95", "medium", 100),
    ("Average Recall", "(AR)", "0.50:0.95", "large", 100),
)


@dataclass(frozen=True)
class CocoResult:
    """What an evaluation found.

    Attributes:
        metrics: The twelve numbers by name, in [0, 1]; -1 where there is nothing to measure (no object of that
            size), as pycocotools has it.
        per_class: ``{"AP": ..., "AP50": ...}`` by class name; None where a class has no object.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float | None]]

    def text(self) -> str:
        """The twelve lines that pycocotools prints."""
        return "\n".join(
            f" {title:<18} {short} @[ IoU={iou:<9} | area={area:>6s} | maxDets={limit:>3d} ] = {value:0.3f}"
            for (title, short, iou, area, limit), value in zip(_LINES, self.metrics.values(), strict=True)
        )


def evaluate(
    truth: Mapping[str, Any] | str | Path,
    detections: Sequence[Mapping[str, Any]] | str | Path,
    iou: str = "bbox",
) -> CocoResult:
    """Score detections over all images of the ground truth.

    Args:
        truth: COCO ground truth (``images``, ``annotations``, ``categories``), or its file.
        detections: COCO results: ``image_id``, ``category_id``, ``score`` and ``bbox`` (x, y, width, height in
            pixels) or ``segmentation``; or their file. None at all scores zero.
        iou: ``bbox`` or ``segm``.

    Raises:
        DataError: A file or entry is malformed, or a detection names an unknown image or category.
        MissingExtraError: pycocotools is not installed.
    """
    if iou not in IOU_TYPES:
        raise ConfigError(f"iou is '{iou}', expected one of {', '.join(IOU_TYPES)}")
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            'COCO scores need pycocotools; install it with: uv pip install "slr-det[yolo]"'
        ) from error
    origin = str(detections) if isinstance(detections, str | Path) else "detections"
    ground, found = _truth(truth), _detections(detections)
    _check(ground, found, iou, origin)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = ground
        reference.createIndex()
        evaluator = COCOeval(reference, _results(reference, found, origin), iou)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    metrics = dict(zip(STATS, (float(value) for value in evaluator.stats), strict=True))
    return CocoResult(metrics, _per_class(evaluator, ground))


def score(annotations: str, predictions: str, iou: str = "bbox", as_json: bool = False) -> CocoResult:
    """Score a result file and print the twelve numbers, or everything at full precision as JSON."""
    result = evaluate(annotations, predictions, iou)
    print(
        json.dumps({**result.metrics, "per_class": result.per_class}, indent=1) if as_json else result.text()
    )
    return result


def check_minimum(metrics: Mapping[str, Any], minimum: Mapping[str, float]) -> list[str]:
    """Say which metrics are below their threshold.

    Args:
        metrics: Metrics by name, in [0, 1].
        minimum: Thresholds by metric name; ``map``, ``map50`` and ``map75`` stand for AP, AP50 and AP75.

    Returns:
        One sentence for each that is below.

    Raises:
        ConfigError: A threshold names no metric.
    """
    known = {name for name, value in metrics.items() if isinstance(value, int | float)}
    failures, unknown = [], []
    for name, threshold in minimum.items():
        key = METRIC_ALIASES.get(name, name)
        if key not in known:
            unknown.append(f"--min: no metric '{name}'{nearest(name, known | METRIC_ALIASES.keys())}")
        elif not metrics[key] >= threshold:
            failures.append(f"{name} is {metrics[key]:.4f}, below the minimum of {threshold:g}")
    if unknown:
        raise ConfigError(unknown)
    return failures


def _read(path: str | Path, what: str) -> Any:
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{what} file '{path}' does not exist")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path}: is not readable as JSON ({str(error).splitlines()[0]})") from error


def _truth(truth: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    origin = str(truth) if isinstance(truth, str | Path) else "ground truth"
    content = _read(truth, "annotations") if isinstance(truth, str | Path) else truth
    if not isinstance(content, Mapping):
        raise DataError(
            f"{origin}: is a JSON {type(content).__name__}, expected COCO's images, annotations, categories"
        )
    missing = [
        key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)
    ]
    if missing:
        raise DataError(
            f"{origin}: has no list '{missing[0]}'; expected COCO's images, annotations, categories"
        )
    for number, annotation in enumerate(content["annotations"]):
        for key in ("image_id", "category_id", "bbox"):
            if not isinstance(annotation, Mapping) or key not in annotation:
                raise DataError(f"{origin}: annotation {number} has no '{key}'")
    # pycocotools needs an id, an area and a crowd flag for each, and older exports leave them out.
    annotations = [
        {"iscrowd": 0, "area": a["bbox"][2] * a["bbox"][3], **a, "id": a.get("id", number + 1)}
        for number, a in enumerate(content["annotations"])
    ]
    return {**content, "annotations": annotations}


def _detections(detections: Sequence[Mapping[str, Any]] | str | Path) -> list[Mapping[str, Any]]:
    content = _read(detections, "predictions") if isinstance(detections, str | Path) else detections
    if isinstance(content, Mapping) or not isinstance(content, Sequence):
        raise DataError(f"{detections}: expected a JSON list of detections, found a {type(content).__name__}")
    return list(content)


def _check(truth: Mapping[str, Any], found: Sequence[Mapping[str, Any]], iou: str, origin: str) -> None:
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    shape = "bbox" if iou == "bbox" else "segmentation"
    for number, item in enumerate(found):
        where = f"{origin}: detection {number}"
        for key in ("image_id", "category_id", "score", shape):
            if not isinstance(item, Mapping) or key not in item:
                raise DataError(f"{where} has no '{key}'")
        if item["image_id"] not in images:
            raise DataError(
                f"{where} is for image {item['image_id']!r}, which the ground truth does not have"
            )
        if item["category_id"] not in categories:
            raise DataError(
                f"{where} is of category {item['category_id']!r}, which the ground truth does not have"
            )
        if not isinstance(item["score"], int | float) or not math.isfinite(item["score"]):
            raise DataError(f"{where} has score {item['score']!r}, expected a finite number")
        if iou == "bbox" and not (len(item["bbox"]) == 4 and all(math.isfinite(v) for v in item["bbox"])):
            raise DataError(
                f"{where} has bbox {item['bbox']!r}, expected four finite numbers: x, y, width, height"
            )


def _results(reference: Any, found: list[Mapping[str, Any]], origin: str) -> Any:
    from pycocotools.coco import COCO

    if found:
        try:
            return reference.loadRes([dict(item) for item in found])
        except (AssertionError, KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(
                f"{origin}: is not a COCO result list ({error or type(error).__name__})"
            ) from error
    # loadRes cannot take an empty list.
    empty = COCO()
    empty.dataset = {key: reference.dataset[key] for key in ("images", "categories")} | {"annotations": []}
    empty.createIndex()
    return empty


def _per_class(evaluator: Any, truth: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    precision = evaluator.eval["precision"]  # (IoU, recall, class, area, maxDets)
    names = {category["id"]: str(category.get("name", category["id"])) for category in truth["categories"]}
    half = int(np.argmin(np.abs(evaluator.params.iouThrs - 0.5)))
    result: dict[str, dict[str, float | None]] = {}
    for index, category in enumerate(evaluator.params.catIds):
        values = precision[:, :, index, 0, -1]
        result[names[category]] = {"AP": _mean(values), "AP50": _mean(values[half])}
    return result


def _mean(values: np.ndarray[Any, Any]) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None

"""How good are these detections by COCO's measure? AP and AR by pycocotools, overall and per class."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slr_det.data.reading import load_json
from slr_det.errors import ConfigError, MissingExtraError, nearest
from slr_det.metrics.coco_input import check_detections, complete_truth

#: The twelve official numbers, in the order in which pycocotools prints them.
STATS: tuple[str, ...] = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR1",
    "AR10",
    "AR100",
    "AR_small",
    "AR_medium",
    "AR_large",
)

#: What detection users call the same numbers.
METRIC_ALIASES: dict[str, str] = {"map50": "AP50", "map": "AP", "map75": "AP75"}


@dataclass(frozen=True)
class CocoResult:
    """The outcome of an evaluation.

    Attributes:
        metrics: The twelve official numbers by the names in ``STATS``, in [0, 1]; -1 where the ground truth has no
            object in that range, as in pycocotools.
        per_class: ``{"class name": {"AP": ..., "AP50": ...}}`` for the categories that occur in the ground truth.
        lines: The text that pycocotools prints, one string a number.
        iou: "bbox" or "segm".
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    lines: tuple[str, ...]
    iou: str

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers at full precision as JSON-able data."""
        return {"iou": self.iou, "metrics": dict(self.metrics), "per_class": self.per_class}


def evaluate(
    truth: Mapping[str, Any] | str | Path,
    detections: Sequence[Mapping[str, Any]] | str | Path,
    iou: str = "bbox",
) -> CocoResult:
    """Evaluate detections on every image of a ground truth.

    Args:
        truth: A COCO ground truth, as the parsed JSON or the path of the file. It is not changed.
        detections: A COCO result list, or the path of one: per detection ``image_id``, ``category_id``, ``score`` and
            ``bbox`` ([x, y, width, height] in pixels) or ``segmentation`` (polygons or RLE). Images without
            detections count as images on which nothing was found; an empty list scores 0.
        iou: "bbox" or "segm".

    Raises:
        DataError: a file is missing or malformed, a detection names an unknown image or category, or has a score or
            box that is not a finite number, or lacks what ``iou`` compares.
        ConfigError: another ``iou``.
        MissingExtraError: pycocotools is not installed.
    """
    if iou not in ("bbox", "segm"):
        raise ConfigError(f"iou: '{iou}', expected 'bbox' or 'segm'{nearest(iou, ('bbox', 'segm'))}")
    coco_class, coco_eval_class, mask_api = _pycocotools()
    truth_name = str(truth) if isinstance(truth, str | Path) else "ground truth"
    found_name = str(detections) if isinstance(detections, str | Path) else "detections"
    dataset = complete_truth(load_json(truth) if isinstance(truth, str | Path) else truth, truth_name, iou)
    found = load_json(detections) if isinstance(detections, str | Path) else detections
    results = check_detections(found, found_name, dataset, truth_name, iou, mask_api)

    printed = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        coco_truth = coco_class()
        coco_truth.dataset = dataset
        coco_truth.createIndex()
        if results:
            coco_found = coco_truth.loadRes(results)
        else:  # loadRes looks at the first result
            coco_found = coco_class()
            coco_found.dataset = {**dataset, "annotations": []}
            coco_found.createIndex()
        run = coco_eval_class(coco_truth, coco_found, iou)
        run.evaluate()
        run.accumulate()
        with contextlib.redirect_stdout(printed):
            run.summarize()
    names = {c["id"]: str(c["name"]) for c in dataset["categories"]}
    return CocoResult(
        metrics={name: float(value) for name, value in zip(STATS, run.stats, strict=True)},
        per_class=_per_class(run, names),
        lines=tuple(line for line in printed.getvalue().splitlines() if line.strip()),
        iou=iou,
    )


def score(
    annotations: str | Path,
    predictions: str | Path,
    iou: str = "bbox",
    as_json: bool = False,
    out: Callable[[str], object] = print,
) -> CocoResult:
    """Score a COCO result file against a COCO ground truth file and print the twelve official numbers.

    Args:
        annotations: Ground truth JSON.
        predictions: Result JSON (a list of detections).
        iou: "bbox" or "segm".
        as_json: Print one JSON object with full precision and the numbers per class instead of pycocotools' lines.
        out: Where each line of text goes.

    Raises:
        As :func:`evaluate`.
    """
    result = evaluate(annotations, predictions, iou)
    if as_json:
        out(json.dumps(result.to_dict(), indent=2))
    else:
        for line in result.lines:
            out(line)
    return result


def _pycocotools() -> tuple[Any, Any, Any]:
    try:
        from pycocotools import mask
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingExtraError('COCO metrics need pycocotools: pip install "slr-det[yolo]"') from error
    return COCO, COCOeval, mask


def _per_class(run: Any, names: Mapping[Any, str]) -> dict[str, dict[str, float]]:
    # precision: IoU thresholds x recall levels x categories x areas x detection limits; -1 marks a class without truth.
    precision = run.eval["precision"][:, :, :, 0, -1]
    half = [i for i, threshold in enumerate(run.params.iouThrs) if math.isclose(threshold, 0.5)]
    table = {}
    for k, category in enumerate(run.params.catIds):
        if (precision[:, :, k] > -1).any():
            name = names[category]
            key = name if list(names.values()).count(name) == 1 else f"{name} ({category})"
            table[key] = {"AP": float(precision[:, :, k].mean()), "AP50": float(precision[half, :, k].mean())}
    return table

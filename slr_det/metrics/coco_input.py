"""Checks COCO ground truths and results, and brings them into the one form that pycocotools takes without failing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from slr_det.errors import DataError


def complete_truth(truth: object, name: str, iou: str) -> dict[str, Any]:
    """Copy a ground truth and fill in what pycocotools takes for granted.

    Args:
        truth: Parsed COCO JSON.
        name: What error messages call it.
        iou: "bbox" or "segm"; annotations need a segmentation for the latter.

    Raises:
        DataError: naming the entry that is missing or malformed.
    """
    if not isinstance(truth, Mapping):
        raise DataError(
            f"{name}: a {type(truth).__name__}, expected an object with images, annotations, categories"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(truth.get(key), list):
            raise DataError(
                f"{name}: no list '{key}'; expected a COCO ground truth (images, annotations, categories)"
            )
    images, categories = _ids(truth, "images", name), _ids(truth, "categories", name)
    annotations = []
    # Numbered anew: pycocotools takes a match with the id 0 for no match, and repeated ids overwrite each other.
    for number, annotation in enumerate(truth["annotations"], start=1):
        if not isinstance(annotation, Mapping):
            raise DataError(f"{name}: annotation number {number} is {annotation!r:.60}, expected an object")
        where = f"{name}: annotation {annotation.get('id', number)}"
        box = annotation.get("bbox")
        if not _is_box(box):
            raise DataError(f"{where}: bbox {box!r}, expected four finite numbers [x, y, width, height]")
        for key, valid in (("image_id", images), ("category_id", categories)):
            if not _hashable_in(annotation.get(key), valid):
                raise DataError(f"{where}: {key} {annotation.get(key)!r} is not in the file")
        if iou == "segm" and not annotation.get("segmentation"):
            raise DataError(f"{where}: no segmentation, which iou=segm compares; use iou=bbox")
        annotations.append({"iscrowd": 0, "area": box[2] * box[3], **annotation, "id": number})
    return {"info": {}, **truth, "annotations": annotations}


def _ids(truth: Mapping[str, Any], key: str, name: str) -> set[Any]:
    ids: set[Any] = set()
    for entry in truth[key]:
        if (
            not isinstance(entry, Mapping)
            or "id" not in entry
            or (key == "categories" and "name" not in entry)
        ):
            raise DataError(
                f"{name}: an entry of '{key}' lacks {'id' if key == 'images' else 'id or name'}: {entry!r}"
            )
        if entry["id"] in ids:
            raise DataError(f"{name}: id {entry['id']!r} occurs twice in '{key}'")
        ids.add(entry["id"])
    return ids


def check_detections(
    found: Any, name: str, dataset: Mapping[str, Any], truth_name: str, iou: str, mask_api: Any
) -> list[dict[str, Any]]:
    """Copy a result list in the form that pycocotools' loadRes takes.

    Args:
        found: Parsed COCO result list.
        name: What error messages call it.
        dataset: Ground truth, as :func:`complete_truth` returns it.
        truth_name: What error messages call the ground truth.
        iou: "bbox" or "segm".
        mask_api: The module ``pycocotools.mask``.

    Raises:
        DataError: naming the detection that is malformed or belongs to no image or category.
    """
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise DataError(
            f"{name}: a {type(found).__name__}, expected a list of detections in COCO's result format"
        )
    images = {image["id"]: image for image in dataset["images"]}
    categories = {category["id"] for category in dataset["categories"]}
    results = []
    for number, detection in enumerate(found):
        where = f"{name}: detection {number}"
        if not isinstance(detection, Mapping):
            raise DataError(f"{where}: {detection!r:.60}, expected an object")
        image_id, category_id = detection.get("image_id"), detection.get("category_id")
        if not _hashable_in(image_id, images):
            raise DataError(f"{where}: image_id {image_id!r} is not in {truth_name}")
        if not _hashable_in(category_id, categories):
            raise DataError(f"{where}: category_id {category_id!r} is not in {truth_name}")
        if not is_finite(detection.get("score")):
            raise DataError(f"{where}: score {detection.get('score')!r}, expected a finite number")
        result = dict(detection)
        if "bbox" in result and not _is_box(result["bbox"]):
            raise DataError(
                f"{where}: bbox {result['bbox']!r}, expected four finite numbers [x, y, width, height]"
            )
        needed = ("segmentation",) if iou == "segm" else ("bbox", "segmentation")
        if not any(result.get(key) for key in needed):
            raise DataError(f"{where}: no {' or '.join(needed)}, which iou={iou} compares")
        if result.get("segmentation") and (iou == "segm" or not result.get("bbox")):
            result["segmentation"] = _to_rle(result["segmentation"], images[image_id], mask_api, where)
        results.append(result)
    # loadRes decides by the first result whether all are boxes or all are masks.
    boxes = sum(bool(result.get("bbox")) for result in results)
    if 0 < boxes < len(results):
        for result in results:
            if iou == "segm":
                result.pop("bbox", None)
            elif not result.get("bbox"):
                result["bbox"] = mask_api.toBbox(result["segmentation"]).tolist()
    return results


def _to_rle(segmentation: Any, image: Mapping[str, Any], mask_api: Any, where: str) -> dict[str, Any]:
    """Turn polygons and both kinds of RLE into compressed RLE."""
    try:
        if isinstance(segmentation, Mapping) and isinstance(segmentation["counts"], str | bytes):
            return dict(segmentation)
        height, width = image["height"], image["width"]
        rle = mask_api.frPyObjects(segmentation, height, width)
        merged: dict[str, Any] = mask_api.merge(rle) if isinstance(rle, list) else rle
        return merged
    except Exception as error:
        raise DataError(
            f"{where}: segmentation cannot be read ({error}); expected polygons or RLE"
        ) from error


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number (a bool is none)."""
    try:
        return not isinstance(value, bool | str) and math.isfinite(value)
    except TypeError:
        return False


def _is_box(value: Any) -> TypeGuard[Sequence[float]]:
    return isinstance(value, Sequence) and len(value) == 4 and all(is_finite(v) for v in value)


def _hashable_in(value: Any, valid: Any) -> bool:
    try:
        return value in valid
    except TypeError:
        return False

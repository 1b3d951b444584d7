"""How good are these 3D detections by KITTI's measure? AP in the picture, from above, in 3D, and with orientation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slr_det.data.kitti.labels import KittiObjects, read_objects
from slr_det.errors import DataError
from slr_det.metrics.kitti_matching import precision_curves
from slr_det.metrics.kitti_pairs import overlapping, unlabelled_share
from slr_det.metrics.kitti_rules import (
    BENCHMARK,
    DIFFICULTIES,
    canonical,
    found_roles,
    has_orientation,
    minimum_overlaps,
    relevant,
    stack,
    truth_roles,
)

#: The eight measures: kind of box and number of recall levels, most quoted first.
MEASURES: tuple[str, ...] = (
    "3d_R40",
    "bev_R40",
    "bbox_R40",
    "aos_R40",
    "3d_R11",
    "bev_R11",
    "bbox_R11",
    "aos_R11",
)

#: The measure whose scores go by the difficulty alone in a report.
HEADLINE = "3d_R40"

#: Measure -> class -> difficulty -> percent.
Result = dict[str, dict[str, dict[str, float]]]


def evaluate(
    truths: Sequence[KittiObjects],
    predictions: Sequence[KittiObjects],
    classes: Sequence[str] = BENCHMARK,
    overlap: str = "standard",
) -> Result:
    """Return the average precision of detections as OpenPCDet's evaluator defines it, with exact box overlaps.

    Args:
        truths: Objects of each frame, DontCare regions among them.
        predictions: Detections of the same frames, with scores.
        classes: Classes to evaluate; any case. Those of KITTI but Tram and Misc.
        overlap: The intersection over union that a match must exceed: "standard" (Car, Van, Truck 0.7, others 0.5),
            "loose" (from above and in 3D 0.5 and 0.25) or "0.5" (every class and kind of box).

    Returns:
        ``{"3d_R40": {"Car": {"easy": .., "moderate": .., "hard": ..}, ..}, ..}`` in percent for the measures in
        ``MEASURES``. A class without an object that counts has 0, and without any detection all is 0. The two aos
        measures are left out where the detections have no observation angle (the first one's alpha is -10), as
        OpenPCDet does.

    Raises:
        ConfigError: an unknown class or overlap.
        DataError: not as many predictions as truths, detections without scores, or a number that is not finite.
    """
    names, minimum = canonical(classes), minimum_overlaps(overlap)
    if len(truths) != len(predictions):
        raise DataError(f"{len(predictions)} frames of predictions, expected {len(truths)} as of truths")
    objects, found = stack(truths, scored=False), stack(predictions, scored=True)
    oriented = has_orientation(found)
    result: Result = {m: {} for m in MEASURES if oriented or not m.startswith("aos")}
    wanted = relevant(objects, names)
    unlabelled = unlabelled_share(objects, found)
    for kind in ("3d", "bev", "bbox"):
        touching = overlapping(objects, found, wanted, kind)
        for name in names:
            threshold = minimum[kind][name]
            pairs = touching.take(touching.overlap > threshold)
            # DontCare regions are drawn in the picture: they excuse nothing from above or in 3D.
            excused = unlabelled > threshold if kind == "bbox" else np.zeros(len(unlabelled), bool)
            for level, difficulty in enumerate(DIFFICULTIES):
                roles = truth_roles(objects, name, level), found_roles(found, name, level)
                precision, similarity = precision_curves(objects, found, pairs, *roles, excused)
                curves = {kind: precision}
                if kind == "bbox" and oriented:
                    curves["aos"] = similarity
                for measure, curve in curves.items():
                    r11, r40 = 100 * curve[::4].sum() / 11, 100 * curve[1:].sum() / 40
                    result[f"{measure}_R11"].setdefault(name, {})[difficulty] = float(r11)
                    result[f"{measure}_R40"].setdefault(name, {})[difficulty] = float(r40)
    return result


def score_folders(
    labels: str | Path,
    predictions: str | Path,
    overlap: str = "standard",
    classes: Sequence[str] = BENCHMARK,
) -> tuple[Result, int]:
    """Evaluate a folder of detection files on the frames that have one.

    Args:
        labels: Folder of KITTI label files (``label_2``), ``FRAME.txt``.
        predictions: Folder of detection files of the same names; a frame without a file is left out, an empty file
            says that nothing was found.
        overlap: As in :func:`evaluate`.
        classes: As in :func:`evaluate`.

    Returns:
        As :func:`evaluate`, and the number of frames.

    Raises:
        ConfigError: an unknown class or overlap.
        DataError: a folder is missing, there is no detection file, a detection file has no label file, or a line of a
            file is malformed; names the file.
    """
    canonical(classes)
    minimum_overlaps(overlap)
    found = _text_files(Path(predictions), "predictions")
    truth = _text_files(Path(labels), "labels")
    for name, file in found.items():
        if name not in truth:
            raise DataError(
                f"{file}: no label file {Path(labels) / name}; expected one for each file of predictions"
            )
    frames = sorted(found)
    truths = [read_objects(truth[name]) for name in frames]
    detections = [read_objects(found[name], scored=True) for name in frames]
    return evaluate(truths, detections, classes, overlap), len(frames)


def score(
    labels: str | Path,
    predictions: str | Path,
    overlap: str = "standard",
    as_json: bool = False,
    classes: Sequence[str] = BENCHMARK,
    out: Callable[[str], object] = print,
) -> Result:
    """Score a folder of detection files against KITTI labels and print a table, or JSON at full precision.

    Args:
        labels: Folder of label files.
        predictions: Folder of detection files.
        overlap: As in :func:`evaluate`.
        as_json: Print one JSON object, as :func:`evaluate` returns it.
        classes: As in :func:`evaluate`.
        out: Where each line of text goes.

    Raises:
        As :func:`score_folders`.
    """
    result, frames = score_folders(labels, predictions, overlap, classes)
    if as_json:
        out(json.dumps(result, indent=2, allow_nan=False))
        return result
    minimum = minimum_overlaps(overlap)
    out(f"KITTI AP in percent, {frames} frame{'s' if frames != 1 else ''}, overlaps '{overlap}'")
    for name in result[MEASURES[0]]:
        least = ", ".join(f"{kind} {minimum[kind][name]:g}" for kind in ("bbox", "bev", "3d"))
        out("")
        out(f"{f'{name} ({least})':40}{''.join(f'{d:>10}' for d in DIFFICULTIES)}")
        for measure in MEASURES:
            if measure in result:
                values = result[measure][name]
                out(f"  {measure:38}{''.join(f'{values[d]:10.2f}' for d in DIFFICULTIES)}")
    if "aos_R40" not in result:
        out("")
        out("aos is left out: the detections have no observation angle (alpha is -10)")
    return result


def fractions(result: Result) -> dict[str, Any]:
    """An evaluation in the form of a report: fractions of 1 by name, the means over the classes first.

    The 3D AP over 40 recall levels is called ``moderate``, ``easy``, ``hard``; a class's own has its name in front
    (``Car_moderate``), and the other measures have theirs (``bev_R40_moderate``). ``per_class`` has all of them again.

    Args:
        result: As :func:`evaluate` returns it, ``3d_R40`` among the measures.
    """
    per_class: dict[str, dict[str, float]] = {}
    for measure in MEASURES:
        for name, levels in result.get(measure, {}).items():
            for difficulty, percent in levels.items():
                key = difficulty if measure == HEADLINE else f"{measure}_{difficulty}"
                per_class.setdefault(name, {})[key] = float(percent) / 100
    keys = next(iter(per_class.values()))
    means = {key: sum(values[key] for values in per_class.values()) / len(per_class) for key in keys}
    order = ("moderate", "easy", "hard")
    headline = {difficulty: means.pop(difficulty) for difficulty in order}
    own = {f"{name}_{d}": values[d] for d in order for name, values in per_class.items()}
    return {**headline, **own, **means, "per_class": per_class}


def summary(result: Result, measure: str = "3d_R40") -> dict[str, float]:
    """Return the mean over the classes of one measure, per difficulty, in percent."""
    table = result[measure].values()
    return {difficulty: sum(row[difficulty] for row in table) / len(table) for difficulty in DIFFICULTIES}


def _text_files(folder: Path, what: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{what} {folder}: no such folder; expected one of text files, one for each frame")
    files = {file.name: file for file in folder.glob("*.txt")}
    if not files:
        inner = sorted({file.parent.name for file in folder.glob("*/*.txt")})
        hint = f"; its folders with such files are {', '.join(inner)}" if inner else ""
        raise DataError(f"{what} {folder}: no *.txt file in it, expected one for each frame{hint}")
    return files

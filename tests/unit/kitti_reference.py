"""KITTI's average precision the slow way: one frame, one object, one threshold at a time.

Written from the rules of the object development kit (evaluate_object.cpp) and the constants of OpenPCDet's evaluator,
sharing nothing with ``slr_det.metrics``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from slr_det.data.kitti.labels import KittiObjects

Point = tuple[float, float]
Result = dict[str, dict[str, dict[str, float]]]

HEIGHT, OCCLUSION, TRUNCATION = (40, 25, 25), (0, 1, 2), (0.15, 0.3, 0.5)
SIMILAR = {"car": "van", "pedestrian": "person_sitting"}
STRICT = {"car": 0.7, "pedestrian": 0.5, "cyclist": 0.5, "van": 0.7, "person_sitting": 0.5, "truck": 0.7}
LOOSE = {"car": 0.5, "pedestrian": 0.25, "cyclist": 0.25, "van": 0.5, "person_sitting": 0.25, "truck": 0.5}


class Thing(NamedTuple):
    """One object or detection."""

    name: str
    truncated: float
    occluded: int
    alpha: float
    image: tuple[float, float, float, float]
    size: tuple[float, float, float]
    place: tuple[float, float, float]
    turn: float
    score: float


def things(objects: KittiObjects) -> list[Thing]:
    """The objects of a frame, one by one."""
    scores = np.zeros(len(objects)) if objects.scores is None else objects.scores
    return [
        Thing(
            name,
            float(objects.truncated[i]),
            int(objects.occluded[i]),
            float(objects.alpha[i]),
            tuple(objects.boxes_2d[i].tolist()),
            tuple(objects.dimensions[i].tolist()),
            tuple(objects.locations[i].tolist()),
            float(objects.rotations[i]),
            float(scores[i]),
        )
        for i, name in enumerate(objects.names)
    ]


def area(polygon: list[Point]) -> float:
    """Signed area by the shoelace formula."""
    ring = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return sum(ax * by - bx * ay for (ax, ay), (bx, by) in ring) / 2


def clip(polygon: list[Point], edge_from: Point, edge_to: Point) -> list[Point]:
    """The part of a polygon on the left of a line (Sutherland and Hodgman)."""

    def side(p: Point) -> float:
        return (edge_to[0] - edge_from[0]) * (p[1] - edge_from[1]) - (edge_to[1] - edge_from[1]) * (
            p[0] - edge_from[0]
        )

    kept: list[Point] = []
    for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        at_p, at_q = side(p), side(q)
        if at_p >= 0:
            kept.append(p)
        if (at_p > 0 and at_q < 0) or (at_p < 0 and at_q > 0):
            part = at_p / (at_p - at_q)
            kept.append((p[0] + part * (q[0] - p[0]), p[1] + part * (q[1] - p[1])))
    return kept


def ground(thing: Thing) -> list[Point]:
    """Corners in the camera's x, z plane: the box turned about y, which points down, by rotation_y."""
    _, width, length = thing.size
    cos, sin = math.cos(thing.turn), math.sin(thing.turn)
    corners = [
        (length / 2, width / 2),
        (-length / 2, width / 2),
        (-length / 2, -width / 2),
        (length / 2, -width / 2),
    ]
    turned = [(thing.place[0] + cos * a + sin * b, thing.place[2] - sin * a + cos * b) for a, b in corners]
    return turned if area(turned) > 0 else turned[::-1]


def shared_ground(a: Thing, b: Thing) -> float:
    """Area that two boxes share on the ground."""
    polygon, other = ground(a), ground(b)
    for start, end in zip(other, other[1:] + other[:1], strict=True):
        if polygon:
            polygon = clip(polygon, start, end)
    return abs(area(polygon)) if polygon else 0.0


def shared_image(a: Thing, b: Thing) -> float:
    """Area that two boxes share in the picture."""
    width = min(a.image[2], b.image[2]) - max(a.image[0], b.image[0])
    height = min(a.image[3], b.image[3]) - max(a.image[1], b.image[1])
    return width * height if width > 0 and height > 0 else 0.0


def image_area(a: Thing) -> float:
    """Area of a box in the picture."""
    return (a.image[2] - a.image[0]) * (a.image[3] - a.image[1])


def iou(a: Thing, b: Thing, kind: str) -> float:
    """Intersection over union."""
    if kind == "bbox":
        shared = shared_image(a, b)
        return shared / (image_area(a) + image_area(b) - shared) if shared else 0.0
    shared = shared_ground(a, b)
    size_a, size_b = a.size[1] * a.size[2], b.size[1] * b.size[2]
    if kind == "3d":
        top, bottom = max(a.place[1] - a.size[0], b.place[1] - b.size[0]), min(a.place[1], b.place[1])
        shared *= max(0.0, bottom - top)
        size_a, size_b = size_a * a.size[0], size_b * b.size[0]
    return shared / (size_a + size_b - shared) if shared else 0.0


def truth_role(thing: Thing, name: str, level: int) -> str:
    """Whether an object counts, is ignored, or is another class."""
    own = thing.name.lower()
    if own == SIMILAR.get(name):
        return "ignored"
    if own != name:
        return "other"
    tall = thing.image[3] - thing.image[1] > HEIGHT[level]
    return (
        "counts"
        if tall and thing.occluded <= OCCLUSION[level] and thing.truncated <= TRUNCATION[level]
        else "ignored"
    )


def found_role(thing: Thing, name: str, level: int) -> str:
    """Whether a detection counts, is ignored, or is another class."""
    if abs(thing.image[3] - thing.image[1]) < HEIGHT[level]:
        return "ignored"
    return "counts" if thing.name.lower() == name else "other"


class Frame(NamedTuple):
    """One frame with what is known about its pairs."""

    truths: list[Thing]
    found: list[Thing]
    overlaps: list[list[float]]


def one_frame(
    frame: Frame, name: str, level: int, least: float, kind: str, threshold: float | None
) -> tuple[list[float], int, float]:
    """Scores of the true positives, number of false positives and the orientation similarity of one frame.

    Without a threshold: the first pass, in which each object takes the best score.
    """
    roles = [found_role(d, name, level) for d in frame.found]
    takes_part = [
        role != "other" and (threshold is None or d.score >= threshold)
        for role, d in zip(roles, frame.found, strict=True)
    ]
    taken = [False] * len(frame.found)
    hits: list[float] = []
    similarity = 0.0
    for i, truth in enumerate(frame.truths):
        role = truth_role(truth, name, level)
        if role == "other":
            continue
        best = None
        for j, found in enumerate(frame.found):
            if not takes_part[j] or taken[j] or not frame.overlaps[i][j] > least:
                continue
            if best is None:
                better = True
            elif threshold is None:
                better = found.score > frame.found[best].score
            elif roles[best] == "ignored":
                better = roles[j] == "counts"
            else:
                better = roles[j] == "counts" and frame.overlaps[i][j] > frame.overlaps[i][best]
            if better:
                best = j
        if best is None:
            continue
        taken[best] = True
        if role == "counts" and roles[best] == "counts":
            hits.append(frame.found[best].score)
            similarity += (1 + math.cos(truth.alpha - frame.found[best].alpha)) / 2
    false = 0
    for j, found in enumerate(frame.found):
        if roles[j] != "counts" or not takes_part[j] or taken[j]:
            continue
        regions = [t for t in frame.truths if t.name == "DontCare"] if kind == "bbox" else []
        if not any(shared_image(found, r) > least * image_area(found) for r in regions):
            false += 1
    return hits, false, similarity


def curves(
    frames: list[Frame], name: str, level: int, least: float, kind: str
) -> tuple[list[float], list[float]]:
    """Precision and orientation similarity at the 41 recall levels."""
    total = sum(truth_role(t, name, level) == "counts" for frame in frames for t in frame.truths)
    scores = sorted(
        (s for frame in frames for s in one_frame(frame, name, level, least, kind, None)[0]), reverse=True
    )
    thresholds: list[float] = []
    recall = 0.0
    for i, score in enumerate(scores):
        left, right = (i + 1) / total, (min(i + 1, len(scores) - 1) + 1) / total
        if i < len(scores) - 1 and right - recall < recall - left:
            continue
        thresholds.append(score)
        recall += 1 / 40
    precision, aos = [0.0] * 41, [0.0] * 41
    for k, threshold in enumerate(thresholds):
        outcomes = [one_frame(frame, name, level, least, kind, threshold) for frame in frames]
        correct, false = sum(len(o[0]) for o in outcomes), sum(o[1] for o in outcomes)
        if correct + false:
            precision[k] = correct / (correct + false)
            aos[k] = sum(o[2] for o in outcomes) / (correct + false)
    return [max(precision[k:]) for k in range(41)], [max(aos[k:]) for k in range(41)]


def naive(
    truths: list[KittiObjects], predictions: list[KittiObjects], classes: tuple[str, ...], overlap: str
) -> Result:
    """What ``slr_det.metrics.kitti.evaluate`` returns for detections with observation angles."""
    result: Result = {}
    pairs = [(things(t), things(p)) for t, p in zip(truths, predictions, strict=True)]
    for kind in ("bbox", "bev", "3d"):
        frames = [Frame(t, p, [[iou(a, b, kind) for b in p] for a in t]) for t, p in pairs]
        for name in classes:
            lower = name.lower()
            least = STRICT[lower]
            if overlap == "loose":
                least = LOOSE[lower] if kind != "bbox" or lower == "truck" else least
            elif overlap == "0.5":
                least = 0.5
            for level, difficulty in enumerate(("easy", "moderate", "hard")):
                precision, aos = curves(frames, lower, level, least, kind)
                for measure, curve in [(kind, precision)] + ([("aos", aos)] if kind == "bbox" else []):
                    for recalls, part in (("R11", curve[::4]), ("R40", curve[1:])):
                        table = result.setdefault(f"{measure}_{recalls}", {}).setdefault(name, {})
                        table[difficulty] = 100 * sum(part) / len(part)
    return result

"""Frames of KITTI objects and detections for tests: placed by hand, and random ones."""

from __future__ import annotations

import math

import numpy as np

from slr_det.data.kitti.labels import KittiObjects
from slr_det.metrics.kitti import Result

LEVELS = ("easy", "moderate", "hard")


def numbers(result: Result) -> dict[tuple[str, str, str], float]:
    """(measure, class, difficulty) -> percent."""
    return {(m, c, d): v for m, table in result.items() for c, row in table.items() for d, v in row.items()}


def objects(
    *rows: tuple[str, float],
    score: float | None = None,
    alpha: float = 0.0,
    size: tuple[float, float, float] = (1.5, 1.6, 4.0),
    turn: float = 0.0,
    height: float = 100.0,
    occluded: int = 0,
    truncated: float = 0.0,
) -> KittiObjects:
    """Objects (name, x in metres), ten pixels a metre in the picture."""
    n = len(rows)
    x = np.array([row[1] for row in rows])
    return KittiObjects(
        tuple(row[0] for row in rows),
        np.full(n, truncated),
        np.full(n, occluded),
        np.full(n, alpha),
        np.stack([10 * x, np.zeros(n), 10 * x + 40, np.full(n, height)], axis=1),
        np.tile(size, (n, 1)),
        np.stack([x, np.full(n, 1.7), np.full(n, 20.0)], axis=1),
        np.full(n, turn),
        None if score is None else np.full(n, score),
    )


def joined(a: KittiObjects, b: KittiObjects) -> KittiObjects:
    """The objects of both, in one frame."""
    fields = [
        name for name in KittiObjects.__dataclass_fields__ if name != "names" and getattr(a, name) is not None
    ]
    return KittiObjects(
        a.names + b.names, **{name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in fields}
    )


SIZES = {
    "Car": (1.5, 1.6, 3.9),
    "Van": (2.1, 1.9, 5.0),
    "Truck": (3.0, 2.5, 9.0),
    "Pedestrian": (1.7, 0.6, 0.8),
    "Person_sitting": (1.2, 0.6, 0.8),
    "Cyclist": (1.7, 0.6, 1.8),
    "Tram": (3.0, 2.6, 15.0),
    "DontCare": (1.5, 1.6, 1.6),
}


def scenes(
    seed: int, frames: int, objects: int, detections: int, *, odd: bool = True
) -> tuple[list[KittiObjects], list[KittiObjects]]:
    """Random frames: objects of all kinds, detections near them and elsewhere.

    With ``odd`` also frames without objects or without detections, equal and negative scores, other spellings and
    unknown classes.
    """
    random = np.random.default_rng(seed)
    truths, predictions = [], []
    for _ in range(frames):
        names = random.choice(list(SIZES), objects, p=[0.35, 0.08, 0.05, 0.2, 0.05, 0.15, 0.02, 0.1])
        z = random.uniform(5, 45, objects)
        places = np.stack([random.uniform(-0.6, 0.6, objects) * z, np.full(objects, 1.7), z], axis=1)
        sizes = np.array([SIZES[name] for name in names]) * random.uniform(0.9, 1.1, (objects, 3))
        turns = random.uniform(-math.pi, math.pi, objects)
        truths.append(
            _frame(
                random,
                names,
                sizes,
                places,
                turns,
                random.choice([0, 0.1, 0.4], objects),
                random.integers(0, 4, objects),
            )
        )
        source = random.integers(0, objects, detections)
        blur = np.where(random.uniform(size=detections) < 0.7, 1.0, 20.0)[:, None]
        found = places[source] + random.normal(0, 1, (detections, 3)) * [0.12, 0.05, 0.12] * blur
        found[:, 2] = np.maximum(found[:, 2], 3)
        labels = np.where(names[source] == "DontCare", "Car", names[source])
        labels = np.where(random.uniform(size=detections) < 0.1, "Pedestrian", labels)
        near_sizes = sizes[source] * random.uniform(0.95, 1.05, (detections, 3))
        near_turns = turns[source] + random.normal(0, 0.05, detections)
        scores = random.uniform(0, 1, detections)
        predictions.append(
            _frame(
                random,
                labels,
                near_sizes,
                found,
                near_turns,
                np.zeros(detections),
                np.zeros(detections),
                scores,
            )
        )
    return _odd(random, truths, predictions) if odd else (truths, predictions)


def _frame(
    random: np.random.Generator,
    names: np.ndarray,
    sizes: np.ndarray,
    places: np.ndarray,
    turns: np.ndarray,
    truncated: np.ndarray,
    occluded: np.ndarray,
    scores: np.ndarray | None = None,
) -> KittiObjects:
    x, y, z = places.T
    top, bottom = 700 * (y - sizes[:, 0]) / z + 180, 700 * y / z + 180
    half = 700 * np.maximum(sizes[:, 1], sizes[:, 2]) / z / 2
    boxes = np.stack([700 * x / z + 620 - half, top, 700 * x / z + 620 + half, bottom], axis=1)
    alpha = turns - np.arctan2(x, z) + math.pi * (random.uniform(size=len(x)) < 0.1)
    return KittiObjects(tuple(names), truncated, occluded, alpha, boxes, sizes, places, turns, scores)


def _odd(
    random: np.random.Generator, truths: list[KittiObjects], predictions: list[KittiObjects]
) -> tuple[list[KittiObjects], list[KittiObjects]]:
    changed_truths, changed = [], []
    for truth, found in zip(truths, predictions, strict=True):
        assert found.scores is not None
        scores = [
            found.scores,
            found.scores.round(1),
            found.scores * 0 + 0.5,
            (found.scores * 4 - 2).round(1) * 10,
        ]
        spelled = [
            str(random.choice([name.lower(), name.upper(), "Unicorn"])) if random.uniform() < 0.1 else name
            for name in found.names
        ]
        fields = {name: getattr(found, name) for name in KittiObjects.__dataclass_fields__}
        found = KittiObjects(**{**fields, "names": tuple(spelled), "scores": scores[random.integers(4)]})
        changed_truths.append(truth.take(np.arange(0)) if random.uniform() < 0.1 else truth)
        changed.append(found.take(np.arange(0)) if random.uniform() < 0.1 else found)
    return changed_truths, changed

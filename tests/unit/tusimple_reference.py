"""TuSimple's scoring rules, one clip, lane and point at a time, and clips to try them on."""

from __future__ import annotations

import math

import numpy as np

from slr_det.data.tusimple.labels import LaneRow


def slope(xs: list[float], ys: list[float]) -> float:
    """Slope of x over y by least squares, through the points that there are."""
    points = [(x, y) for x, y in zip(xs, ys, strict=True) if x >= 0]
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((y - mean_y) ** 2 for _, y in points)


def clip_scores(prediction: LaneRow, truth: LaneRow) -> tuple[float, float, float, int, int]:
    """Accuracy, FP, FN, correct points and true points of one clip."""
    heights = [float(y) for y in truth.h_samples]
    true = [[float(x) for x in lane] for lane in truth.lanes]
    found = [[float(x) for x in lane] for lane in prediction.lanes]
    points = sum(x >= 0 for lane in true for x in lane)
    run_time = 10 if prediction.run_time is None else prediction.run_time
    if run_time > 200 or len(found) > len(true) + 2:
        return 0.0, 0.0, 1.0, 0, points
    lines, correct, matched, missed = [], 0, 0, 0
    for lane in true:
        limit = 20 / math.cos(math.atan(slope(lane, heights)))
        best, most = 0.0, 0
        for other in found:
            near = [
                abs((p if p >= 0 else -100) - (t if t >= 0 else -100)) < limit
                for p, t in zip(other, lane, strict=True)
            ]
            best = max(best, sum(near) / len(heights))
            hits = [n and t >= 0 and p >= 0 for n, p, t in zip(near, other, lane, strict=True)]
            most = max(most, sum(hits))
        lines.append(best)
        correct += most
        matched += best >= 0.85
        missed += best < 0.85
    total = sum(lines)
    if len(true) > 4:
        missed -= missed > 0
        total -= min(lines)
    counted = max(min(len(true), 4), 1)
    fp = (len(found) - matched) / len(found) if found else 0.0
    return total / counted, fp, missed / counted, correct, points


def clips(seed: int, count: int = 12) -> tuple[list[LaneRow], list[LaneRow]]:
    """Predictions and labels of clips with 0 to 6 lanes, near, far, missing, split and too many, in other orders."""
    rng = np.random.default_rng(seed)
    truths, predictions = [], []
    for index in range(count):
        heights = np.arange(160 if rng.random() < 0.7 else 240, 720, 10)
        true = [_lane(rng, heights) for _ in range(rng.integers(0, 7))]
        found = []
        for lane in true:
            kind = rng.random()
            if kind < 0.1:
                continue
            noise = rng.choice([0, 5, 15, 22, 60])
            moved = np.where(lane >= 0, np.maximum(lane + rng.integers(-noise, noise + 1, len(lane)), 0), -2)
            moved[rng.random(len(lane)) < 0.05] = -2
            if kind < 0.2:
                half = len(lane) // 2
                found += [np.r_[moved[:half], np.full(len(lane) - half, -2)]]
            found += [moved]
        found += [_lane(rng, heights) for _ in range(rng.choice([0, 0, 0, 1, 3]))]
        order = rng.permutation(len(found))
        name = f"clips/{index:04d}/20.jpg"
        run_time = [None, 10.0, 200.0, 200.5][rng.choice(4, p=[0.3, 0.4, 0.2, 0.1])]
        truths.append(LaneRow(name, _array(true, len(heights)), heights))
        predictions.append(LaneRow(name, _array([found[i] for i in order], len(heights)), heights, run_time))
    return [predictions[i] for i in rng.permutation(count)], truths


def _lane(rng: np.random.Generator, heights: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    k, bend = rng.uniform(-7, 7) * rng.choice([0, 0.3, 1]), rng.uniform(-0.002, 0.002)
    x = rng.uniform(0, 1280) + k * (heights - 500) + bend * (heights - 500) ** 2
    x = np.where((x >= 0) & (x < 1280) & (heights >= rng.integers(160, 500)), x, -2)
    return x.astype(np.int64)


def _array(lanes: list[np.ndarray], heights: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(lanes, dtype=np.int64).reshape(len(lanes), heights)

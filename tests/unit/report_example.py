"""Reports with the shape and the scale of real ones, for the tests of the report and its plots."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

ARRIVES = {"slr": 0.855, "admm": 0.80, "penalty": 0.72, "gradual": 0.78, "oneshot": 0.35}
DENSE = 0.8712


def metrics(ap50: float) -> dict[str, Any]:
    return {
        "AP": round(0.62 * ap50, 4),
        "AP50": ap50,
        "AP75": round(0.7 * ap50, 4),
        "trainer_map50": round(ap50 - 0.003, 4),
        "trainer_map": round(0.61 * ap50, 4),
        "per_class": {
            "circle": {"AP": round(0.6 * ap50, 4), "AP50": round(ap50 + 0.02, 4)},
            "star": {"AP": round(0.5 * ap50, 4), "AP50": round(1.5 * ap50 - DENSE / 2, 4)},
        },
    }


def history(method: str, iterations: int, rng: random.Random) -> list[dict[str, Any]]:
    if method == "oneshot":
        return []
    records = []
    end, step, distance = ARRIVES[method], 0.01, 14.0
    for k in range(1, iterations + 1):
        share = k / iterations
        distance *= 0.90 + 0.06 * rng.random()
        step *= 0.96 + 0.05 * rng.random()
        is_slr = method == "slr"
        records.append(
            {
                "iteration": k,
                "method": method,
                "epoch": k - 1,
                "objective": 2.0 - share + 0.05 * rng.random(),
                "distance": distance if method != "gradual" else None,
                "distance_before": distance * 1.05,
                "step_size": step if is_slr else None,
                "a_k": 1 - 1 / (300 * k ** (1 - 1 / k**0.1)) if is_slr else None,
                "condition_6": rng.random() < 0.75 if is_slr else None,
                "condition_11": rng.random() < 0.95 if is_slr else None,
                "penalty": 0.05 * distance**2,
                "rho": 0.1 if method in ("slr", "admm", "penalty") else None,
                "keep": 0.256,
                "seconds": 11.5 + rng.random(),
                "metric": {
                    "map50": end * (1 - math.exp(-4 * share)) + 0.02 * (rng.random() - 0.5),
                    "map": 0.6 * end * (1 - math.exp(-4 * share)),
                },
            }
        )
    return records


def layers(count: int) -> list[dict[str, Any]]:
    rows = []
    for index in range(count):
        width = min(16 * 2 ** (index * 7 // max(count, 1)), 512)
        shape = [width, 3 if index == 0 else width // 2, 3, 3]
        weights = math.prod(shape)
        reason = None
        if index == 0:
            reason = "first layer"
        elif index >= count - 2:
            reason = "detection head"
        share = 0.256 * (1.3 - 0.6 * index / count)
        rows.append(
            {
                "name": f"model.{index}.conv.weight"
                if index % 3
                else f"model.{index}.cv2.0.m.{index}.conv.weight",
                "shape": shape,
                "weights": weights,
                "nonzero": weights if reason else round(weights * share),
                "keep": None if reason else 0.256,
                "projection": None if reason else "unstructured",
                "reason": reason,
            }
        )
    return rows


def block(method: str, iterations: int, layer_count: int, rng: random.Random) -> dict[str, Any]:
    rows = layers(layer_count)
    pruned = [row for row in rows if row["keep"] is not None]
    group_weights = sum(row["weights"] for row in pruned)
    group_left = sum(row["nonzero"] for row in pruned)
    model_weights = sum(row["weights"] for row in rows) + 5000
    model_left = sum(row["nonzero"] for row in rows) + 5000
    hard = round(ARRIVES[method] + 0.004, 4)
    return {
        "method": method,
        "phases": {
            "dense": {
                "metrics": metrics(DENSE),
                "checkpoint": "dense/best.pt",
                "epochs": 40,
                "seconds": 371.4,
            },
            "hard_prune": {
                "metrics": metrics(hard),
                "checkpoint": f"{method}/hard.pt",
                "epochs": iterations,
                "seconds": 12.0 * iterations,
            },
            "bn_recalibrated": {"metrics": metrics(round(hard + 0.004, 4)), "seconds": 3.2},
            "retrain": {
                "metrics": metrics(round((hard + 3 * DENSE) / 4, 4)),
                "checkpoint": f"{method}/pruned.pt",
                "epochs": 5,
                "seconds": 58.8,
            },
        },
        "final_phase": "retrain",
        "compression": {
            "groups": {
                "weights": group_weights,
                "nonzero": group_left,
                "rate": group_weights / group_left if group_left else None,
            },
            "model": {"weights": model_weights, "nonzero": model_left, "rate": model_weights / model_left},
            "layers": rows,
        },
        "bytes": {"dense": 24_812_345, "pruned": 24_812_345, "packed": 3_254_001},
        "history": history(method, iterations, rng),
    }


def make_report(
    methods: Sequence[str] = ("slr", "admm"), iterations: int = 12, layer_count: int = 10, seed: int = 0
) -> dict[str, Any]:
    """A full report: the first method is the run's own, the rest are the others."""
    rng = random.Random(seed)
    blocks = {method: block(method, iterations, layer_count, rng) for method in methods}
    return {
        "schema": "slr_det.report/1",
        "task": "detect",
        "name": "shapes-tiny",
        "command": "python -m slr_det.yolo compress configs/yolo/demo.yaml --compression 3.33x",
        "created": "2025-01-31T12:00:00+00:00",
        "seed": seed,
        "device": "cpu",
        "versions": {"python": "3.11.9", "torch": "2.13.0+cpu", "slr_det": "0.1.0", "ultralytics": "8.4.190"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "config": {"model": "yolov3-tiny.yaml", "rho": 0.1, "target_compression": 3.33},
        **blocks[methods[0]],
        "plots": {},
        "pictures": {},
        "others": {method: blocks[method] for method in methods[1:]},
        "paper": {
            "dense": 37.1,
            "admm": 25.3,
            "slr": 35.4,
            "metric": "AP50 x100",
            "source": "Table 5, yolov3-tiny at 3.33x",
        },
        "warnings": ["the learning rate closes W - Z slowly: raise epochs to at least 14"],
    }


def make_lidar_report(methods: Sequence[str] = ("slr", "admm"), iterations: int = 12) -> dict[str, Any]:
    """The same run with scores at three difficulties, and numbers published for every phase."""
    report = make_report(methods, iterations)
    report |= {"task": "pointcloud", "metric": "moderate"}
    report["paper"] = {
        "dense": {"easy": 80.7, "moderate": 78.5, "hard": 60.7},
        "admm": {
            "hard_prune": {"easy": 58.6, "moderate": 54.1, "hard": 30.8},
            "retrain": {"easy": 70.9, "moderate": 66.8, "hard": 35.6},
        },
        "slr": {
            "hard_prune": {"easy": 68.0, "moderate": 65.6, "hard": 46.1},
            "retrain": {"easy": 79.9, "moderate": 75.8, "hard": 51.4},
        },
        "metric": "moderate x100",
        "source": "Table 7, 9.449x",
    }
    for run in (report, *report["others"].values()):
        for phase in run["phases"].values():
            easy = phase["metrics"]["AP50"]
            phase["metrics"] = {"easy": easy, "moderate": round(easy - 0.1, 4), "hard": round(easy - 0.2, 4)}
    return report


def make_classifier_report(methods: Sequence[str] = ("slr", "admm"), iterations: int = 12) -> dict[str, Any]:
    """The same run with the scores of a classifier."""
    report = make_report(methods, iterations)
    report |= {"task": "classify", "metric": "top1"}
    report["paper"] = {
        "dense": 94.1,
        "admm": 91.0,
        "slr": 93.21,
        "metric": "top1 x100",
        "source": "Table 3",
    }
    for run in (report, *report["others"].values()):
        for phase in run["phases"].values():
            top1 = phase["metrics"]["AP50"]
            names = {"circle": top1 + 0.02, "star": top1 - 0.02}
            phase["metrics"] = {
                "top1": top1,
                "top5": round(top1 + 0.1, 4),
                "per_class": {name: {"top1": round(value, 4)} for name, value in names.items()},
            }
        for record in run["history"]:
            top1 = record["metric"]["map50"]
            record["metric"] = {"top5": top1 + 0.1, "top1": top1}
        for layer in run["compression"]["layers"]:
            if layer["reason"] == "detection head":
                layer["reason"] = "output layer"
    return report


def make_weights(
    shape: tuple[int, ...], keep: float = 0.256, seed: int = 0
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A weight with filters and inputs of unlike strength, before and after magnitude pruning."""
    rng = np.random.default_rng(seed)
    scale = rng.gamma(2.0, 0.5, (shape[0],) + (1,) * (len(shape) - 1))
    if len(shape) > 1:
        scale = scale * rng.gamma(2.0, 0.5, (1, shape[1]) + (1,) * (len(shape) - 2))
    before = (rng.normal(0, 0.02, shape) * scale).astype(np.float32)
    bound = np.sort(np.abs(before).ravel())[int((1 - keep) * before.size)]
    return before, np.where(np.abs(before) >= bound, before, 0).astype(np.float32)

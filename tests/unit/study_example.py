"""A made-up study's results.json, for tables and pictures."""

from __future__ import annotations

import random
from typing import Any

HYPER = {"rho": 0.1, "M": 300.0, "r": 0.1, "s0": 0.01}
ENTRIES = (
    ("slr-new", "slr"),
    ("slr-paper", "slr"),
    ("admm", "admm"),
    ("gradual", "gradual"),
    ("oneshot", "oneshot"),
)
FINAL = {
    **{"slr-new": 0.96, "slr-paper": 0.93, "admm": 0.925, "gradual": 0.94, "oneshot": 0.91},
    **{
        "slr-paper s0=0.001": 0.90,
        "slr-paper s0=0.1": 0.92,
        "slr-paper M=200": 0.925,
        "slr-paper M=400": 0.932,
    },
}


def summary(values: list[float]) -> dict[str, Any]:
    mean = sum(values) / len(values)
    deviation = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5 if len(values) > 1 else None
    return {"n": len(values), "mean": mean, "deviation": deviation}


def make_document(
    rates: tuple[float, ...] = (10.0, 20.0, 50.0), seeds: int = 3, sweep: bool = True
) -> dict[str, Any]:
    """Results with a curve for every cell; epochs 1 to 7 under the method, 8 to 10 in masked retraining."""
    draw = random.Random(0)
    entries = [entry(label, method, None) for label, method in ENTRIES]
    if sweep:
        for label in FINAL:
            _, _, change = label.partition(" ")
            if change:
                name, _, value = change.partition("=")
                entries.append(entry(label, "slr", {name: float(value)}))
    cells, table = [], []
    for rate in rates:
        for found in entries:
            label = found["label"]
            top = FINAL[label] - 0.03 * (rate / 50) ** 1.5
            finals = [top + draw.gauss(0, 0.004) for _ in range(seeds)]
            hard = [final - 0.04 - 0.2 * (rate / 50) + draw.gauss(0, 0.01) for final in finals]
            for seed, final in enumerate(finals):
                curve = [
                    {
                        "epoch": epoch,
                        "phase": "train" if epoch <= 7 else "retrain",
                        "metric": {
                            "top1": final
                            - (0.5 if epoch <= 7 else 0.03) * 0.6 ** (epoch % 8)
                            + draw.gauss(0, 0.004)
                        },
                    }
                    for epoch in range(1, 11)
                ]
                cells.append({"label": label, "rate": rate, "seed": seed, "curve": curve})
            scores = {"hard_prune": summary(hard), "bn_recalibrated": summary(hard), "final": summary(finals)}
            table.append({"label": label, "rate": rate, "n": seeds, "scores": scores})
    return {
        "metric": "top1",
        "rates": list(rates),
        "epoch_metric": "top1",
        "epoch_target": 0.9,
        "entries": entries,
        "table": table,
        "cells": cells,
        "sweep_of": "slr-paper" if sweep else "",
        "dense_score": summary([0.97] * seeds),
    }


def entry(label: str, method: str, swept: dict[str, float] | None) -> dict[str, Any]:
    hyper = {**HYPER, **(swept or {})}
    return {
        "label": label,
        "method": method,
        "epochs": 7,
        "retrain_epochs": 3,
        "swept": swept,
        "hyper": hyper,
    }

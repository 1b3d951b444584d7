"""A sensitivity scan of a checkpoint through its adapter: prune one layer, evaluate, restore, go on."""

from __future__ import annotations

import tempfile
from pathlib import Path

from slr_det.adapter import Adapter, EvalJob, ModelInfo, TrainJob
from slr_det.config import RunConfig
from slr_det.layers import matches_any
from slr_det.projections import Projection
from slr_det.sensitivity import SensitivityTable, scan


def scan_checkpoint(
    config: RunConfig,
    adapter: Adapter,
    info: ModelInfo,
    checkpoint: str,
    data: Path,
    cache: Path,
    metric: str,
) -> SensitivityTable:
    """``metric`` of the checkpoint with each layer alone pruned at several ratios.

    The table goes to ``cache`` (JSON, after every layer: an interrupted scan continues) and its heat map to a PNG
    beside it.
    """
    projection = Projection.parse(config.prune.projection)
    job = TrainJob(checkpoint, str(data), "", 1, config.train, title="sensitivity scan", device=config.device)
    with tempfile.TemporaryDirectory(prefix="slr-det-scan-") as scratch:
        candidate = Path(scratch) / "candidate.pt"

        def evaluate() -> float:
            adapter.export(checkpoint, candidate, job, info.weights)
            metrics = adapter.evaluate(EvalJob(str(candidate), str(data), config.train, config.device))
            return float(metrics[metric])

        layers = [
            x for x in info.layers if x.role == "body" and not matches_any(x.name, config.prune.exclude)
        ]
        table = scan(layers, evaluate, info.weights, config.prune.scan_ratios, projection, cache=cache)
    table.plot(cache.with_suffix(".png"), metric=metric)
    return table

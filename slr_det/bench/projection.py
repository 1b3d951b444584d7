"""How long projections take: the unstructured one against a numpy.percentile mask, and all the others."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slr_det.bench.rows import Row, Settings
from slr_det.projections import Projection
from slr_det.timing import interleaved, median, quartiles, threads

TARGET = 0.7
OTHERS = ("2:4", "filter", "channel", "block:4x4", "kernel_pattern", "kernel_pattern:all")


def measure(settings: Settings) -> list[Row]:
    """All rows, on one thread; the matrix is that of 3x3 convolutions."""
    size = 90_000 if settings.quick else 10_000_000
    rounds = 3 if settings.quick else 15
    weights = torch.randn(size, generator=torch.Generator().manual_seed(0))
    with threads(1):
        rows = [row for keep in (0.1, 0.01) for row in _against_percentile(weights, keep, rounds, settings)]
        settings.say("projection: the other sets")
        shape = (100, 100, 3, 3) if settings.quick else (1024, 1024, 3, 3)
        layer = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        return rows + [_one_of_the_others(text, layer, rounds) for text in OTHERS]


def percentile_mask(weights: NDArray[np.float32], keep: float) -> NDArray[np.float32]:
    """What pruning scripts do: zero what is below a percentile of the magnitudes."""
    magnitude = np.abs(weights)
    pruned: NDArray[np.float32] = weights * (magnitude >= np.percentile(magnitude, 100.0 * (1.0 - keep)))
    return pruned


def _against_percentile(weights: Tensor, keep: float, rounds: int, settings: Settings) -> list[Row]:
    settings.say(f"projection: {weights.numel() / 1e6:g} M weights, keep {keep:g}")
    projection, array, out = Projection("unstructured"), weights.numpy(), torch.empty_like(weights)
    seconds = interleaved(
        {
            "percentile": lambda: percentile_mask(array, keep),
            "project": lambda: projection.project([weights], keep),
            "in place": lambda: projection.project([weights], keep, out=[out]),
        },
        rounds,
    )
    kept = int(torch.count_nonzero(out))
    rows = []
    for name, label in (("project", "a new tensor"), ("in place", "into Z, as the engine does")):
        ratios = [ours / theirs for ours, theirs in zip(seconds[name], seconds["percentile"], strict=True)]
        times = f"{1e3 * median(seconds[name]):.1f} ms against {1e3 * median(seconds['percentile']):.1f} ms"
        rows.append(
            Row(
                "projection / percentile",
                f"{weights.numel() / 1e6:g} M float32, keep {keep:g}, {label}, 1 thread",
                median(ratios),
                "x",
                TARGET,
                quartiles(ratios),
                f"{times}; {kept} entries kept",
                {"seconds": seconds[name], "percentile_seconds": seconds["percentile"], "kept": kept},
            )
        )
    return rows


def _one_of_the_others(text: str, layer: Tensor, rounds: int) -> Row:
    projection = Projection.parse(text)
    out = torch.empty_like(layer)
    work = {text: lambda: projection.project([layer], 0.25, out=[out])}
    times = [1e3 * second for second in interleaved(work, max(3, rounds // 3))[text]]
    setting = f"{text}, {layer.numel() / 1e6:.1f} M float32, keep 0.25, 1 thread"
    return Row("projection", setting, median(times), "ms", spread=quartiles(times), details={"ms": times})

"""How small packed weights are, and how long packing takes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from slr_det.bench.rows import Row, Settings
from slr_det.storage import load, save
from slr_det.timing import interleaved, median, quartiles, threads

#: Megabytes that 10 M float32 weights may take, by sparsity.
SIZES = {0.5: 18.0, 0.8: 7.5, 0.9: 3.75, 0.97: 1.3, 0.987: 0.55}
TIME_TARGET = 0.5
TIMED = 0.9
SIZE = 10_000_000

_NORMAL_BITS = 26.46
"""Entropy of a standard normal number in float32: h(x) - E[floor(log2 |x|)] + 23 = 2.05 + 1.41 + 23 bits."""


def sizes(settings: Settings) -> list[Row]:
    """Bytes of normal weights: the smallest pruned, as pruning does, and any pruned, which keeps every exponent."""
    rows = []
    for how in ("by magnitude", "at random"):
        for sparsity, target in SIZES.items():
            settings.say(f"sizes: {sparsity:.1%} pruned {how}")
            weights = pruned(SIZE // 100 if settings.quick else SIZE, sparsity, how)
            with tempfile.TemporaryDirectory() as folder:
                packed = save({"weights": weights}, Path(folder) / "weights.slr").stat().st_size
            megabytes, ratio = packed / 1e6, 4 * weights.numel() / packed
            note, promised = f"{ratio:.2f}x smaller", target if how == "by magnitude" else None
            if how == "at random":
                bound = entropy(weights.numel(), sparsity) / 1e6
                note += f"; entropy {bound:.3g} MB, {megabytes / bound - 1:.1%} above it"
            setting = f"{weights.numel() / 1e6:g} M float32, {sparsity:.1%} pruned {how}"
            details = {"bytes": packed, "ratio": ratio}
            rows.append(Row("packed size", setting, megabytes, "MB", promised, note=note, details=details))
    return rows


def times(settings: Settings) -> list[Row]:
    """Seconds to write and to read a file, on one thread."""
    weights = pruned(SIZE // 100 if settings.quick else SIZE, TIMED, "by magnitude")
    settings.say("times")
    with tempfile.TemporaryDirectory() as folder, threads(1):
        path = save({"weights": weights}, Path(folder) / "weights.slr")
        work: dict[str, Callable[[], object]] = {
            "save": partial(save, {"weights": weights}, path),
            "load": partial(load, path),
        }
        seconds = interleaved(work, 3 if settings.quick else 9)
    setting = f"{weights.numel() / 1e6:g} M float32, {TIMED:.0%} pruned by magnitude, 1 thread"
    return [
        Row(name, setting, median(found), "s", TIME_TARGET, quartiles(found), details={"seconds": found})
        for name, found in seconds.items()
    ]


def pruned(count: int, sparsity: float, how: str) -> Tensor:
    """``count`` standard normal weights of which a share ``sparsity`` is zero, ``by magnitude`` or ``at random``."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(count, generator=generator)
    order = weights.abs() if how == "by magnitude" else torch.rand(count, generator=generator)
    return weights.masked_fill(order <= order.kthvalue(round(sparsity * count)).values, 0.0)


def entropy(count: int, sparsity: float) -> float:
    """Bytes that no lossless format goes below on average where weights are pruned at random."""
    keep = 1 - sparsity
    place = -keep * math.log2(keep) - sparsity * math.log2(sparsity)
    return count * (keep * _NORMAL_BITS + place) / 8

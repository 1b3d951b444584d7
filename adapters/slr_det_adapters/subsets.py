"""Some samples of a data set."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset


def spread(samples: Any, most: int) -> Any:
    """About that many samples, spread over all of them; the whole for 0."""
    if not most or most >= len(samples):
        return samples
    chosen: list[int] = np.linspace(0, len(samples) - 1, most).round().astype(int).tolist()
    return Subset(samples, chosen)


def drawn(count: int, most: int, batch: int, seed: int) -> list[int]:
    """Numbers of at most so many of ``count`` samples, in an order that the seed draws; whole batches alone.

    For batch-norm statistics, where each batch counts the same, so that one that is not full would count for more than
    its samples.
    """
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = torch.randperm(count, generator=generator)[:most].tolist()
    return order[: max(len(order) // batch, 1) * batch]

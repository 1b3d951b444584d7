"""Which l values are the largest: exact, ties to the lower index, over several tensors without joining them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def largest(scores: Sequence[Tensor], keep: int) -> list[Tensor]:
    """Bool masks of the ``keep`` largest absolute values over all tensors, ties to the lower index.

    Args:
        scores: Floating-point tensors of any shape.
        keep: How many entries to mark, between 1 and the total number of entries.

    Returns:
        One bool tensor per input; exactly ``keep`` entries are True in all.
    """
    flat = torch.cat([score.reshape(-1) for score in scores]).abs()
    order = torch.argsort(flat, descending=True, stable=True)[:keep]
    mask = torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device)
    mask[order] = True
    parts = torch.split(mask, [score.numel() for score in scores])
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]

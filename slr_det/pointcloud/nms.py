"""Which detections stay? Non-maximum suppression by the overlap of rotated boxes seen from above."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slr_det.pointcloud.rotated import Footprints, meeting_overlaps

#: Candidates decided together.
_BLOCK = 64


@torch.no_grad()
def rotated_nms(
    boxes: Tensor, scores: Tensor, threshold: float, *, pre: int = 4096, post: int = 500
) -> Tensor:
    """Keep the best of boxes that overlap.

    From the best score down, a box is kept unless its intersection over union, seen from above, with one kept before
    exceeds the threshold. Of equal scores the lower index comes first.

    The best candidates are decided in blocks, and only what a block keeps is compared with the candidates left, so
    both extremes are fast: of many near-duplicates few candidates are left after the first block, and boxes far apart
    are never compared because their circles do not meet.

    Args:
        boxes: (N, 7) floats x, y, z, dx, dy, dz, heading. A box that is not finite or has no area overlaps nothing.
        scores: (N,) floats, none of them NaN.
        threshold: Highest overlap of two kept boxes.
        pre: Number of best boxes that are looked at.
        post: Most boxes to keep.

    Returns:
        Indices of the kept boxes, best first; int64, at most ``post``.
    """
    order = scores.sort(descending=True, stable=True).indices[:pre]
    candidates = Footprints.of(boxes[order])
    left = torch.arange(len(candidates), device=boxes.device)
    kept: list[Tensor] = [left[:0]]
    count = 0
    while left.numel() and count < post:
        block, left = left[:_BLOCK], left[_BLOCK:]
        chosen = block[_best_of(candidates[block], threshold)]
        kept.append(chosen)
        count += chosen.numel()
        left = left[~_suppressed(candidates[chosen], candidates[left], threshold)]
    return order[torch.cat(kept)[:post]]


def _best_of(block: Footprints, threshold: float) -> Tensor:
    """Indices of those that stay among a few candidates, best first."""
    size = len(block)
    exceeds = torch.zeros(size, size, dtype=torch.bool, device=block.radii.device)
    for i, j, shared in meeting_overlaps(block, block):
        exceeds[i, j] = _iou(block.areas[i], block.areas[j], shared) > threshold
    rows: NDArray[np.bool_] = exceeds.cpu().numpy()
    gone = np.zeros(size, dtype=bool)
    stay = []
    for index in range(size):
        if not gone[index]:
            stay.append(index)
            gone |= rows[index]
    return torch.tensor(stay, dtype=torch.int64, device=block.radii.device)


def _suppressed(kept: Footprints, others: Footprints, threshold: float) -> Tensor:
    gone = torch.zeros(len(others), dtype=torch.bool, device=others.radii.device)
    for i, j, shared in meeting_overlaps(kept, others):
        gone[j[_iou(kept.areas[i], others.areas[j], shared) > threshold]] = True
    return gone


def _iou(area_a: Tensor, area_b: Tensor, shared: Tensor) -> Tensor:
    return shared / (area_a + area_b - shared).clamp_min_(torch.finfo(shared.dtype).tiny)

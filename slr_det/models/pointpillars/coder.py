"""Boxes as offsets from anchors and back (section 2.3; Yan et al. 2018, SECOND, equation 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST = 1e-5  # metres; the logarithm of a size needs one above 0


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Offsets of boxes from anchors.

    The centre's offset is measured in the anchor's diagonal (x and y) and its height (z), sizes as the logarithm of
    their ratio, the heading as the difference of the angles.

    Args:
        boxes: (..., 7) float32.
        anchors: (..., 7) float32.

    Returns:
        (..., 7) float32.
    """
    size = anchors[..., 3:6].clamp_min(_SMALLEST)
    moved = (boxes[..., :3] - anchors[..., :3]) / _units(size)
    grown = (boxes[..., 3:6].clamp_min(_SMALLEST) / size).log()
    return torch.cat([moved, grown, boxes[..., 6:7] - anchors[..., 6:7]], -1)


def decode(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Inverse of :func:`encode`."""
    size = anchors[..., 3:6]
    centre = offsets[..., :3] * _units(size) + anchors[..., :3]
    return torch.cat([centre, offsets[..., 3:6].exp() * size, offsets[..., 6:7] + anchors[..., 6:7]], -1)


def _units(size: Tensor) -> Tensor:
    diagonal = size[..., :2].square().sum(-1, keepdim=True).sqrt()
    return torch.cat([diagonal, diagonal, size[..., 2:3]], -1)

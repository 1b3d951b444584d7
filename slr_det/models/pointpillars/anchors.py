"""Anchors: the boxes that predictions are offsets from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from slr_det.models.pointpillars.config import AnchorClass, PointPillarsConfig


def anchors_of(config: PointPillarsConfig) -> Tensor:
    """Every anchor.

    Args:
        config: Range, grid of the head, sizes and rotations.

    Returns:
        (y, x, A, 7) float32 boxes, A as the head's channels: class by class, size by size, rotation by rotation.
    """
    return torch.cat([_anchors(config, anchor) for anchor in config.anchors], 2)


def owners_of(config: PointPillarsConfig) -> list[slice]:
    """Which of the A anchors of a cell belong to each entry of ``config.anchors``."""
    owners = []
    start = 0
    for anchor in config.anchors:
        end = start + len(anchor.sizes) * len(anchor.rotations)
        owners.append(slice(start, end))
        start = end
    return owners


def _anchors(config: PointPillarsConfig, anchor: AnchorClass) -> Tensor:
    nx, ny = config.head_grid
    x = _steps(config.point_range[0], config.point_range[3], nx, anchor.centred)
    y = _steps(config.point_range[1], config.point_range[4], ny, anchor.centred)
    sizes, rotations = torch.tensor(anchor.sizes), torch.tensor(anchor.rotations)
    boxes = torch.empty(ny, nx, len(sizes), len(rotations), 7)
    boxes[..., 0] = x[None, :, None, None]
    boxes[..., 1] = y[:, None, None, None]
    boxes[..., 2] = anchor.bottom + sizes[:, None, 2] / 2
    boxes[..., 3:6] = sizes[:, None]
    boxes[..., 6] = rotations
    return boxes.flatten(2, 3)


def _steps(start: float, end: float, count: int, centred: bool) -> Tensor:
    """``count`` places; the same floats as OpenPCDet's, which keeps the range in float32."""
    first = float(np.float32(start))
    if count == 1 and not centred:
        return torch.tensor([first])
    step = float(np.float32(end) - np.float32(start)) / (count if centred else count - 1)
    first += step / 2 if centred else 0.0
    return torch.arange(first, first + (count - 0.5) * step, step, dtype=torch.float32)

"""What lies in a box, and how boxes compare without regard to their exact heading."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: Points times boxes that are looked at together; bounds the temporary memory to a few megabytes.
_TOGETHER = 1 << 18


@torch.no_grad()
def points_in_boxes(points: Tensor, boxes: Tensor, *, margin: float = 1e-2) -> Tensor:
    """Which points lie in which boxes.

    A point is inside where |z| <= dz / 2, |x| < dx / 2 + margin and |y| < dy / 2 + margin in the box's own frame. The
    default margin of 1 cm is that of OpenPCDet's CPU operator (``roiaware_pool3d``), with which its database of
    objects is cut out, so that ours holds the same points; 0 gives the box itself.

    Args:
        points: (P, 3 or more) floats x, y, z, ...
        boxes: (N, 7) floats x, y, z, dx, dy, dz, heading; on the same device.
        margin: Metres added on every side, but not above and below.

    Returns:
        (N, P) booleans. Boxes and points with a NaN are in nothing and hold nothing.
    """
    count = points.shape[0]
    inside = torch.zeros(boxes.shape[0], count, dtype=torch.bool, device=points.device)
    x, y, z = (column.contiguous() for column in points[:, :3].unbind(1))
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    height = max(1, _TOGETHER // max(1, count))
    for start in range(0, boxes.shape[0], height):
        rows = slice(start, start + height)
        centre, half = boxes[rows, :3, None], boxes[rows, 3:6, None] / 2
        c, s = cos[rows, None], sin[rows, None]
        east, north = x - centre[:, 0], y - centre[:, 1]
        out = torch.le((z - centre[:, 2]).abs_(), half[:, 2], out=inside[rows])
        out &= (east * c).addcmul_(north, s).abs_() < half[:, 0] + margin
        out &= (north * c).addcmul_(east, s, value=-1).abs_() < half[:, 1] + margin
    return inside


def wrap_angle(angle: Tensor, offset: float = 0.5, period: float = math.pi) -> Tensor:
    """Move angles by whole periods into [-offset * period, (1 - offset) * period).

    Args:
        angle: Radians, any shape.
        offset: Where the interval begins: 0.5 centres it on zero, 0 lets it begin there.
        period: Radians.
    """
    return angle - torch.floor(angle / period + offset) * period


@torch.no_grad()
def nearest_bev_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, from above, of boxes turned to the nearest axis.

    A box whose heading is within 45 degrees of the y axis swaps its length and its width; the heading is then ignored.
    Anchors are matched by this measure in PointPillars (Lang et al., 2019, section 2.4) and in OpenPCDet.

    Args:
        a: (N, 7) floats x, y, z, dx, dy, dz, heading.
        b: (M, 7) floats.

    Returns:
        (N, M) in [0, 1].
    """
    low_a, high_a, area_a = _aligned(a)
    low_b, high_b, area_b = _aligned(b)
    overlap = _common_length(low_a[:, 0], high_a[:, 0], low_b[:, 0], high_b[:, 0])
    overlap.mul_(_common_length(low_a[:, 1], high_a[:, 1], low_b[:, 1], high_b[:, 1]))
    union = (area_a[:, None] + area_b).sub_(overlap)
    return overlap.div_(union.clamp_min_(1e-6))


def in_range(boxes: Tensor, point_range: Sequence[float]) -> Tensor:
    """Which boxes have their centre in a range, its limits included.

    Args:
        boxes: (N, 3 or more) floats, x, y and z first.
        point_range: Lowest x, y, z, then highest x, y, z in metres.

    Returns:
        (N,) booleans.
    """
    limits = torch.as_tensor(point_range, dtype=boxes.dtype, device=boxes.device)
    centres = boxes[:, :3]
    return ((centres >= limits[:3]) & (centres <= limits[3:])).all(1)


def _aligned(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    along = wrap_angle(boxes[:, 6]).abs() < math.pi / 4
    size = torch.where(along[:, None], boxes[:, 3:5], boxes[:, [4, 3]])
    low, high = boxes[:, :2] - size / 2, boxes[:, :2] + size / 2
    return low, high, (high - low).prod(1)


def _common_length(low_a: Tensor, high_a: Tensor, low_b: Tensor, high_b: Tensor) -> Tensor:
    length = torch.minimum(high_a[:, None], high_b)
    return length.sub_(torch.maximum(low_a[:, None], low_b)).clamp_min_(0)

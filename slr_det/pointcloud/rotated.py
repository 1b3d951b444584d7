"""How much do two boxes overlap, seen from above and in space? Exact, for boxes of any heading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

#: What a call may need beyond its inputs, in bytes, its result included.
MEMORY = 512 << 20

#: Pairs computed at once on a CPU, whose temporary tensors then stay in its cache.
_CPU_PAIRS = 1 << 14
#: Pairs tested at once, by their circles, on a CPU.
_CPU_TESTED = 1 << 20
#: Numbers that a pair needs at most while it is computed (about 70, and its indices), and while it is tested.
_PAIR_NUMBERS = 96
_TESTED_NUMBERS = 8


def bev_corners(boxes: Tensor) -> Tensor:
    """The corners of boxes seen from above.

    Args:
        boxes: (N, 7) floats x, y, z, dx, dy, dz, heading.

    Returns:
        (N, 4, 2) x and y, counter-clockwise, the first one front left (+dx / 2, +dy / 2 in the box's own frame).
    """
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    half_x, half_y = boxes[:, 3] / 2, boxes[:, 4] / 2
    length = torch.stack([half_x * cos, half_x * sin], dim=1)
    width = torch.stack([-half_y * sin, half_y * cos], dim=1)
    ring = [length + width, width - length, -length - width, length - width]
    return boxes[:, None, :2] + torch.stack(ring, dim=1)


def overlap_bev(a: Tensor, b: Tensor, *, memory: int = MEMORY) -> Tensor:
    """The area, seen from above, that each box of one set shares with each of another.

    The numbers are exact up to rounding (no margin, no epsilon), also for boxes that are equal, touch or lie inside
    one another; boxes that are apart give 0. A box with a number that is not finite, or without area, overlaps
    nothing. No result is ever NaN.

    Args:
        a: (N, 7) floats x, y, z, dx, dy, dz, heading.
        b: (M, 7) floats, of the same type and on the same device.
        memory: Bytes that the call may need beyond its inputs, the result included.

    Returns:
        (N, M) areas in the type of ``a`` (in float32 for half precision). No gradient flows through them.
    """
    return _matrix(a, b, memory, lambda rows, overlap: None)


def iou_bev(a: Tensor, b: Tensor, *, memory: int = MEMORY) -> Tensor:
    """Intersection over union of boxes seen from above; arguments and result as of :func:`overlap_bev`."""
    area_a, area_b = Footprints.of(a).areas, Footprints.of(b).areas

    def divide(rows: slice, overlap: Tensor) -> None:
        union = (area_a[rows, None] + area_b).sub_(overlap)
        overlap.div_(union.clamp_min_(torch.finfo(overlap.dtype).tiny))

    return _matrix(a, b, memory, divide)


def iou_3d(a: Tensor, b: Tensor, *, memory: int = MEMORY) -> Tensor:
    """Intersection over union of the boxes' volumes; arguments and result as of :func:`overlap_bev`."""
    low_a, high_a, volume_a = _heights(a)
    low_b, high_b, volume_b = _heights(b)

    def divide(rows: slice, overlap: Tensor) -> None:
        height = torch.minimum(high_a[rows, None], high_b).sub_(torch.maximum(low_a[rows, None], low_b))
        overlap.mul_(height.clamp_min_(0))
        union = torch.add(volume_a[rows, None], volume_b, out=height).sub_(overlap)
        overlap.div_(union.clamp_min_(torch.finfo(overlap.dtype).tiny))

    return _matrix(a, b, memory, divide)


@torch.no_grad()
def overlap_bev_pairs(a: Tensor, b: Tensor, *, memory: int = MEMORY) -> Tensor:
    """The area, seen from above, that the k-th boxes of two sets share.

    Args:
        a: (K, 7) floats x, y, z, dx, dy, dz, heading.
        b: (K, 7) floats, of the same type and on the same device.
        memory: Bytes that the call may need beyond its inputs and the result.

    Returns:
        (K,) areas, exact as those of :func:`overlap_bev`.
    """
    first, second = Footprints.of(a), Footprints.of(b)
    pairs = max(1024, memory // (_PAIR_NUMBERS * first.numbers.element_size()))
    if first.numbers.device.type == "cpu":
        pairs = min(pairs, _CPU_PAIRS)
    result = first.numbers.new_zeros(len(first))
    for start in range(0, len(first), pairs):
        part = slice(start, start + pairs)
        result[part] = _overlap(first.numbers[:, part], second.numbers[:, part])
    return result


@dataclass(frozen=True)
class Footprints:
    """Boxes seen from above, ready to be compared.

    Attributes:
        numbers: (7, N) x, y, cosine and sine of the heading, half the length, half the width, area; 0 where a box is
            not usable.
        radii: (N,) radii of the circumscribed circles; NaN, which no comparison is true for, where a box is not usable.
    """

    numbers: Tensor
    radii: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, boxes: Tensor) -> Footprints:
        """Take the footprints of (N, 7) boxes; half precision becomes float32."""
        boxes = _wide(boxes)
        usable = _usable(boxes)
        x, y, _, dx, dy, _, heading = boxes[:, :7].unbind(1)
        numbers = torch.stack([x, y, heading.cos(), heading.sin(), dx / 2, dy / 2, dx * dy])
        radii = torch.hypot(dx / 2, dy / 2)
        return cls(torch.where(usable, numbers, 0), torch.where(usable, radii, torch.nan))

    @property
    def areas(self) -> Tensor:
        """(N,) areas; 0 where a box is not usable."""
        return self.numbers[6]

    def __len__(self) -> int:
        return self.radii.numel()

    def __getitem__(self, index: Tensor | slice) -> Footprints:
        return Footprints(self.numbers[:, index], self.radii[index])


@torch.no_grad()
def meeting_overlaps(
    a: Footprints, b: Footprints, *, memory: int = MEMORY
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The overlaps of the pairs whose circumscribed circles meet, chunk by chunk.

    Yields:
        Indices into ``a``, indices into ``b`` and the area that each such pair shares, (K,) each.
    """
    bytes_each = a.numbers.element_size()
    on_cpu = a.numbers.device.type == "cpu"
    pairs = max(1024, memory // 2 // (_PAIR_NUMBERS * bytes_each))
    tested = max(1024, memory // 2 // (_TESTED_NUMBERS * bytes_each))
    if on_cpu:
        pairs, tested = min(pairs, _CPU_PAIRS), min(tested, _CPU_TESTED)
    height = max(1, tested // max(1, len(b)))
    for start in range(0, len(a), height):
        rows = a[slice(start, start + height)]
        meeting = _circles_meet(rows, b).view(-1).nonzero().squeeze(1)
        for begin in range(0, meeting.numel(), pairs):
            flat = meeting[begin : begin + pairs]
            i = torch.div(flat, len(b), rounding_mode="floor")
            j = flat - i * len(b)
            yield i + start, j, _overlap(rows.numbers.index_select(1, i), b.numbers.index_select(1, j))


def _matrix(a: Tensor, b: Tensor, memory: int, finish: Callable[[slice, Tensor], None]) -> Tensor:
    with torch.no_grad():
        first, second = Footprints.of(a), Footprints.of(b)
        result = first.numbers.new_zeros(len(first), len(second))
        left = memory - result.numel() * result.element_size()
        for i, j, shared in meeting_overlaps(first, second, memory=left):
            result[i, j] = shared
        height = max(1, _CPU_TESTED // max(1, len(second)))
        for start in range(0, len(first), height):
            rows = slice(start, start + height)
            finish(rows, result[rows])
    return result


def _circles_meet(a: Footprints, b: Footprints) -> Tensor:
    across = (a.numbers[0, :, None] - b.numbers[0]).square_()
    along = a.numbers[1, :, None] - b.numbers[1]
    across.addcmul_(along, along)
    reach = torch.add(a.radii[:, None], b.radii, out=along).square_()
    return across <= reach


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """The area shared by pairs of footprints, (7, K) each.

    In the frame of ``a``, the shared area is the integral over x within ``a`` of the length that the vertical line at
    x has in both boxes: the upper boundary of ``b``, limited to the height of ``a``, less the lower one. Summed over
    the four edges of ``b``, in order, each one gives the width of its part within ``a`` times its mean limited height.
    Nothing is sorted, and all of it is continuous in the boxes, so rounding costs no more than rounding.
    """
    ax, ay, a_cos, a_sin, a_x, a_y, a_area = a
    bx, by, b_cos, b_sin, b_x, b_y, b_area = b
    least = torch.finfo(a.dtype).tiny
    east, north = bx - ax, by - ay
    u, v = east * a_cos + north * a_sin, north * a_cos - east * a_sin
    cos, sin = a_cos * b_cos + a_sin * b_sin, a_cos * b_sin - a_sin * b_cos
    x = _ring(u, cos * b_x, sin * -b_y)
    y = _ring(v, sin * b_x, cos * b_y)

    # The part of each edge between x = -a_x and x = a_x, and its heights there. Where nothing of an edge lies between,
    # its part has no width, so that its heights do not matter as long as they are finite.
    inner = torch.maximum(torch.minimum(x, a_x), -a_x)
    cut = (inner - x).abs_()
    run, rise = (x[1:] - x[:4]).abs_().clamp_min_(least), y[1:] - y[:4]
    begin = (cut[:4] / run).clamp_max_(1).mul_(rise).add_(y[:4])
    end = torch.sub(y[1:], (cut[1:] / run).clamp_max_(1).mul_(rise))

    # The mean of a height that climbs evenly from begin to end, limited to between -a_y and a_y.
    begin_inner = torch.maximum(torch.minimum(begin, a_y), -a_y)
    end_inner = torch.maximum(torch.minimum(end, a_y), -a_y)
    climb = (end - begin).abs_().clamp_min_(least)
    share = (end_inner - begin_inner).abs_().div_(climb)
    inner_sum = begin_inner.add_(end_inner)
    twice_mean = begin.add_(end).sub_(inner_sum).mul_(share).add_(inner_sum)

    area = (inner[:4] - inner[1:]).mul_(twice_mean).sum(0).div_(2)
    area = torch.where(_depth(u, v, cos, sin, a_x, a_y, b_x, b_y) > 0, area, 0)
    return torch.minimum(area.nan_to_num_(0.0).clamp_min_(0), torch.minimum(a_area, b_area))


def _depth(
    u: Tensor, v: Tensor, cos: Tensor, sin: Tensor, a_x: Tensor, a_y: Tensor, b_x: Tensor, b_y: Tensor
) -> Tensor:
    """How far pairs of boxes would have to move along a side of one of them to be apart; not positive where they are.

    Two rectangles are apart where they are so along one of these four directions (the separating axis theorem). Such
    boxes then share exactly nothing, not what rounding leaves of a sum.
    """
    abs_cos, abs_sin = cos.abs(), sin.abs()
    sides = (
        (a_x, abs_cos * b_x, abs_sin * b_y, u),
        (a_y, abs_sin * b_x, abs_cos * b_y, v),
        (b_x, abs_cos * a_x, abs_sin * a_y, u * cos + v * sin),
        (b_y, abs_sin * a_x, abs_cos * a_y, v * cos - u * sin),
    )
    depths = [x_part.add_(y_part).add_(own).sub_(between.abs()) for own, x_part, y_part, between in sides]
    return torch.stack(depths).amin(0)


def _ring(centre: Tensor, length: Tensor, width: Tensor) -> Tensor:
    """One coordinate of the corners, counter-clockwise, the first one again at the end."""
    front, back = centre + length, centre - length
    ring = centre.new_empty(5, centre.numel())
    for row, (end, side) in enumerate(((front, 1), (back, 1), (back, -1), (front, -1), (front, 1))):
        torch.add(end, width, alpha=side, out=ring[row])
    return ring


def _wide(boxes: Tensor) -> Tensor:
    return boxes.float() if boxes.dtype in (torch.float16, torch.bfloat16) else boxes


def _usable(boxes: Tensor) -> Tensor:
    """(N,) whether a box has finite numbers, a finite volume and a positive area."""
    sizes = boxes[:, 3:6]
    finite = boxes[:, :7].isfinite().all(1) & sizes.prod(1).isfinite() & sizes[:, :2].prod(1).isfinite()
    return finite & (sizes[:, :2] > 0).all(1)


def _heights(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    boxes = _wide(boxes.detach())
    usable = _usable(boxes)
    z, dz = boxes[:, 2], boxes[:, 5].clamp_min(0)
    low, high, volume = z - dz / 2, z + dz / 2, boxes[:, 3] * boxes[:, 4] * dz
    return torch.where(usable, low, 0), torch.where(usable, high, 0), torch.where(usable, volume, 0)

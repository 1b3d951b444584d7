"""What lies in a box and how boxes compare: against one point and one pair after the other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from slr_det.pointcloud import boxes as module
from slr_det.pointcloud import in_range, nearest_bev_iou, points_in_boxes, wrap_angle

BOX = torch.tensor([[10.0, -5.0, -1.0, 4.0, 2.0, 1.5, math.pi / 2]])


def at(*points: tuple[float, float, float]) -> Tensor:
    return torch.tensor(points)


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    u = torch.rand(count, 7, generator=generator, dtype=torch.float64)
    low = torch.tensor([0.0, 0.0, -2.0, 0.5, 0.5, 1.0, -7.0], dtype=torch.float64)
    return low + u * torch.tensor([9.0, 9.0, 2.0, 5.0, 2.0, 1.0, 14.0], dtype=torch.float64)


def inside(point: list[float], box: list[float], margin: float) -> bool:
    x, y, z = (p - c for p, c in zip(point, box[:3], strict=True))
    angle = math.atan2(y, x) - box[6]
    along, across = math.hypot(x, y) * math.cos(angle), math.hypot(x, y) * math.sin(angle)
    near = abs(along) < box[3] / 2 + margin and abs(across) < box[4] / 2 + margin
    return near and abs(z) <= box[5] / 2


@pytest.mark.parametrize("margin", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("together", [1, 700, 1 << 18])
def test_points_are_those_of_each_pair(margin: float, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOGETHER", together)
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(17, generator)
    points = torch.rand(300, 4, generator=generator, dtype=torch.float64) * torch.tensor(
        [9.0, 9.0, -3.0, 1.0]
    )
    wanted = [[inside(p[:3], b, margin) for p in points.tolist()] for b in boxes.tolist()]
    assert 0.02 < np.mean(wanted) < 0.9
    assert torch.equal(points_in_boxes(points, boxes, margin=margin), torch.tensor(wanted))


def test_height_is_closed_and_the_margin_is_to_the_sides_alone() -> None:
    floor, ceiling = at((10, -5, -1.75)), at((10, -5, -0.25))
    assert points_in_boxes(floor, BOX).all() and points_in_boxes(ceiling, BOX).all()
    assert not points_in_boxes(at((10, -5, -0.245)), BOX).any()
    front, side = at((10, -2.995, -1)), at((11.005, -5, -1))  # 5 mm outside
    assert points_in_boxes(front, BOX).all() and points_in_boxes(side, BOX).all()
    assert not points_in_boxes(front, BOX, margin=0).any() and not points_in_boxes(side, BOX, margin=0).any()
    assert not points_in_boxes(at((10, -2.985, -1), (11.015, -5, -1)), BOX).any()  # 15 mm


def test_sides_are_open_without_a_margin() -> None:
    box = torch.tensor([[0.0, 0.0, 0.0, 4.0, 2.0, 1.0, 0.0]])
    assert points_in_boxes(at((1.999, 0, 0), (2, 0, 0), (0, -1, 0)), box, margin=0).tolist() == [
        [True, False, False]
    ]


def test_points_and_boxes_that_are_not_numbers_are_nowhere() -> None:
    points = at((math.nan, -5, -1), (10, -5, math.nan), (math.inf, -5, -1), (10, -5, -1))
    assert points_in_boxes(points, BOX).tolist() == [[False, False, False, True]]
    for column in range(7):
        broken = BOX.clone()
        broken[0, column] = math.nan
        assert not points_in_boxes(points, broken).any()


def test_nothing_in_nothing() -> None:
    assert points_in_boxes(torch.zeros(0, 4), BOX).shape == (1, 0)
    assert points_in_boxes(torch.zeros(5, 4), BOX[:0]).shape == (0, 5)


@pytest.mark.parametrize(
    ("offset", "period", "angle", "wanted"),
    [
        (0.5, math.pi, 0.0, 0.0),
        (0.5, math.pi, math.pi / 2, -math.pi / 2),
        (0.5, math.pi, 3.0, 3.0 - math.pi),
        (0.5, 2 * math.pi, 4.0, 4.0 - 2 * math.pi),
        (0.5, 2 * math.pi, -1.0, -1.0),
        (0.0, 2 * math.pi, -1.0, 2 * math.pi - 1.0),
        (0.0, math.pi, 7.0, 7.0 - 2 * math.pi),
        (1.0, math.pi, 1.0, 1.0 - math.pi),
    ],
)
def test_angles_are_moved_by_whole_periods(offset: float, period: float, angle: float, wanted: float) -> None:
    found = wrap_angle(torch.tensor([angle], dtype=torch.float64), offset, period)
    assert found.item() == pytest.approx(wanted, abs=1e-12)


def aligned(box: list[float]) -> tuple[float, float, float, float]:
    """x and y limits with the heading turned to the nearest axis."""
    quarter = round(box[6] / (math.pi / 2)) % 2
    dx, dy = (box[4], box[3]) if quarter else (box[3], box[4])
    return box[0] - dx / 2, box[1] - dy / 2, box[0] + dx / 2, box[1] + dy / 2


def test_nearest_overlap_is_that_of_upright_rectangles() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = random_boxes(60, generator), random_boxes(40, generator)
    wanted = torch.zeros(60, 40, dtype=torch.float64)
    for i, p in enumerate(map(aligned, a.tolist())):
        for j, q in enumerate(map(aligned, b.tolist())):
            width = min(p[2], q[2]) - max(p[0], q[0])
            height = min(p[3], q[3]) - max(p[1], q[1])
            shared = max(width, 0) * max(height, 0)
            areas = [(r[2] - r[0]) * (r[3] - r[1]) for r in (p, q)]
            wanted[i, j] = shared / (sum(areas) - shared)
    assert (wanted > 0).any() and (wanted == 0).any()
    torch.testing.assert_close(nearest_bev_iou(a, b), wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(nearest_bev_iou(a.float(), b.float()), wanted.float(), atol=1e-5, rtol=0)


def test_a_box_just_past_45_degrees_swaps_its_sides() -> None:
    boxes = BOX.repeat(3, 1)
    boxes[:, 6] = torch.tensor([0.78, 0.79, 0.79 + math.pi])
    torch.testing.assert_close(nearest_bev_iou(boxes, BOX)[:, 0], torch.tensor([1 / 3, 1.0, 1.0]))


def test_nearest_overlap_of_nothing_and_of_no_size() -> None:
    assert nearest_bev_iou(BOX[:0], BOX).shape == (0, 1)
    flat = BOX.clone()
    flat[:, 3:5] = 0
    assert nearest_bev_iou(flat, flat).item() == 0


def test_a_range_includes_its_limits() -> None:
    centres = torch.tensor(
        [[0.0, -40, -3], [70.4, 40, 1], [70.5, 0, 0], [1, 40.1, 0], [1, 0, -3.1], [math.nan, 0, 0]]
    )
    found = in_range(torch.cat([centres, torch.ones(6, 5)], dim=1), (0, -40, -3, 70.4, 40, 1))
    assert found.tolist() == [True, True, False, False, False, False]

"""Voxels hold the points, and come in the order, of a loop over the points."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from slr_det.errors import ConfigError
from slr_det.pointcloud import Voxels, grid_size, voxelize

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
KITTI = (0.0, -39.68, -3.0, 69.12, 39.68, 1.0)
CUBE = (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return str(request.param)


def naive(
    points: Tensor, size: tuple[float, ...], limits: tuple[float, ...], max_points: int, max_voxels: int
) -> Voxels:
    width, low = np.float32(size), np.float32(limits[:3])
    counts = [math.floor(n + 0.5) for n in (np.float32(limits[3:]) - low) / width]
    voxels: dict[tuple[int, ...], list[np.ndarray]] = {}
    for point in points.numpy():
        place = np.floor((point[:3] - low) / width)
        if not all(0 <= p < n for p, n in zip(place, counts, strict=True)):
            continue
        key = tuple(int(p) for p in place[::-1])
        if key not in voxels and len(voxels) < max_voxels:
            voxels[key] = []
        if key in voxels and len(voxels[key]) < max_points:
            voxels[key].append(point)
    features = torch.zeros(len(voxels), max_points, points.shape[1])
    for row, held in enumerate(voxels.values()):
        features[row, : len(held)] = torch.from_numpy(np.stack(held))
    coordinates = torch.tensor(list(voxels), dtype=torch.int32).reshape(-1, 3)
    return Voxels(
        features, coordinates, torch.tensor([len(held) for held in voxels.values()], dtype=torch.int32)
    )


@pytest.mark.parametrize(
    ("size", "limits"),
    [((0.5, 0.5, 2.0), CUBE), ((0.25, 0.4, 0.3), CUBE), ((0.3, 0.7, 0.9), (-1.0, -0.9, -1.0, 1.1, 0.8, 0.7))],
)
@pytest.mark.parametrize(("max_points", "max_voxels"), [(1, 5), (4, 12), (3, 1000), (100, 1000)])
@pytest.mark.parametrize("features", [3, 4, 6])
def test_a_loop_finds_the_same_voxels(
    size: tuple[float, ...],
    limits: tuple[float, ...],
    max_points: int,
    max_voxels: int,
    features: int,
    device: str,
) -> None:
    points = 1.2 * torch.randn(600, features, generator=torch.Generator().manual_seed(features))
    points[::5, :3] = (points[::5, :3] * 10).round() / 10  # on the sides of voxels
    wanted = naive(points, size, limits, max_points, max_voxels)
    found = voxelize(points.to(device), size, limits, max_points, max_voxels)
    for name in ("features", "coordinates", "counts"):
        part, whole = getattr(found, name), getattr(wanted, name)
        assert part.device.type == device and part.dtype == whole.dtype and part.is_contiguous()
        assert torch.equal(part.cpu(), whole), name


def test_what_is_full_stays_as_it_is() -> None:
    points = torch.tensor(
        [[0.1, 0.1, 0, 1], [0.9, 0.9, 0, 2], [0.2, 0.2, 0, 3], [-0.9, 0, 0, 4], [0.3, 0.3, 0, 5]]
    )
    found = voxelize(points, (0.5, 0.5, 2.0), CUBE, 2, 2)
    assert found.features[:, :, 3].tolist() == [[1, 3], [2, 0]]  # 5 came too late, 4 has no voxel
    assert found.coordinates.tolist() == [[0, 2, 2], [0, 3, 3]]
    assert found.counts.tolist() == [2, 1]


def test_points_that_are_nowhere_are_in_no_voxel() -> None:
    nowhere = [[math.nan, 0, 0], [0, math.inf, 0], [0, 0, -math.inf], [1e30, 0, 0], [1, 0, 0], [0, 0, -1.001]]
    found = voxelize(torch.tensor([*nowhere, [0.5, 0.0, -1.0]]), (0.5, 0.5, 2.0), CUBE, 3, 10)
    assert found.counts.tolist() == [1] and found.coordinates.tolist() == [[0, 2, 3]]


@pytest.mark.parametrize("count", [0, 3])
def test_a_cloud_without_a_point_in_range_has_no_voxels(count: int, device: str) -> None:
    found = voxelize(torch.full((count, 4), 9.0, device=device), (0.5, 0.5, 2.0), CUBE, 3, 10)
    assert found.features.shape == (0, 3, 4) and found.features.device.type == device
    assert found.coordinates.shape == (0, 3) and found.coordinates.dtype == torch.int32
    assert found.counts.shape == (0,) and found.counts.dtype == torch.int32


def test_the_grids_of_the_papers() -> None:
    assert grid_size((0.16, 0.16, 4.0), KITTI) == (432, 496, 1)
    assert grid_size((0.05, 0.05, 0.1), (0, -40, -3, 70.4, 40, 1)) == (1408, 1600, 40)
    assert grid_size((0.4, 1.0, 2.0), (0, 0, 0, 1.0, 1.5, 1.0)) == (3, 2, 1)  # halves are rounded up


def test_a_grid_of_more_cells_than_32_bits_count() -> None:
    points = torch.tensor([[99.9, 99.9, 99.9], [0.0, 0.0, 0.0], [99.9, 99.9, 99.9]])
    found = voxelize(points, (0.05, 0.05, 0.05), (0, 0, 0, 100, 100, 100), 5, 10)
    assert found.coordinates.tolist() == [[1998, 1998, 1998], [0, 0, 0]] and found.counts.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("size", "limits", "reason"),
    [
        ((0.5, 0.0, 1.0), CUBE, "voxel_size: .*expected three positive lengths"),
        ((0.5, math.nan, 1.0), CUBE, "voxel_size"),
        ((0.5, 0.5, 1.0), (1.0, -1.0, -1.0, -1.0, 1.0, 1.0), "point_range: .*holds no voxel"),
        ((0.5, 0.5, 9.0), CUBE, "holds no voxel of .*9.0"),
    ],
)
def test_a_grid_without_voxels_is_refused(
    size: tuple[float, ...], limits: tuple[float, ...], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        voxelize(torch.zeros(1, 4), size, limits, 3, 10)

"""Which points share a voxel? Point clouds cut into voxels, the same ones as spconv's, in torch alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slr_det.errors import ConfigError


@dataclass(frozen=True)
class Voxels:
    """The voxels of a point cloud that hold points.

    Attributes:
        features: (V, max_points, F) float32, the points of each voxel; zeros behind the last one.
        coordinates: (V, 3) int32, each voxel's place in the grid as z, y, x.
        counts: (V,) int32, the number of points in each.
    """

    features: Tensor
    coordinates: Tensor
    counts: Tensor


def grid_size(voxel_size: Sequence[float], point_range: Sequence[float]) -> tuple[int, int, int]:
    """The number of voxels along x, y and z, rounded (half up) in float32 as spconv does.

    Args:
        voxel_size: Metres along x, y, z.
        point_range: Lowest x, y, z, then highest x, y, z in metres.

    Raises:
        ConfigError: a size is not positive, or the range holds no voxel.
    """
    size, limits = np.asarray(voxel_size, np.float32), np.asarray(point_range, np.float32)
    if not (size > 0).all():
        raise ConfigError(f"voxel_size: {list(voxel_size)}, expected three positive lengths in metres")
    cells = ((limits[3:] - limits[:3]) / size).astype(np.float64)
    if not (cells >= 0.5).all():
        raise ConfigError(
            f"point_range: {list(point_range)} holds no voxel of {list(voxel_size)} m, "
            "expected the lowest x, y, z, then the highest"
        )
    x, y, z = np.floor(cells + 0.5).astype(np.int64).tolist()
    return x, y, z


@torch.no_grad()
def voxelize(
    points: Tensor,
    voxel_size: Sequence[float],
    point_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> Voxels:
    """Cut a point cloud into voxels.

    Voxels come in the order of their first points, and the points of a voxel in the order of the cloud. What is full
    stays as it is: further points of a voxel, and points of further voxels, are dropped. The result is that of spconv's
    ``Point2VoxelCPU3d``, the order included, on every device.

    Args:
        points: (P, F) floats x, y, z and further features; computed in float32. A point that is out of range or has a
            NaN for a coordinate is in no voxel.
        voxel_size: Metres along x, y, z.
        point_range: Lowest x, y, z, then highest x, y, z in metres.
        max_points: Most points of a voxel.
        max_voxels: Most voxels.

    Returns:
        The voxels, on the device of the points.

    Raises:
        ConfigError: as :func:`grid_size`.
    """
    points = points.float()
    grid = grid_size(voxel_size, point_range)
    key, order = _cells(points, voxel_size, point_range, grid).sort(stable=True)
    inside = int(torch.count_nonzero(key < grid[0] * grid[1] * grid[2]))
    key, order = key[:inside], order[:inside]

    # The points of a voxel now lie side by side, in the order of the cloud.
    begins = torch.ones_like(key, dtype=torch.bool)
    torch.ne(key[1:], key[:-1], out=begins[1:])
    starts = begins.nonzero().squeeze(1)
    lengths = torch.diff(starts, append=starts.new_tensor([inside]))
    chosen = order[starts].argsort()[:max_voxels]

    # Where each point goes among the rows of all voxels; what is dropped goes to one row more, which is cut off.
    total = chosen.numel()
    rows = total * max_points
    first_row = torch.full_like(starts, rows)
    first_row[chosen] = torch.arange(total, device=points.device) * max_points
    voxel = begins.cumsum(0).sub_(1)
    rank = torch.arange(inside, device=points.device).sub_(starts.index_select(0, voxel))
    row = first_row.index_select(0, voxel).add_(rank)
    row.masked_fill_(rank >= max_points, rows).clamp_max_(rows)
    features = points.new_zeros(rows + 1, points.shape[1])
    features.index_copy_(0, row, points.index_select(0, order))
    return Voxels(
        features[:rows].view(total, max_points, points.shape[1]),
        _coordinates(key[starts[chosen]], grid),
        lengths[chosen].clamp_max_(max_points).int(),
    )


def _cells(
    points: Tensor, voxel_size: Sequence[float], point_range: Sequence[float], grid: tuple[int, int, int]
) -> Tensor:
    """(P,) number of each point's cell, and for points outside the grid the number of cells."""
    cells = grid[0] * grid[1] * grid[2]
    kind = torch.int32 if cells < 2**31 else torch.int64
    # Tensors, not numbers: on a GPU torch replaces the division by a number by a product with its reciprocal.
    low = torch.tensor(point_range[:3], dtype=torch.float32, device=points.device)
    size = torch.tensor(voxel_size, dtype=torch.float32, device=points.device)
    cell = torch.zeros(points.shape[0], dtype=kind, device=points.device)
    within = torch.ones(points.shape[0], dtype=torch.bool, device=points.device)
    for axis in (2, 1, 0):
        # floor((p - low) / size) in float32, to the last bit what spconv computes.
        place = (points[:, axis] - low[axis]).div_(size[axis]).floor_()
        within &= (place >= 0).logical_and_(place < grid[axis])
        cell.mul_(grid[axis]).add_(place.to(kind))
    return cell.masked_fill_(within.logical_not_(), cells)


def _coordinates(cell: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """(V, 3) int32 z, y, x of cells."""
    rest = torch.div(cell, grid[0], rounding_mode="floor")
    columns = [torch.div(rest, grid[1], rounding_mode="floor"), rest % grid[1], cell % grid[0]]
    return torch.stack(columns, dim=1).int()

"""Which points share a voxel? Point clouds cut into voxels, the same ones as spconv's, in torch alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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
    """The number of voxels along x, y and z, in the float32 arithmetic that assigns points to them.

    Args:
        voxel_size: Metres along x, y, z.
        point_range: Lowest x, y, z, then highest x, y, z in metres.
    """
    size, limits = np.asarray(voxel_size, np.float32), np.asarray(point_range, np.float32)
    x, y, z = np.floor((limits[3:] - limits[:3]) / size + np.float32(0.5)).astype(int).tolist()
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
        points: (P, F) x, y, z and further features; computed in float32. Points out of range, or with a NaN there, are
            in no voxel.
        voxel_size: Metres along x, y, z.
        point_range: Lowest x, y, z (included), then highest x, y, z (excluded) in metres.
        max_points: Most points of a voxel.
        max_voxels: Most voxels.

    Returns:
        The voxels, on the device of the points.
    """
    points = points.float()
    counts = grid_size(voxel_size, point_range)
    device = points.device
    low = torch.tensor(point_range[:3], dtype=torch.float32, device=device)
    size = torch.tensor(voxel_size, dtype=torch.float32, device=device)
    place = ((points[:, :3] - low) / size).floor_()
    within = ((place >= 0) & (place < torch.tensor(counts, device=device))).all(1)
    chosen = within.nonzero().squeeze(1)
    x, y, z = place[chosen].long().unbind(1)
    key, order = ((z * counts[1] + y) * counts[0] + x).sort(stable=True)
    begins = torch.ones_like(key, dtype=torch.bool)
    torch.ne(key[1:], key[:-1], out=begins[1:])
    segment = begins.cumsum(0) - 1
    starts = begins.nonzero().squeeze(1)
    rank = torch.arange(key.numel(), device=device) - starts[segment]
    firsts = torch.zeros_like(begins)
    firsts[order[starts]] = True
    voxel = (firsts.cumsum(0) - 1)[order[starts]][segment]
    total = min(int(starts.numel()), max_voxels)
    fits = (voxel < total) & (rank < max_points)
    voxel, rank, source = voxel[fits], rank[fits], chosen[order[fits]]
    features = points.new_zeros(total, max_points, points.shape[1])
    features[voxel, rank] = points[source]
    coordinates = torch.zeros(total, 3, dtype=torch.int32, device=device)
    lead = rank == 0
    coordinates[voxel[lead]] = place[source[lead]].flip(1).int()
    filled = torch.bincount(voxel, minlength=total).int()
    return Voxels(features, coordinates, filled)

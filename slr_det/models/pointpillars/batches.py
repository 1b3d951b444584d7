"""Frames to a batch: the pillars of several point clouds in one set of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slr_det.models.pointpillars.config import PointPillarsConfig
from slr_det.pointcloud import Voxels

#: Points (P, F), voxel size, range, most points per voxel, most voxels; as :func:`slr_det.pointcloud.voxelize`.
Voxelize = Callable[[Tensor, Sequence[float], Sequence[float], int, int], Voxels]


@dataclass(frozen=True)
class Pillars:
    """The pillars of the frames of a batch.

    Attributes:
        features: (V, max_points, F) float32, the points of each pillar; zeros behind the last one.
        coordinates: (V, 4) int32, each pillar's frame and its place in the grid as z, y, x.
        counts: (V,) int32, the number of points in each, at least 1.
        frames: Number of frames, those without a pillar included.
    """

    features: Tensor
    coordinates: Tensor
    counts: Tensor
    frames: int

    def to(self, device: torch.device | str) -> Pillars:
        """The same on another device."""
        features, coordinates, counts = (
            tensor.to(device, non_blocking=True) for tensor in (self.features, self.coordinates, self.counts)
        )
        return Pillars(features, coordinates, counts, self.frames)


def pillars_of(
    points: Sequence[Tensor], config: PointPillarsConfig, voxelize: Voxelize, *, training: bool
) -> Pillars:
    """Cut each frame's points into pillars and put the frames together.

    Args:
        points: (P, F) float32 per frame, x, y, z first; P may be 0.
        config: Range, size and number of the pillars.
        voxelize: What cuts a point cloud into voxels: ``slr_det.pointcloud.voxelize``, or one of spconv's.
        training: Take the number of pillars for training, rather than for evaluation.

    Returns:
        The pillars, frame by frame, on the points' device.
    """
    most = config.max_voxels[0 if training else 1]
    found = [
        voxelize(cloud, config.voxel_size, config.point_range, config.max_points, most) for cloud in points
    ]
    if not found:
        empty = torch.zeros(0, config.max_points, config.point_features)
        return Pillars(empty, torch.zeros(0, 4, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), 0)
    placed = [torch.nn.functional.pad(v.coordinates, (1, 0), value=frame) for frame, v in enumerate(found)]
    return Pillars(
        torch.cat([voxels.features for voxels in found]),
        torch.cat(placed),
        torch.cat([voxels.counts for voxels in found]),
        len(found),
    )

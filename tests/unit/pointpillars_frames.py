"""Small networks and random frames for the tests of PointPillars."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from slr_det.models.pointpillars import AnchorClass, Pillars, PointPillarsConfig, pillars_of
from slr_det.pointcloud import voxelize

TINY = PointPillarsConfig(
    classes=("Car", "Pedestrian"),
    anchors=(
        AnchorClass("Car", ((3.9, 1.6, 1.56), (5.0, 2.0, 2.0)), -1.78),
        AnchorClass("Pedestrian", ((0.8, 0.6, 1.73),), -0.6, (0.0, 0.8, 1.57), 0.5, 0.35),
    ),
    point_range=(0.0, -6.4, -3.0, 12.8, 6.4, 1.0),
    voxel_size=(0.4, 0.4, 4.0),
    max_points=4,
    max_voxels=(300, 500),
    pillar_filters=(8,),
    layers=(1, 1),
    strides=(2, 2),
    filters=(8, 12),
    up_strides=(1, 2),
    up_filters=(8, 8),
)


def tiny(**changes: Any) -> PointPillarsConfig:
    """The small network with something else in it."""
    return replace(TINY, **changes)


def cloud(count: int, seed: int = 0) -> Tensor:
    """Random points in and a little around the small network's range."""
    generator = torch.Generator().manual_seed(seed)
    low, size = torch.tensor([-0.5, -7.0, -3.5, 0.0]), torch.tensor([14.0, 14.0, 5.0, 1.0])
    return torch.rand(count, 4, generator=generator) * size + low


def batch(*points: Tensor, config: PointPillarsConfig = TINY, training: bool = True) -> Pillars:
    """The pillars of some frames."""
    return pillars_of(points, config, voxelize, training=training)


def objects(count: int, seed: int = 0, classes: int = 2) -> Tensor:
    """(count, 8) boxes with a class label, in the small network's range."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(1, classes + 1, (count, 1), generator=generator).float()
    size = torch.where(label == 1, torch.tensor([3.9, 1.6, 1.56]), torch.tensor([0.8, 0.6, 1.73]))
    size = size * (0.7 + 0.6 * torch.rand(count, 3, generator=generator))
    centre = torch.rand(count, 3, generator=generator) * torch.tensor([12.0, 12.0, 1.0]) + torch.tensor(
        [0.4, -6.0, -1.5]
    )
    heading = (torch.rand(count, 1, generator=generator) * 2 - 1) * torch.pi
    return torch.cat([centre, size, heading, label], 1)

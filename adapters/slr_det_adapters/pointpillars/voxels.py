"""Voxels by spconv where it is installed, and by torch alone otherwise."""

from __future__ import annotations

import importlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from slr_det.pointcloud import voxels as fallback
from slr_det.pointcloud.voxels import Voxels

#: Settings whose voxeliser is kept, per thread; each holds buffers of some 20 MB.
_KEPT = 4


class _Kept(threading.local):
    """Voxelisers write into their own buffers, so no two threads may share one."""

    def __init__(self) -> None:
        self.voxelisers: OrderedDict[tuple[Any, ...], Any] = OrderedDict()


_kept = _Kept()


@torch.no_grad()
def voxelize(
    points: Tensor,
    voxel_size: Sequence[float],
    point_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> Voxels:
    """Cut a point cloud into voxels; arguments and result as of :func:`slr_det.pointcloud.voxels.voxelize`.

    On a CPU the voxels are the same with and without spconv, the order included. On a GPU spconv works in parallel: its
    voxels come in any order, and where more voxels or points were found than fit, which ones stay is left to chance.
    """
    if not has_spconv(points.device):
        return fallback.voxelize(points, voxel_size, point_range, max_points, max_voxels)
    fallback.grid_size(voxel_size, point_range)  # the errors are the same with and without
    points = points.float().contiguous()
    key = (tuple(voxel_size), tuple(point_range), points.shape[1], max_voxels, max_points, points.device)
    # What it returns are copies, not its buffers.
    features, coordinates, counts = _voxeliser(key)(points)
    return Voxels(features, coordinates, counts)


def has_spconv(device: torch.device) -> bool:
    """Whether spconv is installed, and built for this kind of device."""
    point_to_voxel, cpu_only = _spconv()
    return point_to_voxel is not None and (device.type == "cpu" or (device.type == "cuda" and not cpu_only))


def _voxeliser(key: tuple[Any, ...]) -> Any:
    kept = _kept.voxelisers
    if key not in kept:
        size, limits, features, max_voxels, max_points, device = key
        kept[key] = _spconv()[0](list(size), list(limits), features, max_voxels, max_points, device)
        while len(kept) > _KEPT:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]


@cache
def _spconv() -> tuple[Any, bool]:
    """spconv's voxeliser, None where spconv cannot be imported, and whether it was built without CUDA."""
    try:
        constants = importlib.import_module("spconv.cppconstants")
        utils = importlib.import_module("spconv.pytorch.utils")
    except ImportError:
        return None, True
    return utils.PointToVoxel, bool(constants.CPU_ONLY_BUILD)

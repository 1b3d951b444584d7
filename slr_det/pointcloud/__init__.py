"""Geometry of point clouds and boxes in space, in vectorised torch: nothing is compiled, CPU and CUDA alike."""

from __future__ import annotations

from slr_det.pointcloud.boxes import in_range, nearest_bev_iou, points_in_boxes, wrap_angle
from slr_det.pointcloud.nms import rotated_nms
from slr_det.pointcloud.rotated import bev_corners, iou_3d, iou_bev, overlap_bev, overlap_bev_pairs
from slr_det.pointcloud.voxels import Voxels, grid_size, voxelize

__all__ = [
    "Voxels",
    "bev_corners",
    "grid_size",
    "in_range",
    "iou_3d",
    "iou_bev",
    "nearest_bev_iou",
    "overlap_bev",
    "overlap_bev_pairs",
    "points_in_boxes",
    "rotated_nms",
    "voxelize",
    "wrap_angle",
]

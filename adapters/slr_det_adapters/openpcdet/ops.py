"""OpenPCDet's compiled operations, in torch: the same calls, which write into the tensor that they are given.

These run where the extension was never built, and on a CPU also where it was, because it is for CUDA only.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from slr_det.pointcloud.boxes import points_in_boxes
from slr_det.pointcloud.nms import rotated_nms
from slr_det.pointcloud.rotated import iou_bev, overlap_bev, overlap_bev_pairs
from slr_det_adapters.substitutes import unavailable


def boxes_overlap_bev(boxes: Tensor, others: Tensor, out: Tensor) -> int:
    """``out`` (N, M) <- overlap areas in m^2, seen from above, of boxes (N, 7) and (M, 7)."""
    out.copy_(overlap_bev(boxes, others))
    return 1


def boxes_iou_bev(boxes: Tensor, others: Tensor, out: Tensor) -> int:
    """``out`` (N, M) <- intersection over union, seen from above, of boxes (N, 7) and (M, 7)."""
    out.copy_(iou_bev(boxes, others))
    return 1


def paired_overlap_bev(boxes: Tensor, others: Tensor, out: Tensor) -> int:
    """``out`` (N, 1) <- overlap area of each box (N, 7) with the box of the same row."""
    out[:, 0] = overlap_bev_pairs(boxes, others)
    return 1


def nms(boxes: Tensor, keep: Tensor, threshold: float) -> int:
    """Suppress boxes (N, 7) that are sorted by score, best first.

    Returns:
        How many are kept; their indices are the first entries of ``keep`` (N,) int64.
    """
    order = torch.arange(len(boxes), 0, -1, device=boxes.device, dtype=torch.float32)
    kept = rotated_nms(boxes[:, :7], order, threshold, pre=len(boxes), post=len(boxes))
    keep[: len(kept)] = kept.to(keep.device)
    return len(kept)


def nms_normal(boxes: Tensor, keep: Tensor, threshold: float) -> int:
    """As :func:`nms`, with every box turned to heading 0."""
    upright = boxes[:, :7].clone()
    upright[:, 6] = 0.0
    return nms(upright, keep, threshold)


def points_in_boxes_cpu(boxes: Tensor, points: Tensor, out: Tensor) -> int:
    """``out`` (N, P) int32 <- 1 where a point (P, 3) is in a box (N, 7)."""
    out.copy_(points_in_boxes(points, boxes))
    return 1


def points_in_boxes_gpu(boxes: Tensor, points: Tensor, out: Tensor) -> int:
    """``out`` (B, P) int32 <- index of the first box (B, T, 7) that holds the point (B, P, 3); else left as it is."""
    for some, cloud, found in zip(boxes, points, out, strict=True):
        if not len(some):
            continue
        inside = points_in_boxes(cloud, some)
        found.copy_(torch.where(inside.any(0), inside.int().argmax(0).to(found.dtype), found))
    return 1


#: What we have of each compiled module, by its name inside ``pcdet.ops``.
REPLACED: dict[str, dict[str, Callable[..., int]]] = {
    "iou3d_nms.iou3d_nms_cuda": {
        "boxes_overlap_bev_gpu": boxes_overlap_bev,
        "boxes_iou_bev_gpu": boxes_iou_bev,
        "boxes_iou_bev_cpu": boxes_iou_bev,
        "boxes_aligned_overlap_bev_gpu": paired_overlap_bev,
        "paired_boxes_overlap_bev_gpu": paired_overlap_bev,
        "nms_gpu": nms,
        "nms_normal_gpu": nms_normal,
    },
    "roiaware_pool3d.roiaware_pool3d_cuda": {
        "points_in_boxes_cpu": points_in_boxes_cpu,
        "points_in_boxes_gpu": points_in_boxes_gpu,
    },
    "pointnet2.pointnet2_stack.pointnet2_stack_cuda": {},
    "pointnet2.pointnet2_batch.pointnet2_batch_cuda": {},
    "roipoint_pool3d.roipoint_pool3d_cuda": {},
    "ingroup_inds.ingroup_inds_cuda": {},
    "bev_pool.bev_pool_ext": {},
}


def replacement(name: str) -> ModuleType:
    """The module that stands in for ``pcdet.ops.<name>``; what we have not rewritten says how to compile it."""
    made = unavailable(
        f"pcdet.ops.{name}",
        f"this model needs OpenPCDet's compiled operation {name.rpartition('.')[2]}; build it in the checkout with: "
        "python setup.py develop (needs CUDA)",
    )
    made.__dict__.update(REPLACED[name])
    return made

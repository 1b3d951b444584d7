"""Which anchors should find which objects (section 2.4; OpenPCDet's ``AxisAlignedTargetAssigner``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slr_det.models.pointpillars.anchors import owners_of
from slr_det.models.pointpillars.config import PointPillarsConfig
from slr_det.pointcloud import nearest_bev_iou

#: Label of an anchor that is neither an object's nor background.
IGNORED = -1


@dataclass(frozen=True)
class Targets:
    """What the anchors of a batch should say.

    Attributes:
        labels: (B, N) int64: the class of the anchor's object counted from 1, 0 for background, -1 for neither.
        frames: (P,) int64, the frame of each anchor that has an object.
        places: (P,) int64, its place among the N anchors.
        boxes: (P, 7) float32, its object's box.
    """

    labels: Tensor
    frames: Tensor
    places: Tensor
    boxes: Tensor


@torch.no_grad()
def assign(anchors: Tensor, boxes: Sequence[Tensor], config: PointPillarsConfig) -> Targets:
    """Match anchors with the objects of their class.

    An anchor takes the object it overlaps most if by at least ``matched``. Of each object the anchors that overlap it
    most are matched however little that is (but not with 0); each of them takes the object *it* overlaps most.

    Args:
        anchors: (y, x, A, 7) float32.
        boxes: (objects, 8) per frame: box and class label, counted from 1. Other labels are no objects.
        config: Classes and thresholds.

    Returns:
        The targets, on the anchors' device.
    """
    cells = anchors.shape[0] * anchors.shape[1]
    flat = anchors.flatten(0, 1)
    labels = torch.zeros(len(boxes), *flat.shape[:2], dtype=torch.int64, device=anchors.device)
    objects = torch.zeros_like(labels)
    for frame, truths in enumerate(boxes):
        truths = truths.to(anchors)
        for anchor, owner in zip(config.anchors, owners_of(config), strict=True):
            label = config.classes.index(anchor.name) + 1
            mine = (truths[:, 7] == label).nonzero().squeeze(1)
            if not mine.numel():
                continue
            overlap = nearest_bev_iou(flat[:, owner].reshape(-1, 7), truths[mine, :7])
            best, which = overlap.max(1)
            most = overlap.amax(0)
            forced = ((overlap == most) & (most > 0)).any(1)
            found = torch.full_like(which, IGNORED)
            found[best < anchor.unmatched] = 0
            found[forced | (best >= anchor.matched)] = label
            labels[frame, :, owner] = found.view(cells, -1)
            objects[frame, :, owner] = mine[which].view(cells, -1)
    labels, objects = labels.flatten(1), objects.flatten(1)
    frames, places = (labels > 0).nonzero().unbind(1)
    chosen = objects[frames, places]
    starts = torch.tensor([0, *(len(truths) for truths in boxes)], device=anchors.device).cumsum(0)
    every = torch.cat([anchors.new_zeros(0, 8), *(truths.to(anchors) for truths in boxes)])
    return Targets(labels, frames, places, every[starts[frames] + chosen, :7])

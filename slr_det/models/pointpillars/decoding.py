"""From the head's outputs to detections: score threshold, decoding, non-maximum suppression."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from slr_det.models.pointpillars.coder import decode
from slr_det.models.pointpillars.config import PointPillarsConfig
from slr_det.models.pointpillars.head import Outputs
from slr_det.pointcloud import rotated_nms, wrap_angle


@dataclass(frozen=True)
class Detections:
    """What was found in a frame, best first.

    Attributes:
        boxes: (n, 7) float32.
        scores: (n,) float32.
        labels: (n,) int64, classes counted from 1.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@torch.no_grad()
def detections(
    outputs: Outputs, anchors: Tensor, config: PointPillarsConfig, score_threshold: float | None = None
) -> list[Detections]:
    """What each frame's outputs say is there.

    An anchor's class is its best one, and boxes of all classes suppress one another, as in OpenPCDet without
    ``MULTI_CLASSES_NMS``. Only anchors above the threshold are decoded.

    Args:
        outputs: Of B frames.
        anchors: (N, 7) float32.
        config: Thresholds and direction bins.
        score_threshold: Least score; None for the configuration's.

    Returns:
        The detections of each frame. An anchor whose numbers are not finite is none.
    """
    least = config.score_threshold if score_threshold is None else score_threshold
    found = []
    for cls, box, direction in zip(outputs.cls, outputs.box, outputs.direction, strict=True):
        scores, labels = cls.float().sigmoid().max(1)
        chosen = (scores >= least).nonzero().squeeze(1)
        if chosen.numel() > config.nms_pre:
            chosen = chosen[scores[chosen].topk(config.nms_pre).indices]
        boxes = boxes_of(box[chosen].float(), direction[chosen], anchors[chosen], config)
        finite = boxes.isfinite().all(1)
        chosen, boxes = chosen[finite], boxes[finite]
        kept = rotated_nms(
            boxes, scores[chosen], config.nms_threshold, pre=config.nms_pre, post=config.nms_post
        )
        found.append(Detections(boxes[kept], scores[chosen[kept]], labels[chosen[kept]] + 1))
    return found


def boxes_of(offsets: Tensor, direction: Tensor, anchors: Tensor, config: PointPillarsConfig) -> Tensor:
    """Boxes from offsets; the heading is moved by whole periods into the part of the circle that ``direction`` says.

    Args:
        offsets: (n, 7) float32.
        direction: (n, bins), logits.
        anchors: (n, 7) float32.
        config: Direction bins and where they begin.

    Returns:
        (n, 7) float32.
    """
    boxes = decode(offsets, anchors)
    period = 2 * torch.pi / config.direction_bins
    turned = wrap_angle(boxes[:, 6] - config.direction_offset, config.direction_limit, period)
    boxes[:, 6] = turned + config.direction_offset + period * direction.argmax(1)
    return boxes

"""The three losses (section 2.4), with the weights and normalisers of OpenPCDet."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from slr_det.models.pointpillars.coder import encode
from slr_det.models.pointpillars.config import PointPillarsConfig
from slr_det.models.pointpillars.head import Outputs
from slr_det.models.pointpillars.targets import Targets
from slr_det.pointcloud import wrap_angle

#: Of the focal loss (Lin et al. 2017).
ALPHA, GAMMA = 0.25, 2
#: Where the smooth L1 loss turns from quadratic to linear.
BETA = 1.0 / 9.0


def losses(
    outputs: Outputs, targets: Targets, anchors: Tensor, config: PointPillarsConfig
) -> dict[str, Tensor]:
    """The weighted losses by OpenPCDet's names.

    Every frame's sum is divided by the number of its anchors that have an object (1 where none has), then the mean
    over the frames is taken.

    Args:
        outputs: What the head said; computed in float32 whatever its type.
        targets: What it should have said.
        anchors: (N, 7) float32.
        config: Weights and direction bins.

    Returns:
        ``rpn_loss_cls``, ``rpn_loss_loc``, ``rpn_loss_dir``: scalars, float32.
    """
    frames = targets.labels.shape[0]
    found = (targets.labels > 0).sum(1).clamp_min(1)
    scale = 1.0 / (found * max(frames, 1)).float()
    at, places = targets.frames, targets.places
    chosen = anchors[places]
    wanted = encode(targets.boxes, chosen)
    cls = (focal_loss(outputs.cls.float(), targets.labels) * scale.unsqueeze(1)).sum()
    loc = (box_loss(outputs.box[at, places].float(), wanted, config.code_weights) * scale[at]).sum()
    bins = direction_bin(wanted[:, 6] + chosen[:, 6], config)
    direction = functional.cross_entropy(outputs.direction[at, places].float(), bins, reduction="none")
    return {
        "rpn_loss_cls": cls * config.class_weight,
        "rpn_loss_loc": loc * config.box_weight,
        "rpn_loss_dir": (direction * scale[at]).sum() * config.direction_weight,
    }


def focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sigmoid focal loss, summed over the classes.

    Args:
        logits: (B, N, C) float32.
        labels: (B, N) int64, classes counted from 1, 0 for background; -1 costs nothing.

    Returns:
        (B, N) float32.
    """
    classes = torch.arange(1, logits.shape[-1] + 1, device=logits.device)
    here = labels.unsqueeze(-1) == classes
    # How far the answer is on the wrong side: sigmoid of it is 1 - p_t, softplus of it is -log p_t.
    wrong = torch.where(here, -logits, logits)
    weight = torch.where(here, ALPHA, 1.0 - ALPHA) * (labels >= 0).unsqueeze(-1)
    return (weight * wrong.sigmoid().pow(GAMMA) * functional.softplus(wrong)).sum(-1)


def box_loss(offsets: Tensor, wanted: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Smooth L1 loss of offsets; headings count by the sine of their difference, the same for a box turned around.

    Args:
        offsets: (P, 7) float32, predicted.
        wanted: (P, 7) float32.
        weights: Weight of each of the seven differences.

    Returns:
        (P,) float32.
    """
    turned = torch.sin(offsets[:, 6:] - wanted[:, 6:])
    difference = torch.cat([offsets[:, :6] - wanted[:, :6], turned], 1) * offsets.new_tensor(weights)
    return functional.smooth_l1_loss(
        difference, torch.zeros_like(difference), reduction="none", beta=BETA
    ).sum(1)


def direction_bin(headings: Tensor, config: PointPillarsConfig) -> Tensor:
    """The part of the circle that each heading lies in, int64; ``direction_offset`` is where the first part begins."""
    circle = 2 * torch.pi
    turned = wrap_angle(headings - config.direction_offset, 0.0, circle)
    return (turned / (circle / config.direction_bins)).long().clamp(0, config.direction_bins - 1)

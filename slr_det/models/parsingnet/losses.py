"""The losses (section 3.2 of the paper, and the auxiliary segmentation), with upstream's numbers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from slr_det.models.parsingnet.config import ParsingNetConfig

#: Exponent of the focal loss.
GAMMA = 2


def losses(
    logits: Tensor, targets: Tensor, segmentation: Tensor | None, places: Tensor | None
) -> dict[str, Tensor]:
    """The losses by upstream's names, without their weights: scalars, float32.

    Args:
        logits: (B, griding + 1, rows, lanes), of any floating type.
        targets: (B, rows, lanes) int64, classes.
        segmentation: (B, lanes + 1, h, w) logits of the auxiliary head, or None.
        places: (B, h, w) int64, its classes; needed where ``segmentation`` is there.

    Raises:
        ValueError: A segmentation without classes to compare it with.
    """
    wide = logits.float()
    parts = {"cls_loss": focal_loss(wide, targets), "relation_loss": similarity_loss(wide)}
    if segmentation is not None:
        if places is None:
            raise ValueError("the auxiliary head's loss needs the segmentation of the images")
        parts["aux_loss"] = functional.cross_entropy(segmentation.float(), places)
    return parts | {"relation_dis": shape_loss(wide)}


def total(parts: dict[str, Tensor], config: ParsingNetConfig) -> Tensor:
    """The weighted sum of what :func:`losses` returned."""
    weights = {
        "cls_loss": 1.0,
        "relation_loss": config.similarity_weight,
        "aux_loss": config.aux_weight,
        "relation_dis": config.shape_weight,
    }
    return torch.stack([part * weights[name] for name, part in parts.items()]).sum()


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -(1 - p)^2 log p over all rows and lanes, p the probability of the right class.

    Args:
        logits: (B, classes, rows, lanes).
        targets: (B, rows, lanes) int64.
    """
    log_p = functional.log_softmax(logits, 1).gather(1, targets.unsqueeze(1))
    return -((1.0 - log_p.exp()).pow(GAMMA) * log_p).mean()


def similarity_loss(logits: Tensor) -> Tensor:
    """Equation (4) with smooth L1: neighbouring rows of a lane have similar logits.

    Args:
        logits: (B, classes, rows, lanes), at least 2 rows.
    """
    difference = logits[:, :, :-1] - logits[:, :, 1:]
    return functional.smooth_l1_loss(difference, torch.zeros_like(difference))


def shape_loss(logits: Tensor) -> Tensor:
    """Equations (5) to (7): a lane bends little. The mean |second difference| of its place, in cells.

    The place in a row is the expectation over the cells, without the last class. Only the upper half of the rows
    counts, as upstream has it.

    Args:
        logits: (B, griding + 1, rows, lanes), at least 4 rows.
    """
    cells = torch.arange(logits.shape[1] - 1, dtype=logits.dtype, device=logits.device)
    places = (logits[:, :-1].softmax(1) * cells.view(1, -1, 1, 1)).sum(1)
    slopes = places[:, : places.shape[1] // 2 + 1].diff(dim=1)
    return slopes.diff(dim=1).abs().mean()

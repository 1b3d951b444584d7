"""Upstream's loss, with the penalty added at its scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slr_det.engine import Engine


class PenalisedLoss:
    """In place of upstream's ``ComputeLoss``: the same numbers, listened to.

    Upstream returns the mean loss multiplied by the images of the batch, and adds up batches before a step. The
    penalty is multiplied by the images too, so that its ratio to the loss per image depends on neither. Validation,
    which calls it without gradients, gets upstream's answer alone.

    Args:
        upstream: The ``ComputeLoss`` of a model.
        engine: Adds its penalty, and is told the mean loss of every batch without it; None for plain training.
        device: Where the losses are.

    Attributes:
        seen: Sum of the mean losses of all batches since it was last set to zero, 0-dim float32.
    """

    def __init__(self, upstream: Any, engine: Engine | None, device: torch.device) -> None:
        self._upstream = upstream
        self._engine = engine
        self.seen = torch.zeros((), device=device)

    def __call__(self, predictions: list[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss (1,) and its parts (3,), as upstream's; ``targets`` are (n, 6): image, class, box."""
        loss, parts = self._upstream(predictions, targets)
        if not torch.is_grad_enabled():
            return loss, parts
        images = predictions[0].shape[0]
        mean = loss.detach().float().sum() / images
        self.seen += mean
        if self._engine is None:
            return loss, parts
        self._engine.observe(mean, images)
        return loss + self._engine.penalty(images), parts

    def of(self, predictions: list[Tensor], targets: Tensor) -> float:
        """The mean loss per image of a batch, without the penalty and unheard."""
        loss, _ = self._upstream(predictions, targets)
        return float(loss.sum()) / predictions[0].shape[0]

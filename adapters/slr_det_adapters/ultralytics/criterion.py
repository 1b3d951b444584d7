"""The seam in an ultralytics model: its criterion, wrapped so that the penalty is part of the loss."""

from __future__ import annotations

from typing import Any

import torch

from slr_det.engine import Engine


class PenalisedCriterion:
    """Calls the model's own criterion and adds the engine's penalty at the same scale.

    YOLO criteria return ``(loss vector * images, items)``: the trainer sums over the images of a batch and, by
    accumulation, of several batches. The penalty is multiplied by the number of images too, so that its ratio
    to the loss per image depends on neither. RT-DETR's criterion returns a dictionary of mean losses that the
    model sums; there the penalty is one more entry.

    Attributes:
        paused: While true the criterion is the model's own: nothing is added or observed.
    """

    def __init__(self, inner: Any, engine: Engine) -> None:
        self.inner = inner
        self.engine = engine
        self.paused = False

    def __getattr__(self, name: str) -> Any:
        # The trainer calls `update` at an epoch's end where a criterion has it, and reads its counters on resume.
        # Dunder look-ups must fail here or copy and pickle would recurse.
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __call__(self, preds: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what the inner criterion returns, with the penalty added to the loss."""
        result = self.inner(preds, batch, *args, **kwargs)
        if self.paused:
            return result
        if isinstance(result, dict):
            self.engine.observe(torch.stack([v.detach().float() for v in result.values()]).sum())
            return {**result, "loss_penalty": self.engine.penalty()}
        loss, items = result
        images = _images(batch)
        self.engine.observe(loss.detach().sum() / images, images)
        penalty = self.engine.penalty(images)
        if loss.ndim == 0:
            return loss + penalty, items
        return torch.cat([loss, penalty.to(loss.dtype).view(1)]), items


def _images(batch: Any) -> int:
    return int(batch["img"].shape[0])

"""How often is the right class the first, or among the first five? Top-1 and top-5 accuracy and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from slr_det.errors import ConfigError, DataError, NumericsError

#: With no more classes than this the right one is always among the first five.
_FIVE = 5


@dataclass(frozen=True)
class TopKResult:
    """The outcome of an evaluation.

    Attributes:
        metrics: ``top1`` and, with more than five classes, ``top5``, in [0, 1]; ``loss``, the mean cross-entropy in
            nats.
        per_class: ``{"class name": {"top1": ...}}`` for the classes that occur among the labels.
        images: Number of images.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers at full precision as JSON-able data."""
        return {"metrics": dict(self.metrics), "per_class": self.per_class, "images": self.images}


class TopK:
    """Collects the answers of a classifier: reset, process each batch, evaluate.

    Args:
        classes: Class names.

    Raises:
        ConfigError: no classes, or two of one name.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        if not classes or len(set(classes)) < len(classes):
            raise ConfigError(f"classes: {len(classes)} names, expected at least one and none twice")
        self.classes = tuple(classes)
        self.reset()

    def reset(self) -> None:
        """Forget every batch."""
        self._images = torch.zeros(len(self.classes), dtype=torch.int64)
        self._first = torch.zeros(len(self.classes), dtype=torch.int64)
        self._among_five = 0
        self._loss = 0.0

    def process(self, logits: Tensor, labels: Tensor) -> None:
        """Take in one batch.

        Classes of equal logit are ranked by index: of two with the largest, the lower one is the answer. So the result
        does not depend on the device or the batch size.

        Args:
            logits: Floating point, (N, classes), any device.
            labels: Class indices, (N,).

        Raises:
            NumericsError: a logit is NaN or infinite; the message names the image. It would spoil the loss, and a model
                that gives it is broken, not merely wrong.
            DataError: the shapes do not fit, or a label is no class index.
        """
        count = len(self.classes)
        if logits.dim() != 2 or logits.shape[1] != count or labels.shape != logits.shape[:1]:
            raise DataError(
                f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)}, expected (N, {count}) and (N,)"
            )
        # In double precision, so that a sum over many batches does not depend on how they were cut.
        logits, labels = logits.detach().cpu().double(), labels.cpu().long()
        self._require_sound(logits, labels)
        right = logits.gather(1, labels[:, None])
        before = torch.arange(count) < labels[:, None]
        rank = ((logits > right) | ((logits == right) & before)).sum(1)
        self._images += torch.bincount(labels, minlength=count)
        self._first += torch.bincount(labels[rank == 0], minlength=count)
        self._among_five += int((rank < _FIVE).sum())
        self._loss += float(functional.cross_entropy(logits, labels, reduction="sum"))

    def evaluate(self) -> TopKResult:
        """Return the result over all batches so far.

        Raises:
            DataError: there was no image.
        """
        images = int(self._images.sum())
        if images == 0:
            raise DataError("no image was evaluated; is the validation split empty?")
        metrics = {"top1": int(self._first.sum()) / images}
        if len(self.classes) > _FIVE:
            metrics["top5"] = self._among_five / images
        metrics["loss"] = self._loss / images
        per_class = {
            name: {"top1": int(first) / int(seen)}
            for name, first, seen in zip(self.classes, self._first, self._images, strict=True)
            if seen
        }
        return TopKResult(metrics, per_class, images)

    def _require_sound(self, logits: Tensor, labels: Tensor) -> None:
        count = len(self.classes)
        wrong = ((labels < 0) | (labels >= count)).nonzero()
        if len(wrong):
            raise DataError(f"label {int(labels[wrong[0]])}, expected a class index from 0 to {count - 1}")
        broken = (~logits.isfinite()).any(1).nonzero()
        if len(broken):
            seen = int(self._images.sum()) + int(broken[0])
            raise NumericsError(
                f"image {seen} of the evaluation (counted from 0): a logit is NaN or infinite; the model's weights or "
                "its input are not finite"
            )

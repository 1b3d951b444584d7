"""A classifier as mmengine's Runner wants it: a module with ``train_step``, and its loss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn import functional

from slr_det_adapters.timm.cards import Card
from slr_det_adapters.timm.loaders import prepared


class Trainable(BaseModel):
    """Cross-entropy, and where there is a teacher the distillation of Hinton et al. (2015) beside it.

    The loss is (1 - share) * cross-entropy + share * T^2 * KL(teacher || student), both at temperature T.

    Args:
        net: The classifier; its parameters are named with ``PREFIX`` in front.
        card: How its images are scaled.
        channels_last: Memory layout of the images.
        smoothing: Label smoothing of the cross-entropy.
        teacher: A classifier with the same outputs, or None. It is neither trained nor saved.
        share: The distillation's share of the loss.
        temperature: T.
        predicting: Gives the precision of predictions; that of training is the Runner's.
    """

    def __init__(
        self,
        net: nn.Module,
        card: Card,
        *,
        channels_last: bool,
        smoothing: float = 0.0,
        teacher: nn.Module | None = None,
        share: float = 0.0,
        temperature: float = 2.0,
        predicting: Callable[[torch.device], AbstractContextManager[Any]] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.card = card
        self.channels_last = channels_last
        self.smoothing = smoothing
        self.share = share if teacher is not None else 0.0
        self.temperature = temperature
        self._predicting = predicting or (lambda device: nullcontext())
        self._teacher = None if teacher is None else Teacher(teacher)

    def forward(self, images: Tensor, labels: Tensor, mode: str = "loss") -> Any:
        """``mode="loss"`` gives ``{"loss": scalar}``, anything else the class scores (N, classes)."""
        images = prepared(images, self.card, self.channels_last)
        if mode != "loss":
            with self._predicting(images.device):
                return self.net(images)
        return {"loss": self._loss(images, self.net(images).float(), labels)}

    def _loss(self, images: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        loss = functional.cross_entropy(scores, labels, label_smoothing=self.smoothing)
        if self._teacher is None or not self.share:
            return loss
        wanted = self._teacher.scores(images)
        soft = functional.kl_div(
            functional.log_softmax(scores / self.temperature, dim=1),
            functional.log_softmax(wanted / self.temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return (1.0 - self.share) * loss + self.share * self.temperature**2 * soft


class Teacher:
    """A model that is asked and never trained. No submodule of its student, so that no checkpoint holds it.

    Args:
        net: The model; it is put into evaluation mode.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        """Itself: an averaged copy of the student has the same teacher."""
        return self

    @torch.no_grad()
    def scores(self, images: Tensor) -> Tensor:
        """Class scores (N, classes) of images, float32, on their device."""
        if next(self.net.parameters()).device != images.device:
            self.net.to(images.device)
        found: Tensor = self.net(images).float()
        return found

"""A PointPillars as mmengine's Runner wants it: a module with ``train_step``, and its loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor

from slr_det.models.pointpillars import Pillars, PointPillars


class Trainable(BaseModel):
    """The losses of OpenPCDet in training, detections otherwise.

    Args:
        net: The network; its parameters are named with ``PREFIX`` in front.
        score: Least score of a detection; None for what the network's configuration says.
        predicting: Gives the precision of predictions; that of training is the Runner's.
    """

    def __init__(
        self,
        net: PointPillars,
        *,
        score: float | None = None,
        predicting: Callable[[torch.device], AbstractContextManager[Any]] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.score = score
        self._predicting = predicting or (lambda device: nullcontext())

    def forward(
        self,
        features: Tensor,
        coordinates: Tensor,
        counts: Tensor,
        frames: int,
        boxes: Sequence[Tensor],
        ids: Sequence[str] = (),
        mode: str = "loss",
    ) -> Any:
        """``mode="loss"`` gives the loss and its parts by name, anything else the detections of each frame."""
        pillars = Pillars(features, coordinates, counts, frames)
        if mode != "loss":
            with self._predicting(features.device):
                return self.net.decode(self.net(pillars), score_threshold=self.score)
        total, parts = self.net.loss(self.net(pillars), boxes)
        if self.training:
            self.net.count_step()
        # mmengine adds up whatever is called a loss.
        shown = {name.removeprefix("rpn_loss_"): part for name, part in parts.items() if name != "rpn_loss"}
        return {"loss": total, **shown}

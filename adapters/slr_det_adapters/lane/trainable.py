"""A parsingNet as mmengine's Runner wants it: a module with ``train_step``, and its loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor

from slr_det.models.parsingnet import ParsingNet


class Trainable(BaseModel):
    """Upstream's losses in training, the network's answers otherwise.

    Args:
        net: The network; its parameters are named with ``PREFIX`` in front.
        channels_last: Memory layout of the images.
        predicting: Gives the precision of predictions; that of training is the Runner's.
    """

    def __init__(
        self,
        net: ParsingNet,
        *,
        channels_last: bool = False,
        predicting: Callable[[torch.device], AbstractContextManager[Any]] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.channels_last = channels_last
        self._predicting = predicting or (lambda device: nullcontext())

    def forward(
        self,
        images: Tensor,
        targets: Tensor | None = None,
        places: Tensor | None = None,
        rows: Sequence[int] = (),
        mode: str = "loss",
    ) -> Any:
        """``mode="loss"`` gives the loss and its parts by name, else a list of answers (griding + 1, rows, lanes)."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if mode != "loss" or targets is None:
            with self._predicting(images.device):
                return list(self.net(images, aux=False).logits.float())
        # The auxiliary head is asked in evaluation mode too: a loss is one and the same sum wherever it is measured.
        total, parts = self.net.loss(self.net(images, aux=True), targets, places)
        # mmengine adds up whatever is called a loss.
        return {"loss": total, **{name.removesuffix("_loss"): part for name, part in parts.items()}}

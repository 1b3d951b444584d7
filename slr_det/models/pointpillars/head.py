"""The anchor head: class scores, box offsets and directions for every anchor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slr_det.models.pointpillars.anchors import anchors_of
from slr_det.models.pointpillars.config import PointPillarsConfig

#: Score of every anchor before training, so that the many background anchors cost little (Lin et al. 2017, 4.1).
_FIRST_SCORE = 0.01


@dataclass(frozen=True)
class Outputs:
    """What the head says about the N anchors of each of B frames.

    Attributes:
        cls: (B, N, classes), logits.
        box: (B, N, 7), offsets from the anchors.
        direction: (B, N, direction bins), logits.
    """

    cls: Tensor
    box: Tensor
    direction: Tensor


class AnchorHeadSingle(nn.Module):
    """Three 1x1 convolutions; the anchors are a buffer that no checkpoint holds.

    Args:
        config: Classes, anchors and direction bins.
    """

    anchors: Tensor

    def __init__(self, config: PointPillarsConfig) -> None:
        super().__init__()
        inputs, per_cell = sum(config.up_filters), config.anchors_per_cell
        self.conv_cls = nn.Conv2d(inputs, per_cell * len(config.classes), 1)
        self.conv_box = nn.Conv2d(inputs, per_cell * 7, 1)
        self.conv_dir_cls = nn.Conv2d(inputs, per_cell * config.direction_bins, 1)
        self.numbers = len(config.classes), 7, config.direction_bins
        self.register_buffer("anchors", anchors_of(config), persistent=False)
        nn.init.constant_(self.conv_cls.bias, -math.log((1 - _FIRST_SCORE) / _FIRST_SCORE))  # type: ignore[arg-type]
        nn.init.normal_(self.conv_box.weight, std=0.001)

    def forward(self, x: Tensor) -> Outputs:
        # One matrix product reads x, the largest tensor of the network, once instead of three times; on a CPU it takes
        # a third of the time of three 1x1 convolutions.
        parts = self.conv_cls, self.conv_box, self.conv_dir_cls
        weight = torch.cat([part.weight.flatten(1) for part in parts])
        bias = torch.cat([part.bias for part in parts if part.bias is not None])
        frames = x.shape[0]
        maps = torch.baddbmm(bias.view(1, -1, 1), weight.expand(frames, -1, -1), x.flatten(2))
        found = torch.split(maps, [part.out_channels for part in parts], 1)
        rows = (
            part.transpose(1, 2).reshape(frames, -1, numbers)
            for part, numbers in zip(found, self.numbers, strict=True)
        )
        return Outputs(*rows)

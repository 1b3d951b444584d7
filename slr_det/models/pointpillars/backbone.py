"""The 2D backbone: blocks at falling resolution, their outputs enlarged to one size and stacked (section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slr_det.models.pointpillars.config import PointPillarsConfig
from slr_det.models.pointpillars.pillars import EPSILON, MOMENTUM


class BaseBEVBackbone(nn.Module):
    """Blocks of 3x3 convolutions; (N, pillar width, y, x) to (N, sum of ``up_filters``, y, x) at the head's stride.

    Args:
        config: Number, strides and widths of the layers.
    """

    def __init__(self, config: PointPillarsConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        self.deblocks = nn.ModuleList()
        inputs = config.pillar_filters[-1]
        for count, stride, width in zip(config.layers, config.strides, config.filters, strict=True):
            # OpenPCDet pads in a layer of its own; an empty one keeps the numbers in the parameters' names.
            block = nn.Sequential(nn.Identity(), *_convolution(inputs, width, stride))
            for _ in range(count):
                block.extend(_convolution(width, width, 1))
            self.blocks.append(block)
            inputs = width
        for width, stride, out in zip(config.filters, config.up_strides, config.up_filters, strict=True):
            enlarge = nn.ConvTranspose2d(width, out, stride, stride=stride, bias=False)
            self.deblocks.append(nn.Sequential(enlarge, _norm(out), nn.ReLU(inplace=True)))

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for block, deblock in zip(self.blocks, self.deblocks, strict=True):
            x = block(x)
            outputs.append(deblock(x))
        return torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]


def _convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, _norm(outputs), nn.ReLU(inplace=True)]


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=EPSILON, momentum=MOMENTUM)

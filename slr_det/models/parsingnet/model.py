"""parsingNet (Qin et al. 2020, Ultra Fast Structure-aware Deep Lane Detection), with upstream's parameter names."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from slr_det.models.parsingnet.config import ParsingNetConfig
from slr_det.models.parsingnet.losses import losses, total
from slr_det.models.parsingnet.resnet import ResNet, widths

_AUX_WIDTH = 128
_CLS_STD = 0.01


class Outputs(NamedTuple):
    """What the network says about a batch.

    Attributes:
        logits: (B, griding + 1, rows, lanes): in which cell of each row each lane is; the last class is none.
        segmentation: (B, lanes + 1, H / 8, W / 8) logits of the auxiliary head, class 0 the background; None where
            there is no such head, or it was not asked.
    """

    logits: Tensor
    segmentation: Tensor | None


class ParsingNet(nn.Module):
    """Finds lanes by choosing a cell in every row.

    Modules and their order are upstream's, so that state dicts, and optimizer states by their order, fit both.

    Args:
        config: What to build. The weights are drawn from torch's global generator.

    Attributes:
        config: The same; with it a state dict is a whole model.
    """

    def __init__(self, config: ParsingNetConfig) -> None:
        super().__init__()
        self.config = config
        self.model = ResNet(config.backbone, config.width)
        *_, at_8, at_16, at_32 = widths(config.backbone, config.width)
        if config.aux:
            w = max(1, round(_AUX_WIDTH * config.width))
            self.aux_header2 = _chain(at_8, (w,) * 4)
            self.aux_header3 = _chain(at_16, (w,) * 3)
            self.aux_header4 = _chain(at_32, (w,) * 2)
            self.aux_combine = _chain(3 * w, (2 * w, w, w, w), dilations=(2, 2, 2, 4))
            self.aux_combine.append(nn.Conv2d(w, config.lanes + 1, 1))
            for head in (self.aux_header2, self.aux_header3, self.aux_header4, self.aux_combine):
                _initialize(head)
        answers = torch.Size(config.classes).numel()
        self.cls = nn.Sequential(
            nn.Linear(config.features, config.hidden), nn.ReLU(), nn.Linear(config.hidden, answers)
        )
        self.pool = nn.Conv2d(at_32, config.pool, 1)
        _initialize(self.cls)

    def forward(self, images: Tensor, aux: bool | None = None) -> Outputs:
        """Look at images.

        Args:
            images: (B, 3, H, W) of the configuration's size, normalised by ImageNet's mean and deviation.
            aux: Whether the auxiliary head is asked, where there is one; None asks it in training mode only.
        """
        at_8, at_16, at_32 = self.model(images)
        segmentation = None
        if self.config.aux and (self.training if aux is None else aux):
            place = at_8.shape[-2:]
            parts = [
                self.aux_header2(at_8),
                functional.interpolate(self.aux_header3(at_16), size=place, mode="bilinear"),
                functional.interpolate(self.aux_header4(at_32), size=place, mode="bilinear"),
            ]
            segmentation = self.aux_combine(torch.cat(parts, 1))
        answers = self.cls(self.pool(at_32).flatten(1))
        return Outputs(answers.view(-1, *self.config.classes), segmentation)

    def loss(
        self, outputs: Outputs, targets: Tensor, segmentation: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, the mean over its images.

        Args:
            outputs: What :meth:`forward` returned.
            targets: (B, rows, lanes) int64, the cell of each lane in each row; ``griding`` where it has no point.
            segmentation: (B, H / 8, W / 8) int64, the lane at each place, counted from 1, 0 for none. Needed where
                ``outputs`` has a segmentation.

        Returns:
            The weighted sum, and its parts by upstream's names, detached and without their weights: ``cls_loss``,
            ``relation_loss``, ``relation_dis`` and, with the auxiliary head, ``aux_loss``. All float32, whatever
            autocast is on.
        """
        with torch.autocast(outputs.logits.device.type, enabled=False):
            parts = losses(outputs.logits, targets, outputs.segmentation, segmentation)
            return total(parts, self.config), {name: part.detach() for name, part in parts.items()}


class _ConvBNReLU(nn.Module):
    """A 3x3 convolution, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


def _chain(inputs: int, outputs: tuple[int, ...], dilations: tuple[int, ...] | None = None) -> nn.Sequential:
    sources = (inputs, *outputs[:-1])
    steps = dilations or (1,) * len(outputs)
    return nn.Sequential(*map(_ConvBNReLU, sources, outputs, steps))


def _initialize(head: nn.Module) -> None:
    if next(head.parameters()).is_meta:
        return  # without memory there is nothing to draw, but torch would load its compiler for it
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=_CLS_STD)

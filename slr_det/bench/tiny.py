"""The layers of the classic yolov3-tiny (8.85 million parameters for 80 classes), with random weights and random zeros.

The core imports no trainer, and the layers are what times depend on: those of Redmon's configuration file, as it was
published with YOLOv3. The network gives its two raw heads; boxes are decoded elsewhere.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

#: Filters of the first convolutions; a maximum over 2 x 2 follows each.
_BACKBONE = (16, 32, 64, 128, 256, 512)
_SLOPE = 0.1
_OUTPUTS = 3 * (80 + 5)


def _block(inputs: int, filters: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, filters, size, padding=size // 2, bias=False),
            norm=nn.BatchNorm2d(filters),
            act=nn.LeakyReLU(_SLOPE),
        )
    )


class YoloTiny(nn.Module):
    """The network: images (B, 3, H, W), sides multiples of 32, give (B, 255, H/32, W/32) and (B, 255, H/16, W/16)."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *_BACKBONE)
        self.backbone = nn.ModuleList(
            _block(before, after, 3) for before, after in zip(inputs, _BACKBONE, strict=False)
        )
        self.halved = nn.MaxPool2d(2, 2)
        self.same = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1))
        self.deep = _block(512, 1024, 3)
        self.narrow = _block(1024, 256, 1)
        self.coarse = _block(256, 512, 3)
        self.coarse_head = nn.Conv2d(512, _OUTPUTS, 1)
        self.lateral = _block(256, 128, 1)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.fine = _block(128 + 256, 256, 3)
        self.fine_head = nn.Conv2d(256, _OUTPUTS, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The two heads, the coarse one first."""
        x, route = image, image
        for index, block in enumerate(self.backbone):
            x = block(x)
            if index == 4:
                route = x
            x = self.halved(x) if index < 5 else self.same(x)
        x = self.narrow(self.deep(x))
        coarse = self.coarse_head(self.coarse(x))
        x = torch.cat([self.up(self.lateral(x)), route], 1)
        return coarse, self.fine_head(self.fine(x))


def sparse_yolo(sparsity: float, size: int, *, dense_ends: bool = False, seed: int = 0) -> YoloTiny:
    """The network with a random share of each convolution's weights at zero, in evaluation mode.

    Its batch norms are fitted to two random images, so that numbers stay of ordinary size at any sparsity.

    Args:
        sparsity: Share of zeros, 0 to 1; the number of zeros of each layer is rounded.
        size: Height and width of the images that batch norms are fitted to.
        dense_ends: Whether the first convolution and the two heads keep all their weights.
        seed: Of weights and zeros.
    """
    generator = torch.Generator().manual_seed(seed)
    model = YoloTiny()
    kept = {"backbone.0.conv", "coarse_head", "fine_head"} if dense_ends else set()
    with torch.no_grad():
        for name, module in model.named_modules():
            if not isinstance(module, nn.Conv2d):
                continue
            weight = module.weight
            weight.copy_(torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5)
            if name not in kept:
                zeros = torch.randperm(weight.numel(), generator=generator)[
                    : round(sparsity * weight.numel())
                ]
                weight.view(-1)[zeros] = 0.0
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        model.train()(torch.rand(2, 3, size, size, generator=generator))
        for norm in norms:
            norm.running_var.clamp_(min=1e-3)  # type: ignore[union-attr]  # of a filter without weights
    return model.eval()

"""The backbone: a ResNet (He et al. 2016) without its classifier, with torchvision's parameter names.

ResNeXt (Xie et al. 2017) and Wide ResNet (Zagoruyko and Komodakis 2016) are the same with other middle layers. As
everywhere today, the stride of a bottleneck is in its 3x3 convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

_STEM = 64  # channels of the first layer
_EXPANSION = 4  # of a bottleneck


@dataclass(frozen=True)
class Depth:
    """A kind of ResNet.

    Attributes:
        blocks: Blocks of each of the four layers.
        bottleneck: Blocks of 1x1, 3x3, 1x1 convolutions rather than of two 3x3 ones.
        groups: Groups of a bottleneck's 3x3 convolution.
        group_width: Channels of a group, where the layer has 64 filters.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool = True
    groups: int = 1
    group_width: int = 64

    def middle(self, planes: int) -> int:
        """Channels of a bottleneck's 3x3 convolution in a layer of ``planes`` filters."""
        return planes * self.group_width // 64 * self.groups


#: By the names that Ultra-Fast-Lane-Detection has for them.
DEPTHS = {
    "18": Depth((2, 2, 2, 2), bottleneck=False),
    "34": Depth((3, 4, 6, 3), bottleneck=False),
    "50": Depth((3, 4, 6, 3)),
    "101": Depth((3, 4, 23, 3)),
    "152": Depth((3, 8, 36, 3)),
    "50next": Depth((3, 4, 6, 3), groups=32, group_width=4),
    "101next": Depth((3, 4, 23, 3), groups=32, group_width=8),
    "50wide": Depth((3, 4, 6, 3), group_width=128),
    "101wide": Depth((3, 4, 23, 3), group_width=128),
}


def widths(name: str, factor: float) -> tuple[int, ...]:
    """Channels of the stem, of the first bottleneck's middle, and of what each of the four layers writes."""
    depth, stem = DEPTHS[name], round(_STEM * factor)
    expansion = _EXPANSION if depth.bottleneck else 1
    return stem, depth.middle(stem), *(stem * 2**layer * expansion for layer in range(4))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, planes: int, stride: int, depth: Depth) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, planes, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(y + shortcut)
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut."""

    def __init__(self, inputs: int, planes: int, stride: int, depth: Depth) -> None:
        super().__init__()
        middle, outputs = depth.middle(planes), planes * _EXPANSION
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, groups=depth.groups, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, 4 planes, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(y + shortcut)
        return out


class ResNet(nn.Module):
    """Features of an image at strides 8, 16 and 32.

    Args:
        name: One of ``DEPTHS``.
        factor: Multiplies the number of channels.
    """

    def __init__(self, name: str, factor: float = 1.0) -> None:
        super().__init__()
        depth, stem = DEPTHS[name], round(_STEM * factor)
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = stem
        self.layer1, inputs = _layer(inputs, stem, depth, 0)
        self.layer2, inputs = _layer(inputs, stem, depth, 1)
        self.layer3, inputs = _layer(inputs, stem, depth, 2)
        self.layer4, inputs = _layer(inputs, stem, depth, 3)
        for module in self.modules():
            # Without memory there is nothing to draw, but torch would load its compiler for it.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of (B, 3, H, W) images; a size that the stride does not divide is rounded up."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        at_8 = self.layer2(self.layer1(x))
        at_16 = self.layer3(at_8)
        return at_8, at_16, self.layer4(at_16)


def _layer(inputs: int, stem: int, depth: Depth, number: int) -> tuple[nn.Sequential, int]:
    """A layer of blocks, the first of which halves the picture in all but the first layer; and its channels."""
    planes, make = stem * 2**number, Bottleneck if depth.bottleneck else BasicBlock
    outputs = planes * (_EXPANSION if depth.bottleneck else 1)
    blocks = [make(inputs, planes, 1 if number == 0 else 2, depth)]
    blocks += [make(outputs, planes, 1, depth) for _ in range(depth.blocks[number] - 1)]
    return nn.Sequential(*blocks), outputs


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

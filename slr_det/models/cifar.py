"""Networks for images of 32 x 32 pixels, in the forms that published CIFAR weights and pruning results use.

Parameter names are those of the two usual collections, so that their checkpoints load: kuangliu/pytorch-cifar for
ResNet-18, ResNet-50 and VGG-16, akamaster/pytorch_resnet_cifar10 for ResNet-20 to 110.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

#: 3x3 convolutions of VGG-16 by width; "pool" halves the image (Simonyan and Zisserman 2015, configuration D).
_VGG16: tuple[int | str, ...] = (
    64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool",
)  # fmt: skip

#: Makes a residual block from its input channels, its width and its stride.
Block = Callable[[int, int, int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a way around them (He et al. 2016, figure 5 left).

    Args:
        inputs: Channels that come in.
        width: Channels of both convolutions.
        stride: Stride of the first.
        shortcut: The way around; it must change channels and size as the convolutions do.
    """

    def __init__(self, inputs: int, width: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide (He et al. 2016, figure 5 right).

    Args:
        inputs: Channels that come in; four times ``width`` come out.
        width: Channels of the first two convolutions.
        stride: Stride of the 3x3 convolution.
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = _projected(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return functional.relu(out + self.shortcut(x))


class PaddedShortcut(nn.Module):
    """The way around without parameters: every ``stride``-th pixel, and zeros for new channels (option A of He et al.).

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out; zeros are put before and behind, equally many.
        stride: Pixels per pixel kept.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.before = (outputs - inputs) // 2
        self.behind = outputs - inputs - self.before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        kept = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(kept, (0, 0, 0, 0, self.before, self.behind))


class CifarResNet(nn.Module):
    """A residual network without the early down-sampling of the ImageNet form.

    A 3x3 convolution, stages of residual blocks that halve the image from the second on, the mean over the pixels, and
    a linear layer. Takes float images (N, channels, height, width) of any size, gives logits (N, classes).

    Args:
        block: Makes a block.
        blocks: Blocks per stage.
        width: Width of the first stage; every further one is twice as wide.
        expansion: Channels that come out of a block, over its width.
        classes: Number of classes.
        channels: Channels of an image.
    """

    def __init__(
        self, block: Block, blocks: Sequence[int], width: int, expansion: int, classes: int, channels: int
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = tuple(f"layer{number}" for number in range(1, len(blocks) + 1))
        inputs = width
        for number, (name, count) in enumerate(zip(self.stages, blocks, strict=True)):
            stage = nn.Sequential()
            for position in range(count):
                stage.append(block(inputs, width * 2**number, 2 if number and not position else 1))
                inputs = width * 2**number * expansion
            self.add_module(name, stage)
        self.linear = nn.Linear(inputs, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class CifarVGG(nn.Module):
    """VGG-16 with batch norm and one linear layer; float images (N, channels, 32, 32) or larger to logits (N, classes).

    Args:
        classes: Number of classes.
        channels: Channels of an image.
    """

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential()
        for entry in _VGG16:
            if isinstance(entry, str):
                self.features.append(nn.MaxPool2d(2))
                continue
            self.features.extend(
                [nn.Conv2d(channels, entry, 3, padding=1), nn.BatchNorm2d(entry), nn.ReLU(inplace=True)]
            )
            channels = entry
        self.classifier = nn.Linear(channels, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def resnet18(classes: int, channels: int) -> nn.Module:
    """ResNet-18: eight basic blocks of widths 64 to 512, 1x1 convolutions around where the shape changes."""
    return CifarResNet(_basic_projected, (2, 2, 2, 2), 64, 1, classes, channels)


def resnet50(classes: int, channels: int) -> nn.Module:
    """ResNet-50: sixteen bottlenecks of widths 64 to 512."""
    return CifarResNet(Bottleneck, (3, 4, 6, 3), 64, 4, classes, channels)


def resnet_thin(depth: int) -> Callable[[int, int], nn.Module]:
    """Return what makes the ResNet of He et al. for CIFAR: 6 n + 2 layers deep, widths 16, 32, 64, option A around."""

    def make(classes: int, channels: int) -> nn.Module:
        return CifarResNet(_basic_padded, ((depth - 2) // 6,) * 3, 16, 1, classes, channels)

    return make


def vgg16(classes: int, channels: int) -> nn.Module:
    """VGG-16 with batch norm."""
    return CifarVGG(classes, channels)


def _basic_projected(inputs: int, width: int, stride: int) -> nn.Module:
    return BasicBlock(inputs, width, stride, _projected(inputs, width, stride))


def _basic_padded(inputs: int, width: int, stride: int) -> nn.Module:
    same = stride == 1 and inputs == width
    return BasicBlock(inputs, width, stride, nn.Identity() if same else PaddedShortcut(inputs, width, stride))


def _projected(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

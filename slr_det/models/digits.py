"""A small network for the 8 x 8 digits, for demonstrations and tests that train in seconds."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class DigitsNet(nn.Module):
    """Three 3x3 convolutions with batch norm, and a linear layer over the last 2 x 2 pixels: 58,144 weights in them.

    Takes float images (N, channels, 8, 8), gives logits (N, classes).

    Args:
        classes: Number of classes.
        channels: Channels of an image.
    """

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.linear = nn.Linear(256, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(functional.relu(self.bn2(self.conv2(x))), 2)
        x = functional.max_pool2d(functional.relu(self.bn3(self.conv3(x))), 2)
        logits: Tensor = self.linear(x.flatten(1))
        return logits

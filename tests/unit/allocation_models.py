"""Shape lists that the allocation tests share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slr_det.layers import Layer, make_layer

_TINY = (
    ("model.0.conv", (16, 3, 3, 3), "first"),
    ("model.2.conv", (32, 16, 3, 3), "body"),
    ("model.4.conv", (64, 32, 3, 3), "body"),
    ("model.6.conv", (128, 64, 3, 3), "body"),
    ("model.8.conv", (256, 128, 3, 3), "body"),
    ("model.10.conv", (512, 256, 3, 3), "body"),
    ("model.13.conv", (1024, 512, 3, 3), "body"),
    ("model.14.conv", (256, 1024, 1, 1), "body"),
    ("model.15.conv", (512, 256, 3, 3), "body"),
    ("model.16.conv", (128, 256, 1, 1), "body"),
    ("model.19.conv", (256, 384, 3, 3), "body"),
    ("model.20.cv2.0.0.conv", (64, 256, 3, 3), "body"),
    ("model.20.cv2.0.1.conv", (64, 64, 3, 3), "body"),
    ("model.20.cv2.0.2", (64, 64, 1, 1), "head"),
    ("model.20.cv2.1.0.conv", (64, 512, 3, 3), "body"),
    ("model.20.cv2.1.1.conv", (64, 64, 3, 3), "body"),
    ("model.20.cv2.1.2", (64, 64, 1, 1), "head"),
    ("model.20.cv3.0.0.conv", (256, 256, 3, 3), "body"),
    ("model.20.cv3.0.1.conv", (256, 256, 3, 3), "body"),
    ("model.20.cv3.0.2", (80, 256, 1, 1), "head"),
    ("model.20.cv3.1.0.conv", (256, 512, 3, 3), "body"),
    ("model.20.cv3.1.1.conv", (256, 256, 3, 3), "body"),
    ("model.20.cv3.1.2", (80, 256, 1, 1), "head"),
)

YOLOV3_TINY: list[Layer] = [make_layer(f"{name}.weight", shape, "conv", role) for name, shape, role in _TINY]
YOLOV3_TINY_PARAMETERS = 12_173_248  # with biases, norms and the fixed weights of the box decoder


def convs(*shapes: Sequence[int]) -> list[Layer]:
    """Body layers named a, b, c ... of the given shapes."""
    return [
        make_layer(f"{chr(ord('a') + i)}.weight", shape, "conv" if len(shape) == 4 else "linear")
        for i, shape in enumerate(shapes)
    ]


def numel(layers: Sequence[Layer]) -> int:
    return sum(math.prod(layer.shape) for layer in layers)

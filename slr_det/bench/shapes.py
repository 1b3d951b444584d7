"""Shapes of the convolution weights of yolov3-tiny and yolov3-spp as ultralytics builds them, for 80 classes.

The core imports no trainer, so the shapes of the two models it is measured on stand here; a test compares them with
ultralytics' own.
"""

from __future__ import annotations

from collections.abc import Iterable

from slr_det.groups import GroupSpec
from slr_det.projections import Projection

Convolution = tuple[int, int, int]  # filters, input channels, kernel size


def _residual(width: int, blocks: int) -> list[Convolution]:
    return [(width // 2, width, 3), (width, width // 2, 3)] * blocks


def _detect(inputs: tuple[int, ...]) -> list[Convolution]:
    boxes = [conv for width in inputs for conv in ((64, width, 3), (64, 64, 3), (64, 64, 1))]
    scores = [conv for width in inputs for conv in ((256, width, 3), (256, 256, 3), (80, 256, 1))]
    return [*boxes, *scores, (1, 16, 1)]


TINY: list[Convolution] = [
    *((16, 3, 3), (32, 16, 3), (64, 32, 3), (128, 64, 3), (256, 128, 3), (512, 256, 3), (1024, 512, 3)),
    *((256, 1024, 1), (512, 256, 3), (128, 256, 1), (256, 384, 3)),
    *_detect((256, 512)),
]

SPP: list[Convolution] = [
    *((32, 3, 3), (64, 32, 3), *_residual(64, 1), (128, 64, 3), *_residual(128, 2)),
    *((256, 128, 3), *_residual(256, 8), (512, 256, 3), *_residual(512, 8)),
    *((1024, 512, 3), *_residual(1024, 4)),
    *(*_residual(1024, 1), (512, 1024, 1), (512, 2048, 1), (1024, 512, 3), (512, 1024, 1), (1024, 512, 3)),
    *(
        (256, 512, 1),
        (256, 768, 3),
        (512, 256, 3),
        (256, 512, 3),
        (512, 256, 3),
        (256, 512, 1),
        (512, 256, 3),
    ),
    *(
        (128, 256, 1),
        (128, 384, 3),
        (256, 128, 3),
        (128, 256, 3),
        (256, 128, 3),
        (128, 256, 3),
        (256, 128, 3),
    ),
    *_detect((256, 512, 1024)),
]


def weight_shapes(model: str) -> dict[str, tuple[int, int, int, int]]:
    """Shapes of a model's convolution weights, in forward order; ``model`` is yolov3-tiny or yolov3-spp."""
    table = {"yolov3-tiny": TINY, "yolov3-spp": SPP}[model]
    return {
        f"conv{index}.weight": (filters, inputs, size, size)
        for index, (filters, inputs, size) in enumerate(table)
    }


def prunable(names: Iterable[str]) -> list[str]:
    """All but the first layer and the fixed last one, which decodes boxes and is never trained."""
    return list(names)[1:-1]


def specs(names: Iterable[str], keep: float) -> list[GroupSpec]:
    """One unstructured group for each weight."""
    return [GroupSpec(name, (name,), keep, Projection("unstructured")) for name in names]

"""A PointPillars as the pruner sees it."""

from __future__ import annotations

from slr_det.adapter import ModelInfo
from slr_det.layers import layers_of
from slr_det.models.pointpillars.model import PointPillars

#: The layers that write the detections; they keep their weights unless a user says otherwise.
HEADS = ("dense_head.conv_*.weight",)


def describe(model: PointPillars) -> ModelInfo:
    """Layers in forward order with their roles, weights by name (float32, on the CPU), number of classes."""
    return ModelInfo(
        layers_of(model, heads=HEADS),
        {name: p.detach().float().cpu() for name, p in model.named_parameters()},
        len(model.config.classes),
    )

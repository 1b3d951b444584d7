"""parsingNet: finds lanes in pictures. Parameter names and numbers are those of Ultra-Fast-Lane-Detection."""

from __future__ import annotations

from slr_det.models.parsingnet.checkpoints import config_of, holds_backbone_alone, load
from slr_det.models.parsingnet.config import ANCHOR_HEIGHT, TUSIMPLE_ROWS, ParsingNetConfig
from slr_det.models.parsingnet.describe import AUXILIARY, HEADS, deployed, describe, layers
from slr_det.models.parsingnet.model import Outputs, ParsingNet
from slr_det.models.parsingnet.presets import PRESETS
from slr_det.models.parsingnet.resnet import DEPTHS

__all__ = [
    "ANCHOR_HEIGHT",
    "AUXILIARY",
    "DEPTHS",
    "HEADS",
    "PRESETS",
    "TUSIMPLE_ROWS",
    "Outputs",
    "ParsingNet",
    "ParsingNetConfig",
    "config_of",
    "deployed",
    "describe",
    "holds_backbone_alone",
    "layers",
    "load",
]

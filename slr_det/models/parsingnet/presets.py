"""The networks that come with the package, by name."""

from __future__ import annotations

from slr_det.models.parsingnet.config import ParsingNetConfig
from slr_det.models.parsingnet.resnet import DEPTHS

PREFIX = "parsingnet"

PRESETS = {
    # Ultra-Fast-Lane-Detection's configs/tusimple.py with each of its backbones.
    **{f"{PREFIX}{depth}": ParsingNetConfig(depth) for depth in DEPTHS},
    # Half the resolution at a quarter of the width and fewer cells, for a laptop without a GPU. As in the large one,
    # most weights are in `cls`.
    f"{PREFIX}_small": ParsingNetConfig(griding=50, size=(144, 400), width=0.25, hidden=256, pool=4),
}

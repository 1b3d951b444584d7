"""PointPillars: detects objects in point clouds. Parameter names and numbers are those of OpenPCDet."""

from __future__ import annotations

from slr_det.models.pointpillars.batches import Pillars, Voxelize, pillars_of
from slr_det.models.pointpillars.config import AnchorClass, PointPillarsConfig
from slr_det.models.pointpillars.decoding import Detections
from slr_det.models.pointpillars.describe import HEADS, describe
from slr_det.models.pointpillars.head import Outputs
from slr_det.models.pointpillars.model import PointPillars
from slr_det.models.pointpillars.openpcdet import from_openpcdet
from slr_det.models.pointpillars.presets import PRESETS

__all__ = [
    "HEADS",
    "PRESETS",
    "AnchorClass",
    "Detections",
    "Outputs",
    "Pillars",
    "PointPillars",
    "PointPillarsConfig",
    "Voxelize",
    "describe",
    "from_openpcdet",
    "pillars_of",
]

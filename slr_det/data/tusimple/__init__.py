"""TuSimple lane detection: its files, its frames, and what training needs of them."""

from __future__ import annotations

from slr_det.data.tusimple.anchors import (
    ANCHOR_HEIGHT,
    GRIDING,
    LABEL_SIZE,
    ROW_ANCHORS,
    lane_slots,
    marks_to_targets,
    slot_marks,
    to_lanes,
    to_targets,
)
from slr_det.data.tusimple.augment import Augmentation
from slr_det.data.tusimple.dataset import MEAN, STD, LaneItem, TuSimpleDataset
from slr_det.data.tusimple.folder import TuSimpleFolder
from slr_det.data.tusimple.labels import NO_POINT, LaneRow, read_rows, write_rows

__all__ = [
    "ANCHOR_HEIGHT",
    "GRIDING",
    "LABEL_SIZE",
    "MEAN",
    "NO_POINT",
    "ROW_ANCHORS",
    "STD",
    "Augmentation",
    "LaneItem",
    "LaneRow",
    "TuSimpleDataset",
    "TuSimpleFolder",
    "lane_slots",
    "marks_to_targets",
    "read_rows",
    "slot_marks",
    "to_lanes",
    "to_targets",
    "write_rows",
]

"""KITTI object detection: its files, its frames, and what training needs of them."""

from __future__ import annotations

from slr_det.data.kitti.augment import Augmentation
from slr_det.data.kitti.boxes import lidar_boxes, to_objects
from slr_det.data.kitti.calibration import Calibration
from slr_det.data.kitti.database import ObjectDatabase, object_database
from slr_det.data.kitti.dataset import Frame, KittiDataset, collate
from slr_det.data.kitti.frames import KittiFolder
from slr_det.data.kitti.labels import KittiObjects, read_objects, write_objects

__all__ = [
    "Augmentation",
    "Calibration",
    "Frame",
    "KittiDataset",
    "KittiFolder",
    "KittiObjects",
    "ObjectDatabase",
    "collate",
    "lidar_boxes",
    "object_database",
    "read_objects",
    "to_objects",
    "write_objects",
]

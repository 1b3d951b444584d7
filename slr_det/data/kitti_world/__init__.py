"""The embedded 3D data set: generated, seeded street scenes in KITTI's layout, with a 64-beam scan of each."""

from __future__ import annotations

from slr_det.data.kitti_world.bodies import CLASSES
from slr_det.data.kitti_world.build import DEFAULT_FRAMES, GENERATOR_VERSION, SPLITS, world_dataset

__all__ = ["CLASSES", "DEFAULT_FRAMES", "GENERATOR_VERSION", "SPLITS", "world_dataset"]

"""The embedded lane data set: a generated, seeded road in TuSimple's layout."""

from __future__ import annotations

from slr_det.data.lane_world.build import DEFAULT_FRAMES, GENERATOR_VERSION, SPLITS, road_dataset

__all__ = ["DEFAULT_FRAMES", "GENERATOR_VERSION", "SPLITS", "road_dataset"]

"""Lane detection on TuSimple: our parsingNet in mmengine's Runner, under every method of slr_det."""

from __future__ import annotations

from slr_det_adapters.lane.adapter import LaneAdapter

adapter = LaneAdapter()

__all__ = ["LaneAdapter", "adapter"]

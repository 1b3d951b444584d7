"""PointPillars on KITTI: our network in mmengine's Runner, under every method of slr_det."""

from __future__ import annotations

from slr_det_adapters.pointpillars.adapter import PointPillarsAdapter

adapter = PointPillarsAdapter()

__all__ = ["PointPillarsAdapter", "adapter"]

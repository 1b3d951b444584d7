"""YOLO and RT-DETR detectors through the ultralytics trainer (8.4 series)."""

from __future__ import annotations

from slr_det_adapters.ultralytics.adapter import UltralyticsAdapter

adapter = UltralyticsAdapter()

__all__ = ["UltralyticsAdapter", "adapter"]

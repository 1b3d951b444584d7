"""The user's own checkout of ultralytics/yolov3, the anchor-based YOLOv3, driven from outside."""

from __future__ import annotations

from slr_det_adapters.yolov3.adapter import YOLOv3Adapter

adapter = YOLOv3Adapter()

__all__ = ["YOLOv3Adapter", "adapter"]

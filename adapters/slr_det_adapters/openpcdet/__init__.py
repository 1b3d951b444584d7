"""The user's own OpenPCDet checkout and configuration, driven from outside."""

from __future__ import annotations

from slr_det_adapters.openpcdet.adapter import OpenPCDetAdapter

adapter = OpenPCDetAdapter()

__all__ = ["OpenPCDetAdapter", "adapter"]

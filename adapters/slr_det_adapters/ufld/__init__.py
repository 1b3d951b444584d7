"""The user's own checkout of Ultra-Fast-Lane-Detection, driven from outside."""

from __future__ import annotations

from slr_det_adapters.ufld.adapter import UFLDAdapter

adapter = UFLDAdapter()

__all__ = ["UFLDAdapter", "adapter"]

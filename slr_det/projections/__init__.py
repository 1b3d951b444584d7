"""The sets S_n of equation (2) and the exact Euclidean projections onto them, equation (10)."""

from __future__ import annotations

from slr_det.projections.block import block
from slr_det.projections.kernel_pattern import kernel_pattern
from slr_det.projections.nm import nm
from slr_det.projections.registry import Projection, Support, get, names, projection
from slr_det.projections.scan import keep_entries
from slr_det.projections.slices import channels, filters
from slr_det.projections.unstructured import unstructured

__all__ = [
    "Projection",
    "Support",
    "block",
    "channels",
    "filters",
    "get",
    "keep_entries",
    "kernel_pattern",
    "names",
    "nm",
    "projection",
    "unstructured",
]

"""How much to keep, and where: from one number, per-layer ratios or a target rate to parameter groups."""

from __future__ import annotations

from slr_det.allocation.build import METHODS, allocate
from slr_det.allocation.ratios import Ratios, parse_rate, read_ratios
from slr_det.allocation.table import Allocation, Row

__all__ = ["METHODS", "Allocation", "Ratios", "Row", "allocate", "parse_rate", "read_ratios"]

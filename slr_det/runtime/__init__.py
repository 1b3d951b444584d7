"""Runs pruned models on a CPU as fast as their zeros allow; see docs/runtime.md.

Nothing is loaded until it is asked for: the library is only needed by what runs.
"""

from __future__ import annotations

from slr_det.runtime.compiled import CompiledModule, compile
from slr_det.runtime.library import load, unavailable
from slr_det.runtime.table import Row

__all__ = ["CompiledModule", "Row", "compile", "load", "unavailable"]

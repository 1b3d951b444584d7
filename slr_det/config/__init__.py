"""The configuration of a run: one YAML file, ``key=value`` words, every problem reported at once."""

from __future__ import annotations

from slr_det.config.load import load_config
from slr_det.config.schema import PruneConfig, RunConfig

__all__ = ["PruneConfig", "RunConfig", "load_config"]

"""SLR for every mmengine Runner: ``custom_imports`` of this package registers the hooks under their class names."""

from __future__ import annotations

from slr_det_adapters.mmengine.checkpoint_hook import SafeCheckpointHook
from slr_det_adapters.mmengine.hook import SLRHook
from slr_det_adapters.mmengine.progress import ProgressHook
from slr_det_adapters.mmengine.runner import build_runner
from slr_det_adapters.mmengine.schedule import ScheduleHook

__all__ = ["ProgressHook", "SLRHook", "SafeCheckpointHook", "ScheduleHook", "build_runner"]

"""Image classifiers: timm's models and the CIFAR family, trained by mmengine's Runner."""

from __future__ import annotations

from slr_det_adapters.timm.adapter import ClassifierAdapter

adapter = ClassifierAdapter()

__all__ = ["ClassifierAdapter", "adapter"]

"""The precision of training, and which OptimWrapper it takes; and that of predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from slr_det.errors import ConfigError, nearest
from slr_det_adapters.settings import TrainerSettings

PRECISIONS = ("", "fp16", "bf16")


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(OptimWrapper):
    """Forward passes under bfloat16 autocast, on any device; its range needs no loss scaling.

    mmengine's AmpOptimWrapper refuses to be built without a GPU. Takes the arguments of OptimWrapper.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


def optim_wrapper_for(
    given: OptimWrapper | Mapping[str, Any], amp: str, device: torch.device
) -> OptimWrapper | dict[str, Any]:
    """The wrapper or its configuration, in the precision ``amp``.

    Raises:
        ConfigError: An unknown precision, one that the device does not have, or a wrapper that has its own.
    """
    if amp not in PRECISIONS:
        raise ConfigError(f"amp is '{amp}'{nearest(amp, PRECISIONS)}, expected fp16, bf16 or nothing")
    _require_device(amp, device)
    if isinstance(given, OptimWrapper):
        if amp:
            raise ConfigError(
                f"amp is '{amp}' and optim_wrapper is built already; pass its configuration instead"
            )
        return given
    config = dict(given)
    if amp and "type" in config:
        raise ConfigError(f"amp is '{amp}' and optim_wrapper has a type of its own; remove one")
    if amp == "fp16":
        return {"type": "AmpOptimWrapper", "dtype": "float16", **config}
    if amp == "bf16":
        return {"type": "Bf16OptimWrapper", **config}
    return {"type": "OptimWrapper", **config}


def precision(settings: TrainerSettings, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast for predictions, as the settings ask for it; ConfigError for fp16 without a GPU."""
    if not settings.amp:
        return nullcontext()
    _require_device(settings.amp, device)
    return torch.autocast(device.type, dtype=torch.bfloat16 if settings.amp == "bf16" else torch.float16)


def _require_device(amp: str, device: torch.device) -> None:
    if amp == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"amp is 'fp16', which needs a GPU, and the device is {device}; use amp=bf16 or leave it out"
        )

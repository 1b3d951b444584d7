"""The model as hard pruning would leave it, for as long as a validation takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from slr_det.engine import Engine


class PrunedView:
    """Prunes weights in place and gives them back, bit for bit."""

    def __init__(self) -> None:
        self._held: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def show(self, engine: Engine, models: Sequence[Mapping[str, Tensor]]) -> None:
        """Prune each model (its tensors by parameter name) to the support of its own projection."""
        self.restore()
        for named in models:
            for name, support in engine.supports(named).items():
                weight = named[name].detach()
                self._held.append((weight, weight.clone()))
                weight.mul_(support)

    @torch.no_grad()
    def restore(self) -> None:
        """Give every weight back; does nothing where nothing is shown."""
        for weight, values in self._held:
            weight.copy_(values)
        self._held.clear()

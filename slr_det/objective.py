"""Where f in condition (6) comes from: the mean training loss, averaged over the ranks of a run."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from slr_det.errors import ConfigError


class RunningMean:
    """Weighted mean of the losses of an iteration, accumulated on the device without a synchronisation.

    Args:
        device: Where the losses are.
        distributed: Whether to average over the ranks of torch.distributed; None means if it is initialised.
    """

    def __init__(self, device: torch.device, distributed: bool | None) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sum = torch.zeros((), dtype=dtype, device=device)
        self.weight = 0.0
        self._distributed = distributed

    def add(self, loss: Tensor, weight: float) -> None:
        """Add a mean loss (one element) that counts ``weight``."""
        self.sum += loss.detach().reshape(()).to(self.sum) * weight
        self.weight += weight

    def reset(self) -> None:
        """Forget everything: the next iteration begins."""
        self.sum.zero_()
        self.weight = 0.0

    def mean(self) -> float | None:
        """The mean over all losses of all ranks, the same number on each; None if there were none."""
        return self._mean(self.sum, self.weight)

    def over_ranks(self, value: float) -> float:
        """The mean of a number over all ranks."""
        mean = self._mean(value, 1.0)
        return value if mean is None else mean

    def _mean(self, total: Tensor | float, weight: float) -> float | None:
        both = self.sum.new_zeros(2)
        both[0], both[1] = total, weight
        if self._distributed is not False and dist.is_available() and dist.is_initialized():
            dist.all_reduce(both)
        elif self._distributed:
            raise ConfigError(
                "distributed is true but torch.distributed is not initialised; initialise it or leave it out"
            )
        summed, weights = both.tolist()
        return summed / weights if weights > 0 else None

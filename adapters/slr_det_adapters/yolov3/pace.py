"""How fast upstream's training moves weights: its learning rate before every batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: Images per optimizer step that upstream adds batches up to.
NOMINAL_BATCH = 64
#: Batches that its warm-up takes, whatever is asked for.
LEAST_WARMUP = 100


def learning_rates(
    epochs: int, batches: int, *, last: float, cosine: bool, warmup: int
) -> npt.NDArray[np.float64]:
    """The learning rate of upstream's weights before every batch, as a share of ``lr0``.

    Args:
        epochs: Epochs of the schedule.
        batches: Batches in each.
        last: Where the schedule ends, ``lrf``.
        cosine: A cosine in place of a line.
        warmup: Batches over which it rises from 0.
    """
    passed = np.arange(epochs) / epochs
    fall = (1 - np.cos(passed * np.pi)) / 2 if cosine else passed
    shares = np.repeat(1 + fall * (last - 1), batches)
    rates: npt.NDArray[np.float64] = shares * np.minimum(np.arange(len(shares)) / warmup, 1.0)
    return rates

"""Upstream's dictionary of losses, with the penalty as one more entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from slr_det.engine import Engine

PENALTY = "slr_penalty"


class Losses:
    """Upstream's losses, listened to.

    Args:
        upstream: What its ``get_loss_dict`` returns: the lists ``name``, ``op``, ``weight`` and ``data_src``.
        engine: Adds its penalty, and is told the loss of every batch without it; None for plain training.
        device: Where the losses are.

    Attributes:
        entries: The dictionary to give to ``train``.
        seen: Sum of the losses of all batches since it was last set to zero, 0-dim float32.
    """

    def __init__(
        self, upstream: Mapping[str, list[Any]], engine: Engine | None, device: torch.device
    ) -> None:
        self._upstream = upstream
        self._engine = engine
        self._batch: Tensor | float = 0.0
        self.seen = torch.zeros((), device=device)
        self.entries: dict[str, list[Any]] = {
            **{name: list(values) for name, values in upstream.items()},
            "op": [self._listening(place, op) for place, op in enumerate(upstream["op"])],
        }
        if engine is not None:
            self.entries["name"].append(PENALTY)
            self.entries["op"].append(engine.penalty)
            self.entries["weight"].append(1.0)
            self.entries["data_src"].append(())

    def of(self, results: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum for a batch, without the penalty and unheard."""
        return torch.stack(
            [
                op(*(results[source] for source in sources)) * weight
                for op, weight, sources in zip(
                    self._upstream["op"], self._upstream["weight"], self._upstream["data_src"], strict=True
                )
            ]
        ).sum()

    def _listening(self, place: int, op: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The loss at a place of the lists, which are gone through once for a batch."""
        weight, last = self._upstream["weight"][place], place == len(self._upstream["op"]) - 1

        def listen(*data: Tensor) -> Tensor:
            value: Tensor = op(*data)
            heard = value.detach() * weight
            self._batch = heard if place == 0 else self._batch + heard
            if last:
                batch = torch.as_tensor(self._batch)
                self.seen += batch
                if self._engine is not None:
                    self._engine.observe(batch, len(data[0]))
            return value

        return listen

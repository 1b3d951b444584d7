"""Gradual magnitude pruning: masks that tighten along a cubic schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slr_det.groups import ParamGroup
from slr_det.methods.parts import (
    count_true,
    norm_outside,
    numel_of,
    require_finite_weights,
    support_of,
    weights_of,
)
from slr_det.methods.protocol import Hyper, MethodState, Record, record, register
from slr_det.methods.schedules import scheduled_keeps


@register
@dataclass(frozen=True)
class Gradual:
    """Magnitude masks at the end of every iteration, enforced from then on, down to the target keep ratio.

    Sets that prune whatever the keep ratio (n:m, kernel patterns) cannot follow a schedule: their groups stay
    dense until the ramp ends and are masked then.

    Scalars of the state: ``iterations``, the horizon of the schedule.
    """

    name: str = "gradual"
    uses_penalty: bool = False

    def init(self, groups: Sequence[ParamGroup], hyper: Hyper, iterations: int) -> MethodState:
        """No masks yet: the schedule starts dense."""
        return MethodState(0, {}, {}, {}, {"iterations": float(iterations)})

    @torch.no_grad()
    def end_iteration(
        self, groups: Sequence[ParamGroup], hyper: Hyper, state: MethodState, objective: float | None
    ) -> tuple[MethodState, Record]:
        """Recompute the masks at the keep ratio the schedule asks for."""
        k = state.iteration + 1
        iterations = int(state.scalars["iterations"] or 0)
        named = weights_of(groups)
        require_finite_weights(named, state)
        target = support_of(groups, named)
        before = norm_outside(named, target)
        masks: dict[str, Tensor] = {}
        dense = 0
        keeps = scheduled_keeps(groups, k, iterations, hyper.ramp_start, hyper.ramp_end)
        for group, keep in zip(groups, keeps, strict=True):
            if keep == group.keep:
                found = [target[name] for name in group.names]
            elif keep < 1.0:
                found = group.projection.support([named[name] for name in group.names], keep)
            else:
                dense += group.numel
                continue
            masks.update(zip(group.names, found, strict=True))
        # What the masks leave of the distance: weights that stay for now and that the target drops.
        outside = {name: target[name] | ~masks[name] if name in masks else target[name] for name in named}
        return state._replace(iteration=k, masks=masks), record(
            self.name,
            k,
            objective=objective,
            distance=norm_outside(named, outside),
            distance_before=before,
            keep=(dense + count_true(masks)) / numel_of(groups),
        )

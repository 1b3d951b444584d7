"""One-shot magnitude pruning: masks from the initial weights, then training under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@register
@dataclass(frozen=True)
class OneShot:
    """The masks of the projection of W^0, enforced from the start on and never changed."""

    name: str = "oneshot"
    uses_penalty: bool = False

    def init(self, groups: Sequence[ParamGroup], hyper: Hyper, iterations: int) -> MethodState:
        """Masks of W^0."""
        return MethodState(0, {}, {}, support_of(groups, weights_of(groups)), {})

    def end_iteration(
        self, groups: Sequence[ParamGroup], hyper: Hyper, state: MethodState, objective: float | None
    ) -> tuple[MethodState, Record]:
        """Nothing moves; the distance is zero as long as the masks are enforced."""
        k = state.iteration + 1
        named = weights_of(groups)
        require_finite_weights(named, state)
        distance = norm_outside(named, state.masks)
        kept = count_true(state.masks)
        return state._replace(iteration=k), record(
            self.name,
            k,
            objective=objective,
            distance=distance,
            distance_before=distance,
            keep=kept / numel_of(groups),
        )

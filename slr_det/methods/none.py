"""Dense training: the null method, so that trainers never branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slr_det.groups import ParamGroup
from slr_det.methods.parts import norm_outside, require_finite_weights, support_of, weights_of
from slr_det.methods.protocol import Hyper, MethodState, Record, record, register


@register
@dataclass(frozen=True)
class NoPruning:
    """No penalty and no masks; the history still says how far dense training stays from the sets."""

    name: str = "none"
    uses_penalty: bool = False

    def init(self, groups: Sequence[ParamGroup], hyper: Hyper, iterations: int) -> MethodState:
        """An empty state."""
        return MethodState(0, {}, {}, {}, {})

    def end_iteration(
        self, groups: Sequence[ParamGroup], hyper: Hyper, state: MethodState, objective: float | None
    ) -> tuple[MethodState, Record]:
        """Count the iteration and measure the distance to the sets."""
        k = state.iteration + 1
        named = weights_of(groups)
        require_finite_weights(named, state)
        distance = norm_outside(named, support_of(groups, named))
        return state._replace(iteration=k), record(
            self.name, k, objective=objective, distance=distance, distance_before=distance, keep=1.0
        )

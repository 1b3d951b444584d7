"""The quadratic penalty alone: the control that shows what multipliers add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slr_det.groups import ParamGroup
from slr_det.lagrangian import measure
from slr_det.methods.parts import (
    free_survivors,
    kept_fraction,
    project,
    projected_weights,
    require_finite,
    weights_of,
)
from slr_det.methods.protocol import Hyper, MethodState, Record, record, register
from slr_det.methods.schedules import keeps_at, rho_at


@register
@dataclass(frozen=True)
class Penalty:
    """rho/2 ||W - Z||^2 with Z = projection of W, renewed every iteration; no multipliers."""

    name: str = "penalty"
    uses_penalty: bool = True

    def init(self, groups: Sequence[ParamGroup], hyper: Hyper, iterations: int) -> MethodState:
        """Z^0 = projection of W^0."""
        z = projected_weights(groups, keeps_at(groups, hyper, 0, iterations))
        return MethodState(
            0, z, {}, {}, {"iterations": float(iterations), "rho": rho_at(hyper, 1, iterations)}
        )

    def end_iteration(
        self, groups: Sequence[ParamGroup], hyper: Hyper, state: MethodState, objective: float | None
    ) -> tuple[MethodState, Record]:
        """Project the weights."""
        k, iterations = state.iteration + 1, int(state.scalars["iterations"] or 0)
        rho, keeps = rho_at(hyper, k, iterations), keeps_at(groups, hyper, k, iterations)
        named = weights_of(groups)
        w, z = list(named.values()), [state.z[n] for n in named]
        free_survivors(hyper, w, z)
        before = measure(w, z)
        require_finite(before, named, state)
        for tensor, target in zip(w, z, strict=True):
            target.copy_(tensor)
        project(groups, state.z, keeps)
        after = measure(w, z)
        scalars = {**state.scalars, "rho": rho_at(hyper, k + 1, iterations)}
        return state._replace(iteration=k, scalars=scalars), record(
            self.name,
            k,
            objective=objective,
            distance=after.distance,
            distance_before=before.distance,
            penalty=after.penalty(rho),
            rho=rho,
            keep=kept_fraction(groups, state.z, keeps),
        )

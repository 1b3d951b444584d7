"""ADMM pruning: the baseline with multipliers that move every iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slr_det import passes
from slr_det.groups import ParamGroup
from slr_det.lagrangian import measure
from slr_det.methods.parts import (
    free_survivors,
    kept_fraction,
    project,
    projected_weights,
    require_finite,
    weights_of,
    zeros_like_weights,
)
from slr_det.methods.protocol import Hyper, MethodState, Record, record, register
from slr_det.methods.schedules import keeps_at, rho_at


@register
@dataclass(frozen=True)
class ADMM:
    """Z = projection of W + Lam/rho, then Lam += rho (W - Z), every iteration.

    Source: Zhang et al., "A systematic DNN weight pruning framework using ADMM" (2018), with Lam = rho U for its
    scaled dual U. The multipliers are constants of the training loss: no gradient flows through them.
    """

    name: str = "admm"
    uses_penalty: bool = True

    def init(self, groups: Sequence[ParamGroup], hyper: Hyper, iterations: int) -> MethodState:
        """Z^0 = projection of W^0, Lam^0 = 0."""
        z = projected_weights(groups, keeps_at(groups, hyper, 0, iterations))
        scalars: dict[str, float | None] = {
            "iterations": float(iterations),
            "rho": rho_at(hyper, 1, iterations),
        }
        return MethodState(0, z, zeros_like_weights(groups), {}, scalars)

    def end_iteration(
        self, groups: Sequence[ParamGroup], hyper: Hyper, state: MethodState, objective: float | None
    ) -> tuple[MethodState, Record]:
        """Project, then move the multipliers."""
        k, iterations = state.iteration + 1, int(state.scalars["iterations"] or 0)
        rho, keeps = rho_at(hyper, k, iterations), keeps_at(groups, hyper, k, iterations)
        named = weights_of(groups)
        w = list(named.values())
        z, lam = [state.z[n] for n in named], [state.multipliers[n] for n in named]
        free_survivors(hyper, w, z)
        before = measure(w, z, lam)
        require_finite(before, named, state)
        passes.unproject(w, z, lam, rho, None)
        project(groups, state.z, keeps)
        free_survivors(hyper, w, z, lam)
        after = measure(w, z, lam).after_update(rho)
        passes.move(w, z, lam, rho)
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

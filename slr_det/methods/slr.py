"""Surrogate Lagrangian Relaxation: equations (5) to (13) of Zhou et al."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slr_det import passes
from slr_det.errors import ConfigError
from slr_det.groups import ParamGroup
from slr_det.lagrangian import measure, projection_descends, weights_descend
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
from slr_det.stepsize import contracted, contraction


@register
@dataclass(frozen=True)
class SLR:
    """Multipliers move only when the surrogate optimality conditions (6) and (11) hold, by contracting steps.

    No copy of W^{k-1} is needed: Z and Lam do not change while iteration k trains, so the left-over of iteration
    k - 1 in (6), (8) and (13) is two numbers, its penalty and its distance ||W^{k-1} - Z^{k-1}||.

    Two schedules can change the problem from one iteration to the next: l_n that shrinks (``continuation``) and rho
    that grows (``rho_growth``). Each test then has the same Z, Lam and rho on both sides, those of its iteration.
    While l_n shrinks the step size is s0: (8) and (13) contract it against distances to one fixed set, and the sets
    on the way there are different ones. Contracted from the first of them, which is hardly a constraint, it would be
    all but zero when the target is reached.

    Scalars of the state: ``step_size`` (s), ``penalty`` and ``distance`` (of W^{k-1}, Z^{k-1}, Lam, at the rho of
    iteration k), ``objective`` (f(W^{k-1}), None before the first), ``rho`` of iteration k and ``iterations``.
    """

    name: str = "slr"
    uses_penalty: bool = True

    def init(self, groups: Sequence[ParamGroup], hyper: Hyper, iterations: int) -> MethodState:
        """Z^0 = projection of W^0, Lam^0 = 0, s = s0."""
        z = projected_weights(groups, keeps_at(groups, hyper, 0, iterations))
        weights = weights_of(groups)
        terms = measure(list(weights.values()), list(z.values()))
        state = MethodState(0, z, zeros_like_weights(groups), {}, {})
        require_finite(terms, weights, state)
        rho = rho_at(hyper, 1, iterations)
        scalars = {
            "step_size": initial_step(hyper, rho),
            "penalty": terms.penalty(rho),
            "distance": terms.distance,
            "objective": None,
            "rho": rho,
            "iterations": float(iterations),
        }
        return state._replace(scalars=scalars)

    def end_iteration(
        self, groups: Sequence[ParamGroup], hyper: Hyper, state: MethodState, objective: float | None
    ) -> tuple[MethodState, Record]:
        """Steps 2 to 4 of an iteration: test (6), maybe (7); project (10); test (11), maybe (12)."""
        if objective is None:
            raise ConfigError(
                f"iteration {state.iteration + 1} ends without an objective, which condition (6) needs; call "
                "engine.observe(loss) after each batch, or set objective=fixed and pass a function that evaluates it"
            )
        k, iterations = state.iteration + 1, int(state.scalars["iterations"] or 0)
        rho, keeps = rho_at(hyper, k, iterations), keeps_at(groups, hyper, k, iterations)
        named = weights_of(groups)
        w = list(named.values())
        z, lam = [state.z[n] for n in named], [state.multipliers[n] for n in named]
        step, distance_0, penalty_0 = _remembered(state)
        a_k = contraction(k, hyper.M, hyper.r)
        moving = keeps != [group.keep for group in groups]
        if moving:
            step = initial_step(hyper, rho)

        free_survivors(hyper, w, z)
        terms = before = measure(w, z, lam)
        require_finite(before, named, state)
        condition_6 = weights_descend(objective, before.penalty(rho), state.scalars["objective"], penalty_0)
        first = _next(step, a_k, distance_0, before.distance, moving) if condition_6 else None
        if first is not None:
            step, terms = first, before.after_update(first)
        passes.unproject(w, z, lam, rho, first)
        project(groups, state.z, keeps)

        after = measure(w, z, lam)
        condition_11 = projection_descends(after.penalty(rho), terms.penalty(rho))
        if free_survivors(hyper, w, z, lam):
            after = measure(w, z, lam)
        previous = before.distance if hyper.stepsize == "contractive" else distance_0
        second = _next(step, a_k, previous, after.distance, moving) if condition_11 else None
        if second is not None:
            step, after = second, after.after_update(second)
            passes.move(w, z, lam, second)

        rho_next = rho_at(hyper, k + 1, iterations)
        scalars: dict[str, float | None] = {
            "step_size": step,
            "penalty": after.penalty(rho_next),
            "distance": after.distance,
            "objective": objective,
            "rho": rho_next,
            "iterations": float(iterations),
        }
        return state._replace(iteration=k, scalars=scalars), record(
            self.name,
            k,
            objective=objective,
            distance=after.distance,
            distance_before=before.distance,
            step_size=step,
            a_k=a_k,
            condition_6=condition_6,
            condition_11=condition_11,
            penalty=after.penalty(rho),
            rho=rho,
            keep=kept_fraction(groups, state.z, keeps),
        )


def initial_step(hyper: Hyper, rho: float) -> float:
    """s0 in the unit that it is given in."""
    return hyper.s0 * rho if hyper.s0_unit == "rho" else hyper.s0


def _next(step: float, a_k: float, before: float, now: float, moving: bool) -> float | None:
    """The step size of an update: contracted by (8) or (13), or as it is while the sets move; None for no update."""
    if moving:
        return step if now > 0.0 else None
    return contracted(step, a_k, before, now)


def _remembered(state: MethodState) -> tuple[float, float, float]:
    """Step size, distance and penalty that iteration k - 1 left."""
    step, distance, penalty = (state.scalars[key] for key in ("step_size", "distance", "penalty"))
    return float(step or 0.0), float(distance or 0.0), float(penalty or 0.0)

"""How far the penalty closes W - Z before hard pruning: whether a run is long enough, and which rho fits it."""

from __future__ import annotations

import math

_ENOUGH = 3.0  # e^-3: 5 % of W - Z is left


def closing_exponent(
    steps: float, lr: float, rho: float, momentum: float = 0.0, loss_scale: float = 1.0
) -> float:
    """How many times e the penalty alone shrinks W - Z: steps * lr * rho * loss_scale / (1 - momentum).

    SGD multiplies W - Z by 1 - lr * rho * loss_scale / (1 - momentum) per step, to first order, while Z and Lam
    are fixed.

    Args:
        steps: Optimizer steps of the whole run.
        lr: Mean learning rate.
        rho: Weight of the quadratic penalty.
        momentum: Momentum of SGD, in [0, 1).
        loss_scale: What the trainer multiplies its mean loss by, per optimizer step.
    """
    return steps * lr * rho * loss_scale / (1.0 - momentum)


def rho_for(
    exponent: float, steps: float, lr: float, momentum: float = 0.0, loss_scale: float = 1.0
) -> float | None:
    """The rho at which :func:`closing_exponent` is ``exponent``; None where no rho moves the weights."""
    at_one = closing_exponent(steps, lr, 1.0, momentum, loss_scale)
    return exponent / at_one if at_one > 0.0 else None


def too_short(
    iterations: int, steps_per_iteration: float, lr: float, rho: float, momentum: float, loss_scale: float
) -> str | None:
    """One sentence that says what to raise and to what, where :func:`closing_exponent` is not well above 1."""
    exponent = closing_exponent(iterations * steps_per_iteration, lr, rho, momentum, loss_scale)
    if exponent >= _ENOUGH:
        return None
    formula = "steps * lr * rho * loss scale / (1 - momentum)"
    if exponent <= 0.0:
        return (
            f"the penalty never moves the weights: {formula} is {exponent:g}, expected at least {_ENOUGH:g}"
        )
    factor = _ENOUGH / exponent
    return (
        f"the penalty closes only about {100 * -math.expm1(-exponent):.0f} % of W - Z in this run, so hard pruning "
        f"will cost accuracy: {formula} is {exponent:.2g}, expected at least {_ENOUGH:g}; raise rho from {rho:.3g} to "
        f"{rho * factor:.3g}, or the learning rate from {lr:.3g} to {lr * factor:.3g}, or the iterations from "
        f"{iterations} to {math.ceil(iterations * factor)}"
    )

"""The step size s of the multipliers: its contraction a_k and the updates (8) and (13)."""

from __future__ import annotations


def contraction(k: int, M: float, r: float) -> float:
    """The factor a_k = 1 - 1 / (M k^p) with p = 1 - 1 / k^r (equation 13).

    Args:
        k: Iteration, counted from 1.
        M: Larger is slower contraction; M > 1 keeps a_k in (0, 1).
        r: Exponent of the schedule of p, r > 0.
    """
    p = 1.0 - 1.0 / k**r
    return float(1.0 - 1.0 / (M * k**p))


def contracted(step: float, a_k: float, before: float, now: float) -> float | None:
    """The next step size, a_k * step * before / now: equations (8) and (13).

    With ``before`` the distance ||W - Z|| at the previous update and ``now`` the distance at this one, the product
    of step size and distance shrinks by exactly a_k.

    Returns:
        The new step size, or None where a distance is zero: then W is feasible, and neither the multipliers nor
        the step size change.
    """
    if before == 0.0 or now == 0.0:
        return None
    return a_k * step * before / now

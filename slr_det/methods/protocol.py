"""What a method is: plain data (hyperparameters, state) and two pure functions, registered under a name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

from slr_det.errors import ConfigError, nearest
from slr_det.groups import ParamGroup

STEPSIZES = ("contractive", "as_printed")
OBJECTIVES = ("running", "fixed")
UNITS = ("absolute", "rho")
SURVIVORS = ("pinned", "free")


@dataclass(frozen=True)
class Hyper:
    """Hyperparameters of every method; each method reads the ones it needs.

    Attributes:
        rho: Weight of the quadratic penalty rho/2 ||W - Z||^2 (slr, admm, penalty); > 0.
        closing: Where it is above 0, rho is not what ``rho`` says but what closes W - Z by this exponent over the run
            (:func:`slr_det.closing.closing_exponent` at the run's mean learning rate, before any ``rho_growth``), so
            that one setting fits runs of any length and learning rate. Needs SGD, whose steps have that closed form;
            under another optimizer ``rho`` holds (slr, admm, penalty).
        M: Contraction constant of a_k (slr); > 1.
        r: Exponent of a_k (slr); > 0.
        s0: Initial step size of the multipliers (slr); > 0.
        s0_unit: ``absolute``, or ``rho``: s0 is a multiple of rho, which moves the multipliers by that fraction of
            what ADMM moves them by (slr).
        stepsize: ``contractive`` (||W^k - Z^{k-1}|| in the numerator of (13)) or ``as_printed``
            (||W^{k-1} - Z^{k-1}||) (slr).
        objective: Where f comes from in condition (6) (slr): ``running`` (mean training loss of the iteration) or
            ``fixed`` (the loss on batches held for the run).
        rho_growth: What rho has been multiplied by when the last iteration trains, in equal ratios from iteration to
            iteration; 1 for a constant rho (slr, admm, penalty); > 0.
        survivors: What the penalty does to the weights that Z keeps (slr, admm, penalty). ``pinned``: it pulls them to
            the values they had when Z was projected, as equation (4) says for a fixed Z. ``free``: Z follows W where
            it is not zero, which is the minimum of (4) over the values of Z once its support is chosen, and the
            multipliers are zero there, which is what optimality asks of them. The penalty then acts on the other
            weights only, so that a rho that presses them to zero does not keep the survivors from learning.
        continuation: Fraction of the iterations over which l_n of equation (2) shrinks from all weights to the target,
            along the cubic of ``gradual``; 0 to start at the target (slr, admm, penalty); in [0, 1].
        ramp_start: Fraction of the iterations after which pruning begins (gradual); in [0, ramp_end).
        ramp_end: Fraction of the iterations after which the target keep ratio is reached (gradual); in (0, 1].

    Raises:
        ConfigError: With every field that is out of range.
    """

    rho: float = 0.1
    closing: float = 0.0
    M: float = 300.0
    r: float = 0.1
    s0: float = 0.01
    s0_unit: str = "absolute"
    stepsize: str = "contractive"
    objective: str = "running"
    rho_growth: float = 1.0
    survivors: str = "pinned"
    continuation: float = 0.0
    ramp_start: float = 0.0
    ramp_end: float = 0.75

    def __post_init__(self) -> None:
        bounds = {"rho": 0.0, "M": 1.0, "r": 0.0, "s0": 0.0, "rho_growth": 0.0}
        problems = [
            f"{key} is {value!r}, expected a finite number above {low:g}"
            for key, low in bounds.items()
            if not _number(value := getattr(self, key)) or not value > low
        ]
        words = {"stepsize": STEPSIZES, "objective": OBJECTIVES, "s0_unit": UNITS, "survivors": SURVIVORS}
        for key, valid in words.items():
            value = getattr(self, key)
            if value not in valid:
                problems.append(
                    f"{key} is {value!r}, expected {' or '.join(valid)}{nearest(str(value), valid)}"
                )
        if not _number(self.closing) or self.closing < 0.0:
            problems.append(f"closing is {self.closing!r}, expected a finite number of at least 0")
        if not _number(self.continuation) or not 0.0 <= self.continuation <= 1.0:
            problems.append(f"continuation is {self.continuation!r}, expected a fraction in [0, 1]")
        ramp = (self.ramp_start, self.ramp_end)
        if not all(map(_number, ramp)) or not 0.0 <= self.ramp_start < self.ramp_end <= 1.0:
            problems.append(
                f"ramp_start and ramp_end are {self.ramp_start!r} and {self.ramp_end!r}, "
                "expected 0 <= ramp_start < ramp_end <= 1"
            )
        if problems:
            raise ConfigError(problems)

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain JSON types."""
        return dataclasses.asdict(self)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class MethodState(NamedTuple):
    """The state of a method between iterations: plain tensors and numbers, so that saving it needs no code.

    Attributes:
        iteration: Iterations that have ended; the next one is ``iteration + 1``.
        z: Z_n by parameter name, float32, shaped like the weights; empty for methods without a penalty.
        multipliers: Lam_n by parameter name, float32; empty for methods without multipliers.
        masks: Bool masks by parameter name that are enforced after every optimizer step; empty where none are.
        scalars: Numbers the method remembers; None where not known yet.
    """

    iteration: int
    z: dict[str, Tensor]
    multipliers: dict[str, Tensor]
    masks: dict[str, Tensor]
    scalars: dict[str, float | None]


Record = dict[str, Any]


class Method(Protocol):
    """A pruning method. Stateless: everything that changes is in the :class:`MethodState` it is given."""

    @property
    def name(self) -> str:
        """The name in configurations."""
        ...

    @property
    def uses_penalty(self) -> bool:
        """Whether training adds <Lam, W - Z> + rho/2 ||W - Z||^2 to the loss."""
        ...

    def init(self, groups: Sequence[ParamGroup], hyper: Hyper, iterations: int) -> MethodState:
        """The state before the first iteration, from the initial weights W^0 of the groups."""
        ...

    def end_iteration(
        self, groups: Sequence[ParamGroup], hyper: Hyper, state: MethodState, objective: float | None
    ) -> tuple[MethodState, Record]:
        """End iteration k = state.iteration + 1 with the current weights W^k of the groups.

        Args:
            groups: The live weights; read, never written (masks are enforced by the engine).
            hyper: The hyperparameters.
            state: The state after iteration k - 1. Its tensors may be reused for the new state.
            objective: f(W^k), or None where nothing was observed.

        Returns:
            The state after iteration k, and the history record from :func:`record`.

        Raises:
            NumericsError: A weight or multiplier is NaN or infinite.
            ConfigError: The method needs an objective and there is none.
        """
        ...


def record(
    method: str,
    k: int,
    *,
    distance: float,
    distance_before: float,
    keep: float,
    objective: float | None,
    penalty: float = 0.0,
    rho: float | None = None,
    step_size: float | None = None,
    a_k: float | None = None,
    condition_6: bool | None = None,
    condition_11: bool | None = None,
) -> Record:
    """One entry of the history: JSON types only, every method with the same keys.

    Args:
        method: Name of the method.
        k: The iteration, from 1.
        distance: ||W^k - Z^k||; for methods without Z, the distance from W^k to its own projection.
        distance_before: ||W^k - Z^{k-1}||; for methods without Z, the same before the masks moved.
        keep: Keep ratio over all groups that Z^k (or the masks) satisfies; 1 where nothing is pruned yet.
        objective: f(W^k).
        penalty: <Lam, W - Z> + rho/2 ||W - Z||^2 with the new Z and Lam.
        rho: Weight of the quadratic penalty, None for methods without.
        step_size: s after the iteration.
        a_k: Contraction factor of the iteration.
        condition_6: Whether (6) held.
        condition_11: Whether (11) held.
    """
    return {
        "iteration": k,
        "method": method,
        "objective": objective,
        "distance": distance,
        "distance_before": distance_before,
        "step_size": step_size,
        "a_k": a_k,
        "condition_6": condition_6,
        "condition_11": condition_11,
        "penalty": penalty,
        "rho": rho,
        "keep": keep,
    }


_REGISTRY: dict[str, Method] = {}
_MethodClass = TypeVar("_MethodClass", bound=type)


def register(cls: _MethodClass) -> _MethodClass:
    """Class decorator: make a method available under its ``name``.

    Raises:
        ConfigError: Another method already has the name.
    """
    method: Method = cls()
    if method.name in _REGISTRY:
        raise ConfigError(f"a method named '{method.name}' is already registered; choose another name")
    _REGISTRY[method.name] = method
    return cls


def get(name: str) -> Method:
    """The method registered under a name.

    Raises:
        ConfigError: There is none; the message names the nearest.
    """
    if name not in _REGISTRY:
        raise ConfigError(
            f"method is '{name}', expected one of {', '.join(names())}{nearest(name, _REGISTRY)}"
        )
    return _REGISTRY[name]


def names() -> list[str]:
    """Names of all registered methods, sorted."""
    return sorted(_REGISTRY)

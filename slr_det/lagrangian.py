"""The multiplier terms of the augmented Lagrangian (4): their value, their gradient (5), and the tests (6) and (11).

For weights W, their projections Z and multipliers Lam (one tensor each per parameter)

    penalty(W) = <Lam, W - Z> + rho/2 ||W - Z||^2,        gradient = Lam + rho (W - Z),

summed over every parameter of every group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from slr_det.passes import buckets, gradient, sums


@dataclass(frozen=True)
class Terms:
    """The two scalars every test and step size is made of.

    Attributes:
        inner: <Lam, W - Z>, summed over all groups (0 without multipliers).
        squared: ||W - Z||^2, summed over all groups.
    """

    inner: float
    squared: float

    @property
    def distance(self) -> float:
        """||W - Z||: one Frobenius norm over all groups together."""
        return math.sqrt(self.squared)

    def penalty(self, rho: float) -> float:
        """<Lam, W - Z> + rho/2 ||W - Z||^2."""
        return self.inner + 0.5 * rho * self.squared

    def after_update(self, step: float) -> Terms:
        """The same terms once Lam has become Lam + step (W - Z): no pass over the weights is needed."""
        return Terms(self.inner + step * self.squared, self.squared)

    @property
    def finite(self) -> bool:
        return math.isfinite(self.inner) and math.isfinite(self.squared)


@torch.no_grad()
def measure(weights: Sequence[Tensor], z: Sequence[Tensor], multipliers: Sequence[Tensor] = ()) -> Terms:
    """<Lam, W - Z> and ||W - Z||^2 over matching tensors, in one pass.

    Args:
        weights: W, floating point, any shapes.
        z: Z, float32, the same shapes.
        multipliers: Lam, float32, the same shapes; empty where the method has none.

    Returns:
        Host numbers (one synchronisation on an accelerator, however many tensors there are).
    """
    inner, squared = sums(weights, z, multipliers)
    if isinstance(squared, Tensor):
        both = [inner, squared] if isinstance(inner, Tensor) else [squared.new_zeros(()), squared]
        inner, squared = torch.stack(both).tolist()
    return Terms(float(inner), float(squared))


@dataclass
class _Shared:
    """What the nodes of one penalty term read when they run: W, and the Z, Lam and rho of the latest value."""

    weights: list[Tensor]
    z: Sequence[Tensor] = ()
    multipliers: Sequence[Tensor] = ()
    rho: float = 0.0


class PenaltyTerm:
    """The penalty as a term of the loss, in a way that costs no memory at the peak of a training step.

    Backward runs the nodes that were made last first. A node made together with the loss would therefore hand out
    its gradients, as large as the weights, while every activation is still held. So the nodes that compute them are
    made here, before the first forward pass, one for each few weights: they run when everything else is done, one
    after the other, and each gradient is added to the task's as soon as it is there.

    Args:
        weights: W, the tensors that training changes in place.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._shared = _Shared(list(weights))
        self._trainable: list[bool] = []
        self._nodes: list[Tensor] = []
        self._prepare()

    def _prepare(self) -> None:
        """Make the nodes, again where weights were frozen or thawed since."""
        weights = self._shared.weights
        trainable = [w.requires_grad for w in weights]
        if trainable != self._trainable:
            with torch.enable_grad():
                self._nodes = [
                    _Gradient.apply(self._shared, part, *(weights[i] for i in part))  # type: ignore[no-untyped-call]
                    for part in buckets(weights)
                ]
            self._trainable = trainable

    def __call__(self, z: Sequence[Tensor], multipliers: Sequence[Tensor], rho: float) -> Tensor:
        """<Lam, W - Z> + rho/2 ||W - Z||^2, a differentiable 0-dim float32 tensor (the second part of equation 4).

        The gradient reaches the weights only: Z and Lam are constants within an iteration. Works under autocast
        (the arithmetic stays float32), gradient scaling and gradient accumulation like any other term of a loss.
        """
        self._prepare()
        value: Tensor = _Value.apply(self._shared, z, multipliers, rho, *self._nodes)  # type: ignore[no-untyped-call]
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        return PenaltyTerm, (self._shared.weights,)  # nodes of a graph cannot be copied


class _Value(torch.autograd.Function):
    """The penalty's value: made with the loss, and so the first of the term's nodes to run backward."""

    @staticmethod
    def forward(
        ctx: Any,
        shared: _Shared,
        z: Sequence[Tensor],
        multipliers: Sequence[Tensor],
        rho: float,
        *nodes: Tensor,
    ) -> Tensor:
        weights = [w.detach() for w in shared.weights]
        ctx.shared, ctx.constants, ctx.nodes = shared, (z, multipliers, rho), len(nodes)
        ctx.versions = [w._version for w in weights]
        device = weights[0].device
        with torch.autocast(device.type, enabled=False):
            inner, squared = sums(weights, z, multipliers)
        value = inner + 0.5 * rho * squared
        if isinstance(value, Tensor):
            return value.to(device=device, dtype=torch.float32)
        return torch.tensor(value, dtype=torch.float32, device=device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        shared: _Shared = ctx.shared
        if ctx.versions != [w._version for w in shared.weights]:
            raise RuntimeError(
                "a weight has been modified by an inplace operation between the penalty and its backward pass"
            )
        shared.z, shared.multipliers, shared.rho = ctx.constants
        return None, None, None, None, *[grad_output] * ctx.nodes


class _Gradient(torch.autograd.Function):
    """Equation (5) for a few weights: made before every forward pass, and so among the last nodes to run backward."""

    @staticmethod
    def forward(ctx: Any, shared: _Shared, part: list[int], *weights: Tensor) -> Tensor:
        ctx.shared, ctx.part = shared, part
        return torch.zeros((), dtype=torch.float32, device=weights[0].device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        shared: _Shared = ctx.shared
        weights, z = ([tensors[i] for i in ctx.part] for tensors in (shared.weights, shared.z))
        multipliers = [shared.multipliers[i] for i in ctx.part] if shared.multipliers else []
        found = gradient([w.detach() for w in weights], z, multipliers, shared.rho, grad_output)
        return None, None, *found


def penalty(
    weights: Sequence[Tensor], z: Sequence[Tensor], multipliers: Sequence[Tensor], rho: float
) -> Tensor:
    """The value of a :class:`PenaltyTerm` made on the spot."""
    return PenaltyTerm(weights)(z, multipliers, rho)


def weights_descend(
    objective: float, penalty: float, objective_before: float | None, penalty_before: float
) -> bool:
    """Condition (6): L_rho(W^k, Z^{k-1}, Lam) < L_rho(W^{k-1}, Z^{k-1}, Lam).

    ``objective_before`` is None where f(W^{k-1}) is not known (the first iteration of a running objective): the
    condition then counts as satisfied.
    """
    return objective_before is None or objective + penalty < objective_before + penalty_before


def projection_descends(penalty: float, penalty_before: float) -> bool:
    """Condition (11): L_rho(W^k, Z^k, Lam) < L_rho(W^k, Z^{k-1}, Lam); f is the same on both sides and cancels."""
    return penalty < penalty_before

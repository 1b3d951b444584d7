"""The multiplier terms of the augmented Lagrangian (4): their value, their gradient (5), and the tests (6) and (11).

For weights W, their projections Z and multipliers Lam (one tensor each per parameter)

    penalty(W) = <Lam, W - Z> + rho/2 ||W - Z||^2,        gradient = Lam + rho (W - Z),

summed over every parameter of every group. Arithmetic is float32 within a piece and float64 across pieces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from slr_det.chunks import like, scratch_for, walk


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
    inner, squared = _sums(weights, z, multipliers)
    if isinstance(squared, Tensor):
        both = torch.stack([torch.as_tensor(inner, dtype=squared.dtype, device=squared.device), squared])
        inner, squared = both.tolist()
    return Terms(float(inner), float(squared))


def _sums(
    weights: Sequence[Tensor], z: Sequence[Tensor], multipliers: Sequence[Tensor]
) -> tuple[float | Tensor, float | Tensor]:
    """The two sums: Python floats on a CPU, 0-dim float64 tensors (not synchronised) on an accelerator."""
    if all(w.device.type == "cpu" for w in weights):
        inner = squared = 0.0
        for i, w in enumerate(weights):
            scratch = scratch_for(w)
            for w_, z_, *lam_ in walk(w, z[i], *multipliers[i : i + 1]):
                d = torch.sub(w_, z_, out=like(scratch, w_)).view(-1)
                squared += torch.dot(d, d).item()
                if lam_:
                    inner += torch.dot(d, lam_[0].reshape(-1)).item()
        return inner, squared
    squares: list[Tensor] = []
    inners: list[Tensor] = []
    for i, w in enumerate(weights):
        for w_, z_, *lam_ in walk(w, z[i], *multipliers[i : i + 1]):
            d = torch.sub(w_, z_).reshape(-1).float()
            squares.append(torch.dot(d, d))
            if lam_:
                inners.append(torch.dot(d, lam_[0].reshape(-1)))
    return _total(inners) if inners else 0.0, _total(squares)


def _total(scalars: list[Tensor]) -> Tensor:
    """Sum of 0-dim tensors in float64 (float32 where the device has no float64)."""
    device = scalars[0].device
    stacked = torch.stack([s.to(device) for s in scalars])
    return (stacked if device.type == "mps" else stacked.double()).sum()


@torch.no_grad()
def add_gradient(
    out: Sequence[Tensor],
    weights: Sequence[Tensor],
    z: Sequence[Tensor],
    multipliers: Sequence[Tensor],
    rho: float,
    scale: float,
) -> None:
    """Add scale (Lam + rho (W - Z)) to existing gradients in place, piece by piece: equation (5)."""
    for i, w in enumerate(weights):
        scratch = scratch_for(w)
        for o_, w_, z_, *lam_ in walk(out[i], w, z[i], *multipliers[i : i + 1]):
            d = torch.sub(w_, z_, out=like(scratch, w_)).mul_(scale * rho)
            o_.add_(d.add_(lam_[0], alpha=scale) if lam_ else d)


@torch.no_grad()
def gradient(
    weights: Sequence[Tensor],
    z: Sequence[Tensor],
    multipliers: Sequence[Tensor],
    rho: float,
    scale: float | Tensor,
) -> list[Tensor]:
    """The gradient scale (Lam + rho (W - Z)) as new tensors, laid out and typed like the weights: equation (5).

    The arithmetic is float32 whatever the weights' dtype. ``scale`` stays on its device: no synchronisation.
    """
    if isinstance(scale, Tensor) and scale.device.type == "cpu":
        scale = scale.item()
    out: list[Tensor] = []
    for i, w in enumerate(weights):
        g = torch.empty_like(w, dtype=torch.float32)
        for g_, w_, z_, *lam_ in walk(g, w, z[i], *multipliers[i : i + 1]):
            torch.sub(w_, z_, out=g_)
            if isinstance(scale, Tensor):
                g_.mul_(rho)
                if lam_:
                    g_.add_(lam_[0])
                g_.mul_(scale.to(g_.device))
            else:
                g_.mul_(rho * scale)
                if lam_:
                    g_.add_(lam_[0], alpha=scale)
        out.append(g.to(w.dtype))
    return out


class _Penalty(torch.autograd.Function):
    """The penalty as one node of the autograd graph: Z and Lam are constants, the backward pass is (5)."""

    @staticmethod
    def forward(
        ctx: Any, z: Sequence[Tensor], multipliers: Sequence[Tensor], rho: float, *weights: Tensor
    ) -> Tensor:
        # Saving the weights costs no memory and lets autograd complain if they change before the backward pass.
        ctx.save_for_backward(*weights)
        ctx.z, ctx.multipliers, ctx.rho = z, multipliers, rho
        device = weights[0].device
        with torch.autocast(device.type, enabled=False):
            inner, squared = _sums([w.detach() for w in weights], z, multipliers)
        value = inner + 0.5 * rho * squared
        if isinstance(value, Tensor):
            return value.to(device=device, dtype=torch.float32)
        return torch.tensor(value, dtype=torch.float32, device=device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        weights = [w.detach() for w in ctx.saved_tensors]
        return None, None, None, *gradient(weights, ctx.z, ctx.multipliers, ctx.rho, grad_output)


def penalty(
    weights: Sequence[Tensor], z: Sequence[Tensor], multipliers: Sequence[Tensor], rho: float
) -> Tensor:
    """<Lam, W - Z> + rho/2 ||W - Z||^2 as a differentiable 0-dim float32 tensor (the second part of equation 4).

    The gradient reaches ``weights`` only: Z and Lam are constants within an iteration. Works under autocast (the
    arithmetic stays float32), gradient scaling and gradient accumulation like any other term of a loss.
    """
    value: Tensor = _Penalty.apply(z, multipliers, rho, *weights)  # type: ignore[no-untyped-call]
    return value


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

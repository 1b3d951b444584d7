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

from slr_det.chunks import flatten, like, scratch_for, walk


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
        both = [inner, squared] if isinstance(inner, Tensor) else [squared.new_zeros(()), squared]
        inner, squared = torch.stack(both).tolist()
    return Terms(float(inner), float(squared))


def _sums(
    weights: Sequence[Tensor], z: Sequence[Tensor], multipliers: Sequence[Tensor]
) -> tuple[float | Tensor, float | Tensor]:
    """<Lam, W - Z> and ||W - Z||^2: Python floats on a CPU, 0-dim tensors (not synchronised) on an accelerator."""
    on_cpu = all(w.device.type == "cpu" for w in weights)
    return (_sums_in_pieces if on_cpu else _sums_in_buckets)(weights, z, multipliers)


def _sums_in_pieces(
    weights: Sequence[Tensor], z: Sequence[Tensor], multipliers: Sequence[Tensor]
) -> tuple[float, float]:
    """On a CPU: the difference lives in the cache only.

    Products are summed by ``sum``, whose pairwise order keeps the error near 1e-8; a float32 dot product is quicker,
    but its error grows to 1e-5 where many differences are equal.
    """
    inner = squared = 0.0
    for i, w in enumerate(weights):
        tensors = (w, z[i], *multipliers[i : i + 1])
        differences, squares = scratch_for(*tensors), scratch_for(*tensors)
        for w_, z_, *lam_ in walk(*tensors):
            d = torch.sub(w_, z_, out=like(differences, w_))
            squared += torch.mul(d, d, out=like(squares, w_)).sum().item()
            if lam_:
                inner += d.mul_(lam_[0]).sum().item()
    return inner, squared


def _sums_in_buckets(
    weights: Sequence[Tensor], z: Sequence[Tensor], multipliers: Sequence[Tensor]
) -> tuple[float | Tensor, Tensor]:
    """On an accelerator: few kernel launches, no synchronisation, temporaries no larger than the largest tensor."""
    norms: list[Tensor] = []
    inners: list[Tensor] = []
    for part in _buckets(weights):
        difference = torch._foreach_sub([weights[i] for i in part], [z[i] for i in part])
        norms += torch._foreach_norm(difference)
        if multipliers:
            inners += [_dot(multipliers[i], d) for i, d in zip(part, difference, strict=True)]
    return _wide(inners).sum() if inners else 0.0, _wide(norms).square().sum()


def _buckets(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Indices in runs whose sizes add up to at most the largest tensor's (and one device each)."""
    limit = max(tensor.numel() for tensor in tensors)
    buckets: list[list[int]] = []
    size = 0
    for i, tensor in enumerate(tensors):
        if not buckets or size + tensor.numel() > limit or tensors[buckets[-1][0]].device != tensor.device:
            buckets.append([])
            size = 0
        buckets[-1].append(i)
        size += tensor.numel()
    return buckets


def _dot(a: Tensor, b: Tensor) -> Tensor:
    x, y = flatten((a, b)) or (a.reshape(-1), b.reshape(-1))
    return torch.dot(x, y.to(x.dtype))


def _wide(scalars: list[Tensor]) -> Tensor:
    """0-dim tensors as one vector on the first one's device, float64 where the device has it."""
    device = scalars[0].device
    stacked = torch.stack([scalar.to(device, torch.float32) for scalar in scalars])
    return stacked if device.type == "mps" else stacked.double()


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
        tensors = (out[i], w, z[i], *multipliers[i : i + 1])
        scratch = scratch_for(*tensors)
        for o_, w_, z_, *lam_ in walk(*tensors):
            d = torch.sub(w_, z_, out=like(scratch, w_)).mul_(scale * rho)
            o_.add_(d.add_(lam_[0], alpha=scale) if lam_ else d)


@torch.no_grad()
def gradient(
    weights: Sequence[Tensor],
    z: Sequence[Tensor],
    multipliers: Sequence[Tensor],
    rho: float,
    scale: Tensor,
) -> list[Tensor]:
    """The gradient scale (Lam + rho (W - Z)) as new tensors, laid out and typed like the weights: equation (5).

    The arithmetic is float32 whatever the weights' dtype.

    Args:
        weights: W.
        z: Z, float32.
        multipliers: Lam, float32; empty where the method has none.
        rho: Weight of the quadratic penalty.
        scale: 0-dim factor, in a training step the gradient that reaches the penalty; not synchronised.
    """
    on_cpu = all(w.device.type == "cpu" for w in weights)
    found = (_gradient_in_pieces if on_cpu else _gradient_of_all)(weights, z, multipliers, rho, scale)
    return [g.to(w.dtype) for g, w in zip(found, weights, strict=True)]


def _gradient_in_pieces(
    weights: Sequence[Tensor], z: Sequence[Tensor], multipliers: Sequence[Tensor], rho: float, scale: Tensor
) -> list[Tensor]:
    factor = scale.item()
    out = [torch.empty_like(w, dtype=torch.float32) for w in weights]
    for i, w in enumerate(weights):
        for g_, w_, z_, *lam_ in walk(out[i], w, z[i], *multipliers[i : i + 1]):
            torch.sub(w_, z_, out=g_).mul_(factor * rho)
            if lam_:
                g_.add_(lam_[0], alpha=factor)
    return out


def _gradient_of_all(
    weights: Sequence[Tensor], z: Sequence[Tensor], multipliers: Sequence[Tensor], rho: float, scale: Tensor
) -> list[Tensor]:
    out = [d.float() for d in torch._foreach_sub(list(weights), list(z))]
    torch._foreach_mul_(out, rho)
    if multipliers:
        torch._foreach_add_(out, list(multipliers))
    torch._foreach_mul_(out, scale.float() if len({g.device for g in out}) == 1 else scale.item())
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

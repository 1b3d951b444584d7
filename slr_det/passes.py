"""Passes over weights W, projections Z and multipliers Lam: every formula that touches whole tensors is here.

Each pass reads its tensors once and has no temporary larger than the largest of them (a cache-sized piece on the
host). Rows of tensors match by position; ``multipliers`` may be empty where a method has none. Z and Lam are float32,
W has any floating dtype; arithmetic is float32, sums are kept in float64 across pieces or tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from slr_det import hostpasses

Tensors = Sequence[Tensor]


def sums(weights: Tensors, z: Tensors, multipliers: Tensors) -> tuple[float | Tensor, float | Tensor]:
    """<Lam, W - Z> and ||W - Z||^2: numbers on the host, 0-dim tensors (not synchronised) on an accelerator."""
    rows = _rows(weights, z, multipliers)
    if _on_host(rows):
        return hostpasses.sums(rows)
    return _sums_inbuckets(weights, z, multipliers)


def gradient(weights: Tensors, z: Tensors, multipliers: Tensors, rho: float, scale: Tensor) -> list[Tensor]:
    """New tensors scale (Lam + rho (W - Z)), laid out and typed like the weights: equation (5).

    ``scale`` is a 0-dim tensor, in a training step the gradient that reaches the penalty; an accelerator is not
    synchronised for it.
    """
    out = [torch.empty_like(w, dtype=torch.float32) for w in weights]
    rows = _rows(out, weights, z, multipliers)
    if _on_host(rows):
        hostpasses.gradient(rows, rho, scale.item())
    else:
        out = _gradient_of_all(weights, z, multipliers, rho, scale)
    return [g.to(w.dtype) for g, w in zip(out, weights, strict=True)]


def add_gradient(
    out: Tensors, weights: Tensors, z: Tensors, multipliers: Tensors, rho: float, scale: float
) -> None:
    """Add scale (Lam + rho (W - Z)) to existing gradients, in place."""
    rows = _rows(out, weights, z, multipliers)
    if _on_host(rows) and all(g.dtype == torch.float32 for g in out):
        hostpasses.add_gradient(rows, rho, scale)
        return
    for g, w, z_, *lam in rows:
        d = torch.sub(w, z_).mul_(scale * rho)
        g.add_(d.add_(lam[0], alpha=scale) if lam else d)


def move(weights: Tensors, z: Tensors, multipliers: Tensors, step: float) -> None:
    """Lam += step (W - Z), in place: equations (7) and (12)."""
    rows = _rows(weights, z, multipliers)
    if _on_host(rows):
        hostpasses.move(rows, step)
        return
    for w, z_, lam in rows:
        lam.add_(torch.sub(w, z_), alpha=step)


def unproject(weights: Tensors, z: Tensors, multipliers: Tensors, rho: float, step: float | None) -> None:
    """Lam += step (W - Z) where a step is given, then Z <- W + Lam/rho: all of (7) and (10) but the projection.

    The old Z is not needed any more, so that its memory holds the argument of the projection.
    """
    rows = _rows(weights, z, multipliers)
    if _on_host(rows):
        hostpasses.unproject(rows, rho, step)
        return
    for w, z_, lam in rows:
        if step is not None:
            lam.add_(torch.sub(w, z_), alpha=step)
        torch.mul(lam, 1.0 / rho, out=z_).add_(w)


def follow(weights: Tensors, z: Tensors) -> None:
    """Z <- W where Z is not zero, in place: the nearest point to W with Z's own support."""
    rows = _rows(weights, z)
    if _on_host(rows):
        hostpasses.follow(rows)
        return
    for w, z_ in rows:
        z_.copy_(torch.where(z_ != 0, w.to(z_.dtype), z_))


def release(z: Tensors, multipliers: Tensors) -> None:
    """Lam <- 0 where Z is not zero, in place."""
    rows = _rows(z, multipliers)
    if _on_host(rows):
        hostpasses.release(rows)
        return
    for z_, lam in rows:
        lam.mul_(z_ == 0)


def norm(weights: Tensors, kept: Tensors = ()) -> float:
    """||W||, or ||W - K * W|| for bool masks K: the weights outside them."""
    rows = _rows(weights, kept)
    if _on_host(rows):
        return math.sqrt(hostpasses.squared_outside(rows))
    parts = [torch.linalg.vector_norm(w.float() if not mask else w.float() * ~mask[0]) for w, *mask in rows]
    return math.sqrt(float(_wide(parts).square().sum()))


def _rows(*columns: Tensors) -> list[tuple[Tensor, ...]]:
    """Matching tensors of every column that is not empty."""
    return list(zip(*(column for column in columns if column), strict=True))


def _on_host(rows: Sequence[tuple[Tensor, ...]]) -> bool:
    return all(hostpasses.applies(*row) for row in rows)


def _sums_inbuckets(weights: Tensors, z: Tensors, multipliers: Tensors) -> tuple[float | Tensor, Tensor]:
    """With few kernel launches, and temporaries no larger than the largest tensor."""
    norms: list[Tensor] = []
    inners: list[Tensor] = []
    for part in buckets(weights):
        difference = torch._foreach_sub([weights[i] for i in part], [z[i] for i in part])
        norms += torch._foreach_norm(difference)
        if multipliers:
            inners += [_dot(multipliers[i], d) for i, d in zip(part, difference, strict=True)]
    return _wide(inners).sum() if inners else 0.0, _wide(norms).square().sum()


def buckets(tensors: Tensors) -> list[list[int]]:
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
    x, y = hostpasses.flat((a, b)) or (a.reshape(-1), b.reshape(-1))
    return torch.dot(x, y.to(x.dtype))


def _wide(scalars: Sequence[Tensor]) -> Tensor:
    """0-dim tensors as one vector on the first one's device, float64 where the device has it."""
    device = scalars[0].device
    stacked = torch.stack([scalar.to(device, torch.float32) for scalar in scalars])
    return stacked if device.type == "mps" else stacked.double()


def _gradient_of_all(
    weights: Tensors, z: Tensors, multipliers: Tensors, rho: float, scale: Tensor
) -> list[Tensor]:
    out = [d.float() for d in torch._foreach_sub(list(weights), list(z))]
    torch._foreach_mul_(out, rho)
    if multipliers:
        torch._foreach_add_(out, list(multipliers))
    torch._foreach_mul_(out, scale.float() if len({g.device for g in out}) == 1 else scale.item())
    return out

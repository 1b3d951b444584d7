"""What the methods share: reading the groups, projecting, moving multipliers, and refusing bad numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from slr_det.chunks import like, scratch_for, walk
from slr_det.errors import NumericsError
from slr_det.groups import ParamGroup
from slr_det.lagrangian import Terms
from slr_det.methods.protocol import MethodState


def weights_of(groups: Sequence[ParamGroup]) -> dict[str, Tensor]:
    """All weights by parameter name, in group order, detached."""
    return {name: tensor.detach() for group in groups for name, tensor in group.params}


def numel_of(groups: Sequence[ParamGroup]) -> int:
    """Number of weights in all groups."""
    return sum(group.numel for group in groups)


@torch.no_grad()
def zeros_like_weights(groups: Sequence[ParamGroup]) -> dict[str, Tensor]:
    """Float32 zeros shaped and laid out like the weights: Lam^0."""
    return {name: torch.zeros_like(w, dtype=torch.float32) for name, w in weights_of(groups).items()}


@torch.no_grad()
def projected_weights(groups: Sequence[ParamGroup]) -> dict[str, Tensor]:
    """Z^0: float32 copies of the weights, projected."""
    z = {name: torch.empty_like(w, dtype=torch.float32).copy_(w) for name, w in weights_of(groups).items()}
    project(groups, z)
    return z


def project(groups: Sequence[ParamGroup], z: Mapping[str, Tensor]) -> None:
    """Project every group's part of ``z`` onto its set, in place (equation 10)."""
    for group in groups:
        tensors = [z[name] for name in group.names]
        group.projection.project(tensors, group.keep, out=tensors)


@torch.no_grad()
def shift_multipliers(
    weights: Sequence[Tensor], z: Sequence[Tensor], multipliers: Sequence[Tensor], step: float
) -> None:
    """Lam += step (W - Z), in place: equations (7) and (12)."""
    for w, z_full, lam in zip(weights, z, multipliers, strict=True):
        scratch = scratch_for(w, z_full, lam)
        for w_, z_, lam_ in walk(w, z_full, lam):
            lam_.add_(torch.sub(w_, z_, out=like(scratch, w_)), alpha=step)


@torch.no_grad()
def load_unprojected(
    weights: Sequence[Tensor],
    z: Sequence[Tensor],
    multipliers: Sequence[Tensor],
    rho: float,
    step: float | None,
) -> None:
    """Lam += step (W - Z) where a step is given, then Z <- W + Lam/rho: all of (7) and (10) but the projection.

    One pass, and no copy: the old Z is not needed any more, so its memory holds the argument of the projection.
    """
    for w, z_full, lam in zip(weights, z, multipliers, strict=True):
        scratch = scratch_for(w, z_full, lam)
        for w_, z_, lam_ in walk(w, z_full, lam):
            if step is not None:
                lam_.add_(torch.sub(w_, z_, out=like(scratch, w_)), alpha=step)
            torch.add(w_, lam_, alpha=1.0 / rho, out=z_)


@torch.no_grad()
def kept_fraction(groups: Sequence[ParamGroup], z: Mapping[str, Tensor]) -> float:
    """Fraction of the groups' weights that their sets keep; counted in ``z`` where a set's size depends on values."""
    kept = 0
    for group in groups:
        count = group.projection.count([t.shape for _, t in group.params], group.keep)
        kept += count if count is not None else sum(int(torch.count_nonzero(z[name])) for name in group.names)
    return kept / numel_of(groups)


@torch.no_grad()
def support_of(groups: Sequence[ParamGroup], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bool masks by name: what each group's projection of ``weights`` keeps at the group's target keep ratio."""
    masks: dict[str, Tensor] = {}
    for group in groups:
        found = group.projection.support([weights[name] for name in group.names], group.keep)
        masks.update(zip(group.names, found, strict=True))
    return masks


@torch.no_grad()
def norm_outside(weights: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> float:
    """||W - mask * W|| over all tensors: the Frobenius norm of the weights where ``kept`` is False."""
    sums = []
    for name, w in weights.items():
        scratch = scratch_for(w, kept[name])
        for w_, kept_ in walk(w, kept[name]):
            d = torch.mul(w_, kept_, out=like(scratch, w_))
            sums.append(torch.sub(w_, d, out=d).square_().sum())
    return math.sqrt(math.fsum(host(sums)))


def count_true(masks: Mapping[str, Tensor]) -> int:
    """How many entries of all masks are True."""
    return sum(int(count) for count in host([mask.sum() for mask in masks.values()]))


def host(scalars: Sequence[Tensor]) -> list[float]:
    """0-dim tensors as Python numbers, with one synchronisation on an accelerator."""
    found: list[float] = torch.stack([s.to(scalars[0].device) for s in scalars]).tolist() if scalars else []
    return found


_ADVICE = "lower the learning rate or rho, or train in full precision, and resume from the last checkpoint"


def require_finite(terms: Terms, weights: Mapping[str, Tensor], state: MethodState) -> None:
    """Raise NumericsError, naming parameter and iteration, if the sums over W, Z and Lam are not finite.

    The sums are needed anyway, so the check costs nothing until something is wrong.
    """
    if terms.finite:
        return
    require_finite_tensors(weights, state)
    name = max(weights, key=lambda n: float(weights[n].abs().max()))
    raise NumericsError(
        f"parameter '{name}' has grown to {float(weights[name].abs().max()):.3g} in iteration {state.iteration + 1} "
        f"and its norm overflows; {_ADVICE}"
    )


def require_finite_tensors(weights: Mapping[str, Tensor], state: MethodState) -> None:
    """Raise NumericsError for the first of W, Lam and Z that holds a NaN or infinity."""
    for what, tensors in (
        ("parameter", weights),
        ("the multipliers of", state.multipliers),
        ("the projection of", state.z),
    ):
        for name, tensor in tensors.items():
            bad = tensor.numel() - int(torch.isfinite(tensor).sum())
            if bad:
                raise NumericsError(
                    f"{what} '{name}': {bad} of {tensor.numel()} values are NaN or infinite in iteration "
                    f"{state.iteration + 1}; {_ADVICE}"
                )


def require_finite_weights(weights: Mapping[str, Tensor], state: MethodState) -> None:
    """:func:`require_finite` for methods that keep no Z."""
    squares = [torch.dot(flat, flat) for w in weights.values() for flat in [w.reshape(-1).float()]]
    require_finite(Terms(0.0, math.fsum(host(squares))), weights, state)

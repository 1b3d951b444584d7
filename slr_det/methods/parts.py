"""What the methods share: reading the groups, projecting, moving multipliers, and refusing bad numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from slr_det import passes
from slr_det.errors import NumericsError
from slr_det.groups import ParamGroup
from slr_det.lagrangian import Terms
from slr_det.methods.protocol import Hyper, MethodState


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
def projected_weights(
    groups: Sequence[ParamGroup], keeps: Sequence[float] | None = None
) -> dict[str, Tensor]:
    """Z^0: float32 copies of the weights, projected."""
    z = {name: torch.empty_like(w, dtype=torch.float32).copy_(w) for name, w in weights_of(groups).items()}
    project(groups, z, keeps)
    return z


def project(
    groups: Sequence[ParamGroup], z: Mapping[str, Tensor], keeps: Sequence[float] | None = None
) -> None:
    """Project every group's part of ``z`` onto its set, in place (equation 10).

    ``keeps`` are the keep ratios to meet, by default the groups' own; at 1 a group's part stays as it is.
    """
    for group, keep in zip(groups, _keeps(groups, keeps), strict=True):
        if keep < 1.0 or keep == group.keep:
            tensors = [z[name] for name in group.names]
            group.projection.project(tensors, keep, out=tensors)


def _keeps(groups: Sequence[ParamGroup], keeps: Sequence[float] | None) -> Sequence[float]:
    return [group.keep for group in groups] if keeps is None else keeps


def free_survivors(
    hyper: Hyper, weights: Sequence[Tensor], z: Sequence[Tensor], multipliers: Sequence[Tensor] = ()
) -> bool:
    """Under ``survivors: free``: Z <- W on Z's support, in place, and Lam <- 0 there; whether that is so."""
    if hyper.survivors != "free":
        return False
    passes.follow(weights, z)
    if multipliers:
        passes.release(z, multipliers)
    return True


@torch.no_grad()
def kept_fraction(
    groups: Sequence[ParamGroup], z: Mapping[str, Tensor], keeps: Sequence[float] | None = None
) -> float:
    """Fraction of the groups' weights that their sets keep; counted in ``z`` where a set's size depends on values."""
    kept = 0
    for group, keep in zip(groups, _keeps(groups, keeps), strict=True):
        if keep == 1.0 and group.keep < 1.0:
            kept += group.numel
            continue
        count = group.projection.count([t.shape for _, t in group.params], keep)
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
    """||W - K * W|| over all tensors: the Frobenius norm of the weights where the masks are False."""
    return passes.norm(list(weights.values()), [kept[name] for name in weights])


def count_true(masks: Mapping[str, Tensor]) -> int:
    """How many entries of all masks are True, with one synchronisation on an accelerator."""
    counts = [mask.sum() for mask in masks.values()]
    return int(torch.stack([count.to(counts[0].device) for count in counts]).sum()) if counts else 0


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
    require_finite(Terms(0.0, passes.norm(list(weights.values()))), weights, state)

"""The filter and channel sets: whole slices along dim 0 or dim 1, one by one or tied over several tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from slr_det.projections.registry import Shape, budget, projection
from slr_det.projections.scan import row_chunks, squares
from slr_det.projections.topk import largest


def _check(dim: int, word: str) -> Callable[..., str | None]:
    def check(shapes: Sequence[Shape], coupled: bool) -> str | None:
        for shape in shapes:
            if len(shape) < 2:
                return f"shape {list(shape)} has fewer than 2 dimensions, {word} needs a convolution or linear weight"
        sizes = [shape[dim] for shape in shapes]
        if coupled and len(set(sizes)) > 1:
            return f"coupled tensors need the same number of {word}s, these have {', '.join(map(str, sizes))}"
        return None

    return check


def _count(dim: int) -> Callable[..., int | None]:
    def count(shapes: Sequence[Shape], keep: float, coupled: bool) -> int | None:
        per_slice = [math.prod(shape) // shape[dim] for shape in shapes]
        if coupled:
            return budget(keep, shapes[0][dim]) * sum(per_slice)
        if len(set(per_slice)) > 1:
            return None
        return budget(keep, sum(shape[dim] for shape in shapes)) * per_slice[0]

    return count


def _parse(word: str) -> Callable[[str], Mapping[str, Any] | None]:
    return lambda text: {"coupled": True} if text == f"{word}:coupled" else None


def _label(word: str) -> Callable[..., str]:
    return lambda coupled: f"{word}:coupled" if coupled else word


def _hooks(word: str, dim: int) -> dict[str, Any]:
    return {"check": _check(dim, word), "count": _count(dim), "parse": _parse(word), "label": _label(word)}


@projection("filter", **_hooks("filter", 0))
def filters(tensors: Sequence[Tensor], keep: float, *, coupled: bool = False) -> list[Tensor]:
    """Project onto weights with at most q nonzero filters (slices along dim 0).

        argmin_Z ||W - Z||^2  subject to  filters(Z) <= q = round(keep * filters), at least 1

    Solved by the q filters of largest squared norm. Filters of all tensors of the group compete for one budget,
    which counts filters: this is the exact projection onto that set; where filters differ in size, the number of
    entries kept depends on which win. ``coupled=True`` ties filter i of every tensor (a residual sum, say): one
    mask for all, ranked by the squared norms summed over the tensors, q counted over one tensor's filters.
    """
    return _slices(tensors, keep, 0, coupled)


@projection("channel", **_hooks("channel", 1))
def channels(tensors: Sequence[Tensor], keep: float, *, coupled: bool = False) -> list[Tensor]:
    """Project onto weights with at most q nonzero input channels (slices along dim 1).

        argmin_Z ||W - Z||^2  subject to  channels(Z) <= q = round(keep * channels), at least 1

    As :func:`filters`, along dim 1; ``coupled=True`` ties input channel i of every tensor (layers that read the
    same feature map).
    """
    return _slices(tensors, keep, 1, coupled)


def _slices(tensors: Sequence[Tensor], keep: float, dim: int, coupled: bool) -> list[Tensor]:
    energies = [slice_energy(tensor, dim) for tensor in tensors]
    if coupled:
        energies = [torch.stack([energy.to(energies[0].device) for energy in energies]).sum(0)]
    kept = largest(energies, budget(keep, sum(energy.numel() for energy in energies)))
    if coupled:
        kept = kept * len(tensors)
    masks = []
    for tensor, rows in zip(tensors, kept, strict=True):
        shape = [1] * tensor.dim()
        shape[dim] = -1
        masks.append(rows.to(tensor.device).view(shape).expand(tensor.shape).contiguous())
    return masks


def slice_energy(tensor: Tensor, dim: int) -> Tensor:
    """Squared norm of every slice along ``dim`` (0 or 1), in float64, where squares of float32 values are exact."""
    others = [d for d in range(tensor.dim()) if d != dim]
    parts = [squares(tensor[rows]).sum(others) for rows in row_chunks(tensor)]
    return torch.cat(parts) if dim == 0 else torch.stack(parts).sum(0)

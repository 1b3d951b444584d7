"""The n:m set: at most n nonzeros in every m consecutive input channels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from slr_det.projections.registry import Shape, projection


def _normalise(n: int, m: int) -> dict[str, int]:
    if not 1 <= n <= m:
        raise ValueError(f"n:m is {n}:{m}, expected 1 <= n <= m")
    return {"n": n, "m": m}


def _check(shapes: Sequence[Shape], n: int, m: int) -> str | None:
    for shape in shapes:
        if len(shape) < 2:
            return f"shape {list(shape)} has no input-channel dimension, {n}:{m} needs one"
    return None


def _count(shapes: Sequence[Shape], keep: float, n: int, m: int) -> int:
    def kept(shape: Shape) -> int:
        full, rest = divmod(shape[1], m)
        return math.prod(shape) // shape[1] * (full * n + min(n, rest))

    return sum(kept(shape) for shape in shapes)


def _parse(text: str) -> Mapping[str, Any] | None:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    return {"n": int(match[1]), "m": int(match[2])} if match else None


def _label(n: int, m: int) -> str:
    return f"{n}:{m}"


@projection("n:m", normalise=_normalise, check=_check, count=_count, parse=_parse, label=_label)
def nm(tensors: Sequence[Tensor], keep: float, *, n: int = 2, m: int = 4) -> list[Tensor]:
    """Project onto weights with at most n nonzeros in every m consecutive input channels (dim 1).

        argmin_Z ||W - Z||^2  subject to  nonzeros(Z[o, cm:(c+1)m, y, x]) <= n  for every o, c, y, x

    Separable: the n largest magnitudes of each block. A last block of r < m channels keeps min(n, r). The ratio is
    n/m whatever ``keep`` says.
    """
    return [_blocks(tensor, n, m) for tensor in tensors]


def _blocks(tensor: Tensor, n: int, m: int) -> Tensor:
    magnitude = tensor.abs()
    mask = torch.empty(tensor.shape, dtype=torch.bool, device=tensor.device)
    full = tensor.shape[1] // m * m
    if full:
        mask[:, :full] = top_n(torch.unflatten(magnitude[:, :full], 1, (-1, m)), n, dim=2).flatten(1, 2)
    if full < tensor.shape[1]:
        mask[:, full:] = top_n(magnitude[:, full:], n, dim=1)
    return mask


def top_n(scores: Tensor, n: int, dim: int) -> Tensor:
    """Mask of the n largest scores along ``dim``, ties to the lower index."""
    length = scores.shape[dim]
    if n >= length:
        return torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
    order = torch.argsort(scores, dim=dim, descending=True, stable=True).narrow(dim, 0, n)
    return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device).scatter_(dim, order, True)

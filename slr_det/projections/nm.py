"""The n:m set: at most n nonzeros in every m consecutive input channels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from slr_det.projections.registry import Shape, projection
from slr_det.projections.scan import magnitude_keys, row_chunks

PAIRWISE = 32  # longest block ranked by comparing every pair


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
    mask = torch.empty(tensor.shape, dtype=torch.bool, device=tensor.device)
    full = tensor.shape[1] // m * m
    for rows in row_chunks(tensor):
        keys, part = magnitude_keys(tensor[rows]), mask[rows]
        if full:
            blocks = torch.unflatten(keys[:, :full], 1, (-1, m)).movedim(2, 0)
            part[:, :full] = top_n(blocks, n).movedim(0, 2).flatten(1, 2)
        if full < tensor.shape[1]:
            part[:, full:] = top_n(keys[:, full:].movedim(1, 0), n).movedim(0, 1)
    return mask


def top_n(keys: Tensor, n: int) -> Tensor:
    """Mask of the n largest keys along dim 0, ties to the lower index.

    Args:
        keys: Integers whose order is the ranking; any shape.
        n: How many to mark in each column; all of them where dim 0 is shorter.
    """
    size = keys.shape[0]
    if n >= size:
        return torch.ones(keys.shape, dtype=torch.bool, device=keys.device)
    if size > PAIRWISE:
        order = torch.argsort(keys, dim=0, descending=True, stable=True)[:n]
        return torch.zeros(keys.shape, dtype=torch.bool, device=keys.device).scatter_(0, order, True)
    # An entry stays where fewer than n entries go before it. Comparing every pair counts them without a sort.
    keys = keys.contiguous()
    before = torch.zeros(keys.shape, dtype=torch.uint8, device=keys.device)
    for first in range(size):
        for second in range(first + 1, size):
            wins = keys[first] >= keys[second]
            before[second] += wins
            before[first] += ~wins
    return before < n

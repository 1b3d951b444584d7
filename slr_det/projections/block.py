"""The block set: rectangles of the weight's matrix view."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from slr_det.projections.registry import Shape, budget, projection
from slr_det.projections.scan import row_chunks, squares
from slr_det.projections.topk import largest


def _normalise(rows: int, cols: int) -> dict[str, int]:
    if rows < 1 or cols < 1:
        raise ValueError(f"block is {rows}x{cols}, expected at least 1x1")
    return {"rows": rows, "cols": cols}


def _check(shapes: Sequence[Shape], rows: int, cols: int) -> str | None:
    for shape in shapes:
        if len(shape) < 2:
            return (
                f"shape {list(shape)} has fewer than 2 dimensions, block needs a convolution or linear weight"
            )
    return None


def _count(shapes: Sequence[Shape], keep: float, rows: int, cols: int) -> int | None:
    sizes = [(shape[0], math.prod(shape[1:])) for shape in shapes]
    if any(height % rows or width % cols for height, width in sizes):
        return None
    return rows * cols * budget(keep, sum(height * width for height, width in sizes) // (rows * cols))


def _parse(text: str) -> Mapping[str, Any] | None:
    match = re.fullmatch(r"block:(\d+)x(\d+)", text)
    return {"rows": int(match[1]), "cols": int(match[2])} if match else None


def _label(rows: int, cols: int) -> str:
    return f"block:{rows}x{cols}"


@projection("block", normalise=_normalise, check=_check, count=_count, parse=_parse, label=_label)
def block(tensors: Sequence[Tensor], keep: float, *, rows: int = 4, cols: int = 4) -> list[Tensor]:
    """Project onto weights with at most q nonzero blocks of their matrix view (out, in * kh * kw).

        argmin_Z ||W - Z||^2  subject to  blocks(Z) <= q = round(keep * blocks), at least 1

    Solved by the q blocks of largest squared norm over all tensors of the group. Blocks tile the matrix from its
    first entry, row by row; partial blocks at the edges count as blocks. The budget counts blocks, so the number
    of entries kept depends on whether partial ones win.
    """
    energies = [block_energy(tensor, rows, cols) for tensor in tensors]
    kept = largest(energies, budget(keep, sum(energy.numel() for energy in energies)))
    return [_expand(tensor, mask, rows, cols) for tensor, mask in zip(tensors, kept, strict=True)]


def block_energy(tensor: Tensor, rows: int, cols: int) -> Tensor:
    """Squared norms (float64) of the blocks of the matrix view, shape (ceil(out / rows), ceil(rest / cols))."""
    return torch.cat([_tile_energy(tensor[part], rows, cols) for part in row_chunks(tensor, rows)])


def _tile_energy(tensor: Tensor, rows: int, cols: int) -> Tensor:
    matrix = squares(tensor.reshape(tensor.shape[0], -1))
    height, width = matrix.shape
    padded = torch.nn.functional.pad(matrix, (0, -width % cols, 0, -height % rows))
    tiles = padded.view(padded.shape[0] // rows, rows, padded.shape[1] // cols, cols)
    return tiles.sum((1, 3))


def _expand(tensor: Tensor, kept: Tensor, rows: int, cols: int) -> Tensor:
    height = tensor.shape[0]
    width = tensor.numel() // height
    wide = kept.repeat_interleave(cols, dim=1)[:, :width]
    return wide.repeat_interleave(rows, dim=0)[:height].reshape(tensor.shape)

"""Walking over large tensors in pieces that fit in the cache, so that passes need no tensor-sized temporaries."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Elements per piece on a CPU: small enough that float32 scratch pieces stay in the cache, large enough that the cost
# of a call does not matter.
CPU_PIECE = 1 << 17


def walk(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield matching pieces: views of the same elements of every tensor.

    Args:
        tensors: Tensors of one shape. Any dtype, all on one device.

    Yields:
        Tuples of views, one per tensor, together covering every element exactly once. On a CPU each is a flat
        view of at most :data:`CPU_PIECE` elements; on an accelerator, and for tensors whose memory layouts
        differ, the pieces are as large as the tensors (there a call costs more than a temporary).
    """
    flats = flatten(tensors)
    if flats is None:
        yield tensors
        return
    numel = flats[0].numel()
    if flats[0].device.type != "cpu" or numel <= CPU_PIECE:
        yield flats
        return
    yield from zip(*(torch.split(flat, CPU_PIECE) for flat in flats), strict=True)


def scratch_for(*tensors: Tensor) -> Tensor:
    """A flat float32 buffer that holds the largest piece :func:`walk` yields for the same tensors."""
    numel, device = tensors[0].numel(), tensors[0].device
    in_pieces = device.type == "cpu" and flatten(tensors) is not None
    return torch.empty(min(numel, CPU_PIECE) if in_pieces else numel, dtype=torch.float32, device=device)


def like(buffer: Tensor, piece: Tensor) -> Tensor:
    """The head of a flat buffer, seen with the shape of ``piece``."""
    return buffer[: piece.numel()].view(piece.shape)


def flatten(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Flat views in one common element order, or None where the memory layouts differ or have gaps."""
    if all(t.is_contiguous() for t in tensors):
        return tuple(t.view(-1) for t in tensors)
    first = tensors[0]
    order = sorted(range(first.ndim), key=lambda d: (first.stride(d), first.size(d)), reverse=True)
    permuted = tuple(t.permute(order) for t in tensors)
    if all(t.is_contiguous() for t in permuted):
        return tuple(t.view(-1) for t in permuted)
    return None

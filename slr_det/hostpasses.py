"""The passes of :mod:`slr_det.passes` on the host: NumPy, one cache-sized piece at a time, on a few threads.

NumPy and not PyTorch, because PyTorch splits every operation over its threads and waits for all of them at its end:
on a machine that is busy that costs a time slice per operation. Here each thread takes the next piece when it is
done with one, so that a thread that gets no processor delays nobody. Sums do not depend on who added what: pieces
are fixed, and :func:`math.fsum` is exact.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PIECE = 1 << 18  # elements; 1 MiB of float32: scratch stays in cache, and Python is entered less often
_ALONE = 1 << 19  # elements below which a second thread is not worth waking
_MOST_THREADS = 8  # more do not get more out of the memory

Array = NDArray[Any]


def applies(*tensors: Tensor) -> bool:
    """Whether these tensors can be walked here: all on the host, dense, and in one memory order."""
    return all(t.device.type == "cpu" for t in tensors) and flat(tensors) is not None


def flat(tensors: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    """Flat views in one common element order, or None where the memory layouts differ or have gaps."""
    if all(t.is_contiguous() for t in tensors):
        return tuple(t.view(-1) for t in tensors)
    first = tensors[0]
    order = sorted(range(first.ndim), key=lambda d: (first.stride(d), first.size(d)), reverse=True)
    permuted = tuple(t.permute(order) for t in tensors)
    return tuple(t.view(-1) for t in permuted) if all(t.is_contiguous() for t in permuted) else None


def sums(rows: Sequence[tuple[Tensor, ...]]) -> tuple[float, float]:
    """<Lam, W - Z> and ||W - Z||^2 over rows of (W, Z) or (W, Z, Lam)."""

    def piece(scratch: Sequence[Array], w: Array, z: Array, lam: Array | None = None) -> tuple[float, float]:
        d, q = scratch
        np.subtract(w, z, out=d)
        squared = float(np.add.reduce(np.multiply(d, d, out=q)))
        return (0.0 if lam is None else float(np.add.reduce(np.multiply(d, lam, out=d)))), squared

    found = _run(piece, rows, 2)
    return _total([inner for inner, _ in found]), _total([squared for _, squared in found])


def gradient(rows: Sequence[tuple[Tensor, ...]], rho: float, scale: float) -> None:
    """G <- scale (Lam + rho (W - Z)) over rows of (G, W, Z) or (G, W, Z, Lam), G float32."""

    def piece(_: Sequence[Array], g: Array, w: Array, z: Array, lam: Array | None = None) -> None:
        _gradient(g, w, z, lam, rho, scale)

    _run(piece, rows, 0)


def add_gradient(rows: Sequence[tuple[Tensor, ...]], rho: float, scale: float) -> None:
    """G <- G + scale (Lam + rho (W - Z)) over rows of (G, W, Z) or (G, W, Z, Lam), G float32."""

    def piece(scratch: Sequence[Array], g: Array, w: Array, z: Array, lam: Array | None = None) -> None:
        (d,) = scratch
        _gradient(d, w, z, lam, rho, scale)
        np.add(g, d, out=g)

    _run(piece, rows, 1)


def _gradient(out: Array, w: Array, z: Array, lam: Array | None, rho: float, scale: float) -> None:
    np.subtract(w, z, out=out)
    np.multiply(out, np.float32(rho), out=out)
    if lam is not None:
        np.add(out, lam, out=out)
    if scale != 1.0:
        np.multiply(out, np.float32(scale), out=out)


def move(rows: Sequence[tuple[Tensor, ...]], step: float) -> None:
    """Lam <- Lam + step (W - Z) over rows of (W, Z, Lam)."""

    def piece(scratch: Sequence[Array], w: Array, z: Array, lam: Array) -> None:
        (d,) = scratch
        np.multiply(np.subtract(w, z, out=d), np.float32(step), out=d)
        np.add(lam, d, out=lam)

    _run(piece, rows, 1)


def unproject(rows: Sequence[tuple[Tensor, ...]], rho: float, step: float | None) -> None:
    """Lam <- Lam + step (W - Z) where a step is given, then Z <- W + Lam/rho, over rows of (W, Z, Lam)."""

    def piece(scratch: Sequence[Array], w: Array, z: Array, lam: Array) -> None:
        (d,) = scratch
        if step is not None:
            np.multiply(np.subtract(w, z, out=d), np.float32(step), out=d)
            np.add(lam, d, out=lam)
        np.multiply(lam, np.float32(1.0 / rho), out=z)
        np.add(z, w, out=z, casting="same_kind")

    _run(piece, rows, 1)


def follow(rows: Sequence[tuple[Tensor, ...]]) -> None:
    """Z <- W where Z is not zero, over rows of (W, Z)."""

    def piece(_: Sequence[Array], w: Array, z: Array) -> None:
        np.copyto(z, w, where=z != 0, casting="same_kind")

    _run(piece, rows, 0)


def release(rows: Sequence[tuple[Tensor, ...]]) -> None:
    """Lam <- 0 where Z is not zero, over rows of (Z, Lam)."""

    def piece(_: Sequence[Array], z: Array, lam: Array) -> None:
        lam[z != 0] = 0.0

    _run(piece, rows, 0)


def squared_outside(rows: Sequence[tuple[Tensor, ...]]) -> float:
    """||W - K * W||^2 over rows of (W, K), K bool; ||W||^2 over rows of (W,)."""

    def piece(scratch: Sequence[Array], w: Array, kept: Array | None = None) -> float:
        (d,) = scratch
        if kept is None:
            np.multiply(w, w, out=d, casting="same_kind")
        else:
            np.subtract(w, np.multiply(w, kept, out=d, casting="same_kind"), out=d, casting="same_kind")
            np.multiply(d, d, out=d)
        return float(np.add.reduce(d))

    return _total(_run(piece, rows, 1))


def _total(values: Sequence[float]) -> float:
    try:
        return math.fsum(values)
    except (ValueError, OverflowError):  # infinities of both signs, or a sum beyond float64
        return math.nan


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="slr_det")


def _run(piece: Callable[..., Any], rows: Sequence[tuple[Tensor, ...]], buffers: int) -> list[Any]:
    """Call ``piece(scratch, *arrays)`` for every piece of every row of matching tensors; the results in any order."""
    jobs: deque[tuple[tuple[Tensor | Array, ...], int, int]] = deque()
    largest = total = 0
    for row in rows:
        views = flat(row)
        if views is None:
            raise ValueError("tensors of one row differ in their memory layout")
        arrays = tuple(_array(view) for view in views)
        numel = views[0].numel()
        jobs.extend((arrays, start, min(start + PIECE, numel)) for start in range(0, numel, PIECE))
        largest, total = max(largest, min(numel, PIECE)), total + numel
    results: list[Any] = []

    def work() -> None:
        scratch = [np.empty(largest, np.float32) for _ in range(buffers)]
        with np.errstate(all="ignore"):  # bad numbers are found and named by the caller
            while jobs:
                try:
                    arrays, start, stop = jobs.popleft()
                except IndexError:  # another thread was quicker
                    return
                parts = (_part(array, start, stop) for array in arrays)
                results.append(piece([buffer[: stop - start] for buffer in scratch], *parts))

    threads = min(torch.get_num_threads(), _MOST_THREADS)
    if threads == 1 or total < _ALONE:
        work()
        return results
    helpers = [_pool(threads - 1).submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():  # it has begun: it may hold a piece
            helper.result()
    return results


def _array(view: Tensor) -> Tensor | Array:
    """The memory of a flat tensor as an array; half precision stays a tensor, converted piece by piece."""
    return view if view.dtype in {torch.float16, torch.bfloat16} else view.detach().numpy()


def _part(array: Tensor | Array, start: int, stop: int) -> Array:
    part = array[start:stop]
    return part.float().numpy() if isinstance(part, Tensor) else part

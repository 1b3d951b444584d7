"""Projections done the slow and obvious way, for the tests: every support tried, or one stable sort."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, product

import torch
from torch import Tensor

Support = frozenset[int]  # indices into the concatenation of the group's flattened tensors


def quota(keep: float, total: int) -> int:
    return max(1, round(keep * total))


def _indices(shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """The index of every entry in the concatenation, shaped like its tensor."""
    found, offset = [], 0
    for shape in shapes:
        size = torch.Size(shape).numel()
        found.append(torch.arange(offset, offset + size).reshape(tuple(shape)))
        offset += size
    return found


def _unions(parts: Sequence[Iterable[int]], count: int) -> Iterator[Support]:
    for chosen in combinations(parts, count):
        yield frozenset(index for part in chosen for index in part)


def _slices(indices: Sequence[Tensor], dim: int) -> list[list[int]]:
    return [tensor.select(dim, i).flatten().tolist() for tensor in indices for i in range(tensor.shape[dim])]


def _blocks(index: Tensor, rows: int, cols: int) -> list[list[int]]:
    matrix = index.reshape(index.shape[0], -1)
    return [
        matrix[top : top + rows, left : left + cols].flatten().tolist()
        for top in range(0, matrix.shape[0], rows)
        for left in range(0, matrix.shape[1], cols)
    ]


def supports(name: str, shapes: Sequence[Sequence[int]], keep: float, **options: object) -> Iterator[Support]:
    """Every largest support that the set allows."""
    indices = _indices(shapes)
    if name == "unstructured":
        everything = [[int(i)] for index in indices for i in index.flatten()]
        yield from _unions(everything, quota(keep, len(everything)))
    elif name == "n:m":
        n, m = int(str(options["n"])), int(str(options["m"]))
        columns = [
            index.movedim(1, -1).reshape(-1, index.shape[1])[row, start : start + m].tolist()
            for index in indices
            for row in range(index.numel() // index.shape[1])
            for start in range(0, index.shape[1], m)
        ]
        for chosen in product(*(combinations(column, min(n, len(column))) for column in columns)):
            yield frozenset(i for part in chosen for i in part)
    elif name in ("filter", "channel"):
        dim = 0 if name == "filter" else 1
        if options.get("coupled"):
            tied = [
                [i for index in indices for i in index.select(dim, s).flatten().tolist()]
                for s in range(indices[0].shape[dim])
            ]
            yield from _unions(tied, quota(keep, len(tied)))
        else:
            slices = _slices(indices, dim)
            yield from _unions(slices, quota(keep, len(slices)))
    elif name == "block":
        blocks = [
            b
            for index in indices
            for b in _blocks(index, int(str(options["rows"])), int(str(options["cols"])))
        ]
        yield from _unions(blocks, quota(keep, len(blocks)))
    elif name == "kernel_pattern":
        kernels = [kernel.tolist() for index in indices for kernel in index.reshape(-1, 9)]
        library = [[i for i in range(9) if pattern[i]] for pattern in options["masks"]]  # type: ignore[attr-defined]
        count = min(len(kernels), quota(min(1.0, keep * 9 / 4), len(kernels)))
        for chosen in combinations(kernels, count):
            for patterns in product(library, repeat=count):
                yield frozenset(k[i] for k, p in zip(chosen, patterns, strict=True) for i in p)
    else:
        raise ValueError(name)


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors]).double()


def support_of(masks: Sequence[Tensor]) -> Support:
    return frozenset(torch.cat([mask.reshape(-1) for mask in masks]).nonzero().flatten().tolist())


def energy(tensors: Sequence[Tensor], support: Support) -> float:
    return float(flat(tensors)[sorted(support)].square().sum())


def largest_by_sort(scores: Sequence[Tensor], keep: int) -> list[Tensor]:
    """The ``keep`` largest magnitudes over all tensors by one stable sort: ties fall to the lower index."""
    magnitude = torch.cat([score.reshape(-1) for score in scores]).double().abs()
    mask = torch.zeros(magnitude.numel(), dtype=torch.bool)
    mask[torch.argsort(magnitude, descending=True, stable=True)[:keep]] = True
    parts = mask.split([score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]

"""The kernel-pattern set: every 3x3 kernel keeps four entries in one of a library's arrangements, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from slr_det.projections.nm import top_n
from slr_det.projections.registry import Shape, budget, projection
from slr_det.projections.scan import keep_entries, magnitude_keys, row_chunks, squares
from slr_det.projections.topk import largest

ENTRIES = 4  # nonzeros of a pattern
AREA = 9  # entries of a 3x3 kernel
CENTRE = 4

Pattern = tuple[int, ...]


def _mask(entries: Sequence[int]) -> Pattern:
    return tuple(int(i in entries) for i in range(AREA))


ALL: tuple[Pattern, ...] = tuple(_mask(entries) for entries in combinations(range(AREA), ENTRIES))
WITH_CENTRE: tuple[Pattern, ...] = tuple(pattern for pattern in ALL if pattern[CENTRE])
DEFAULT: tuple[Pattern, ...] = tuple(
    _mask(entries)
    for entries in (
        (0, 1, 3, 4),
        (1, 2, 4, 5),
        (3, 4, 6, 7),
        (4, 5, 7, 8),
        (1, 3, 4, 5),
        (1, 3, 4, 7),
        (1, 4, 5, 7),
        (3, 4, 5, 7),
    )
)
LIBRARIES: dict[str, tuple[Pattern, ...]] = {"default": DEFAULT, "centre": WITH_CENTRE, "all": ALL}


def _normalise(patterns: Any) -> dict[str, Any]:
    if isinstance(patterns, str):
        if patterns not in LIBRARIES:
            raise ValueError(
                f"option 'patterns' is {patterns!r}, expected {', '.join(LIBRARIES)} or a list of masks"
            )
        return {"patterns": patterns}
    if not isinstance(patterns, Sequence) or not patterns:
        raise ValueError(
            f"option 'patterns' is {patterns!r}, expected {', '.join(LIBRARIES)} or a list of masks"
        )
    return {"patterns": [list(_read(pattern)) for pattern in patterns]}


def _read(pattern: Any) -> Pattern:
    flat: list[Any] = []
    for row in pattern if isinstance(pattern, Sequence) else [pattern]:
        flat += list(row) if isinstance(row, Sequence) and not isinstance(row, str) else [row]
    if isinstance(pattern, str):
        flat = [int(c) if c in "01" else c for c in pattern if c not in "/ "]
    if len(flat) != AREA or any(entry not in (0, 1) for entry in flat) or sum(flat) != ENTRIES:
        raise ValueError(f"pattern {pattern!r} is not a 3x3 mask of 0 and 1 with {ENTRIES} ones")
    return tuple(int(entry) for entry in flat)


def _check(shapes: Sequence[Shape], patterns: Any) -> str | None:
    for shape in shapes:
        if len(shape) != 4:
            return f"shape {list(shape)} is no convolution, kernel_pattern needs 3x3 kernels"
        if tuple(shape[2:]) != (3, 3):
            return f"kernel is {shape[2]}x{shape[3]}, kernel_pattern needs 3x3"
    return None


def _kernels(keep: float, total: int) -> int:
    return budget(min(1.0, keep * AREA / ENTRIES), total)


def _count(shapes: Sequence[Shape], keep: float, patterns: Any) -> int:
    return ENTRIES * _kernels(keep, sum(shape[0] * shape[1] for shape in shapes))


def _parse(text: str) -> Mapping[str, Any] | None:
    head, _, library = text.partition(":")
    if head != "kernel_pattern" or not library:
        return None
    return {"patterns": library.split(",") if library[0] in "01" else library}


def _label(patterns: Any) -> str:
    if patterns == "default":
        return "kernel_pattern"
    if isinstance(patterns, str):
        return f"kernel_pattern:{patterns}"
    rows = ["/".join("".join(map(str, p[i : i + 3])) for i in range(0, AREA, 3)) for p in patterns]
    return f"kernel_pattern:{','.join(rows)}"


@projection("kernel_pattern", normalise=_normalise, check=_check, count=_count, parse=_parse, label=_label)
def kernel_pattern(tensors: Sequence[Tensor], keep: float, *, patterns: Any = "default") -> list[Tensor]:
    """Project onto 3x3 convolutions whose kernels each have their nonzeros inside one pattern of a library.

        argmin_Z ||W - Z||^2  subject to  support(Z[o, i]) in a pattern for every kernel, and
        nonzero kernels(Z) <= q = round(keep * 9/4 * kernels), at least 1, where keep < 4/9

    Separable: each kernel takes the pattern that holds most of its squared norm (ties to the pattern listed first),
    and the q kernels with the largest such energies over all tensors of the group stay. From keep = 4/9 up every
    kernel stays.
    """
    masks = [_arrange(tensor, patterns) for tensor in tensors]
    total = sum(tensor.shape[0] * tensor.shape[1] for tensor in tensors)
    quota = _kernels(keep, total)
    if quota < total:
        energies = [_energy(tensor, mask) for tensor, mask in zip(tensors, masks, strict=True)]
        for mask, kept in zip(masks, largest(energies, quota), strict=True):
            mask &= kept[:, :, None, None]
    return masks


def _arrange(tensor: Tensor, patterns: Any) -> Tensor:
    """Mask (out, in, 3, 3) of every kernel's best pattern."""
    mask = torch.empty(tensor.shape, dtype=torch.bool, device=tensor.device)
    for rows in row_chunks(tensor):
        part = tensor[rows]
        if patterns == "all":
            best = top_n(_entries(magnitude_keys(part)), ENTRIES).T
        elif patterns == "centre":
            best = _centred(_entries(magnitude_keys(part))).T
        else:
            library = DEFAULT if patterns == "default" else patterns
            best = _from_library(squares(_entries(part)), library)
        mask[rows] = best.reshape(part.shape)
    return mask


def _entries(part: Tensor) -> Tensor:
    """The kernels' entries (out, in, 3, 3) as 9 contiguous rows, shape (9, out * in)."""
    return part.reshape(-1, AREA).T.contiguous()


def _centred(keys: Tensor) -> Tensor:
    """Best of all patterns with the centre: the centre and the three largest of the others."""
    others = top_n(torch.cat([keys[:CENTRE], keys[CENTRE + 1 :]]), ENTRIES - 1)
    return torch.cat([others[:CENTRE], torch.ones_like(others[:1]), others[CENTRE:]])


def _from_library(held: Tensor, library: Sequence[Sequence[int]]) -> Tensor:
    """Best of a list of patterns by the squared norm it holds (the first of equals), shape (out * in, 9)."""
    best = torch.full_like(held[0], -1.0)
    choice = torch.zeros(held.shape[1], dtype=torch.int32, device=held.device)
    for index, pattern in enumerate(library):
        first, *others = (held[entry] for entry in range(AREA) if pattern[entry])
        energy = first.clone()
        for square in others:
            energy += square
        better = energy > best
        choice.masked_fill_(better, index)
        torch.maximum(best, energy, out=best)
    table = torch.tensor(library, dtype=torch.bool, device=held.device)
    return table.index_select(0, choice)


def _energy(tensor: Tensor, mask: Tensor) -> Tensor:
    """Squared norm (float64) that each kernel's pattern holds, shape (out, in)."""
    parts = [
        squares(keep_entries(tensor[rows], mask[rows], torch.empty_like(tensor[rows]))).sum((2, 3))
        for rows in row_chunks(tensor)
    ]
    return torch.cat(parts)

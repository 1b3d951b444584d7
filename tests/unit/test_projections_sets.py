"""Each projection against every support of its set, on tensors small enough to try them all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from projection_reference import energy, largest_by_sort, quota, support_of, supports
from torch import Tensor

from slr_det.projections import Projection
from slr_det.projections.kernel_pattern import ALL, DEFAULT, WITH_CENTRE

# Small integers make ties and zeros common and every sum of squares exact.
VALUES = st.integers(-3, 3).map(float)
KEEP = st.floats(0.01, 1.0)

SHAPES = {
    "unstructured": st.sampled_from([[(1,)], [(7,)], [(2, 5)], [(3, 1), (2, 2)], [(1, 1, 3, 1), (4,)]]),
    "n:m": st.sampled_from([[(1, 4)], [(2, 3)], [(1, 5)], [(1, 7)], [(1, 3, 1, 2)], [(1, 2), (1, 5)]]),
    "filter": st.sampled_from([[(5, 2)], [(4, 1, 3, 3)], [(3, 2), (4, 1, 2, 2)], [(1, 4)]]),
    "channel": st.sampled_from([[(2, 5)], [(2, 4, 3, 3)], [(2, 3), (4, 4, 1, 1)], [(4, 1)]]),
    "coupled filter": st.sampled_from([[(5, 2), (5, 1, 3, 3)], [(4, 3), (4, 2), (4, 5)], [(3, 2)]]),
    "coupled channel": st.sampled_from([[(2, 5), (1, 5, 3, 3)], [(3, 4), (2, 4), (5, 4)], [(2, 3)]]),
    "block": st.sampled_from([[(4, 4)], [(5, 3)], [(3, 2, 2, 1)], [(1, 1)], [(3, 5), (2, 4)]]),
    "pattern": st.sampled_from([[(1, 1, 3, 3)], [(2, 1, 3, 3)], [(1, 2, 3, 3), (1, 1, 3, 3)]]),
}


def _tensors(data: st.DataObject, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    sizes = [torch.Size(shape).numel() for shape in shapes]
    values = data.draw(st.lists(VALUES, min_size=sum(sizes), max_size=sum(sizes)))
    parts = torch.tensor(values).split(sizes)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _assert_nearest(projection: Projection, tensors: list[Tensor], keep: float, **options: Any) -> None:
    """The support is one that the set allows, no other holds more energy, and projecting keeps just its entries."""
    masks = projection.support(tensors, keep)
    support = support_of(masks)
    allowed = list(supports(projection.name, [tuple(t.shape) for t in tensors], keep, **options))
    assert support in allowed
    assert energy(tensors, support) == max(energy(tensors, candidate) for candidate in allowed)
    for tensor, mask, projected in zip(tensors, masks, projection.project(tensors, keep), strict=True):
        assert torch.equal(projected, torch.where(mask, tensor, 0.0))
    count = projection.count([tensor.shape for tensor in tensors], keep)
    assert count is None or count == len(support)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), keep=KEEP)
def test_unstructured(data: st.DataObject, keep: float) -> None:
    tensors = _tensors(data, data.draw(SHAPES["unstructured"]))
    _assert_nearest(Projection("unstructured"), tensors, keep)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), n=st.integers(1, 4), extra=st.integers(0, 3))
def test_n_of_m(data: st.DataObject, n: int, extra: int) -> None:
    tensors = _tensors(data, data.draw(SHAPES["n:m"]))
    _assert_nearest(Projection("n:m", {"n": n, "m": n + extra}), tensors, 0.5, n=n, m=n + extra)


@settings(deadline=None, max_examples=80)
@given(data=st.data(), keep=KEEP, name=st.sampled_from(["filter", "channel"]), coupled=st.booleans())
def test_filters_and_channels(data: st.DataObject, keep: float, name: str, coupled: bool) -> None:
    tensors = _tensors(data, data.draw(SHAPES[f"coupled {name}" if coupled else name]))
    _assert_nearest(Projection(name, {"coupled": coupled}), tensors, keep, coupled=coupled)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), keep=KEEP, rows=st.integers(1, 3), cols=st.integers(2, 4))
def test_blocks(data: st.DataObject, keep: float, rows: int, cols: int) -> None:
    tensors = _tensors(data, data.draw(SHAPES["block"]))
    _assert_nearest(Projection("block", {"rows": rows, "cols": cols}), tensors, keep, rows=rows, cols=cols)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), keep=KEEP)
def test_kernel_patterns_of_the_default_library(data: st.DataObject, keep: float) -> None:
    tensors = _tensors(data, data.draw(SHAPES["pattern"]))
    _assert_nearest(Projection("kernel_pattern"), tensors, keep, masks=DEFAULT)


@settings(deadline=None, max_examples=25)
@given(data=st.data(), keep=KEEP, library=st.sampled_from(["all", "centre"]))
def test_kernel_patterns_of_the_large_libraries(data: st.DataObject, keep: float, library: str) -> None:
    tensors = _tensors(data, [(1, 1, 3, 3)])
    masks = ALL if library == "all" else WITH_CENTRE
    _assert_nearest(Projection("kernel_pattern", {"patterns": library}), tensors, keep, masks=masks)


@settings(deadline=None, max_examples=25)
@given(data=st.data(), keep=KEEP, chosen=st.sets(st.sampled_from(ALL), min_size=1, max_size=6))
def test_kernel_patterns_of_an_own_library(
    data: st.DataObject, keep: float, chosen: set[tuple[int, ...]]
) -> None:
    tensors = _tensors(data, [(1, 2, 3, 3)])
    masks = sorted(chosen)
    _assert_nearest(Projection("kernel_pattern", {"patterns": masks}), tensors, keep, masks=masks)


def test_libraries_hold_what_their_names_say() -> None:
    assert (len(ALL), len(WITH_CENTRE), len(DEFAULT)) == (126, 56, 8)
    for library in (ALL, WITH_CENTRE, DEFAULT):
        assert len(set(library)) == len(library)
        assert all(sum(pattern) == 4 for pattern in library)
    assert all(pattern[4] for pattern in (*WITH_CENTRE, *DEFAULT))
    turned = {tuple(torch.tensor(p).view(3, 3).rot90().flatten().tolist()) for p in DEFAULT}
    assert turned == set(DEFAULT)  # no direction is preferred


def test_a_named_library_equals_the_same_patterns_listed() -> None:
    weight = torch.randint(-2, 3, (40, 30, 3, 3), generator=torch.Generator().manual_seed(3)).float()
    for name, library in (("all", ALL), ("centre", WITH_CENTRE), ("default", DEFAULT)):
        named = Projection("kernel_pattern", {"patterns": name}).support([weight], 0.2)[0]
        listed = Projection("kernel_pattern", {"patterns": library}).support([weight], 0.2)[0]
        assert torch.equal(named, listed)


# The tie rule, and sizes beyond brute force: the obvious loop over slices, blocks or kernels.

TIED = torch.randint(-1, 2, (33, 18, 3, 3), generator=torch.Generator().manual_seed(7)).float()


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.77])
def test_slices_tie_to_the_lower_index(keep: float) -> None:
    for name, dim in (("filter", 0), ("channel", 1)):
        energies = TIED.square().sum([d for d in range(4) if d != dim])
        kept = largest_by_sort([energies], quota(keep, TIED.shape[dim]))[0]
        mask = Projection(name).support([TIED], keep)[0]
        assert torch.equal(mask, kept.view([-1 if d == dim else 1 for d in range(4)]).expand_as(TIED))


@pytest.mark.parametrize("rows, cols", [(4, 4), (1, 8), (8, 1), (5, 7)])
def test_blocks_tie_to_the_lower_index(rows: int, cols: int) -> None:
    matrix = TIED.reshape(33, -1)
    corners = [(top, left) for top in range(0, 33, rows) for left in range(0, matrix.shape[1], cols)]
    tiles = [matrix[top : top + rows, left : left + cols] for top, left in corners]
    energies = torch.stack([tile.square().sum() for tile in tiles])
    expected = torch.zeros_like(matrix, dtype=torch.bool)
    kept = largest_by_sort([energies], quota(0.3, len(tiles)))[0]
    for (top, left), stays in zip(corners, kept, strict=True):
        expected[top : top + rows, left : left + cols] = stays
    mask = Projection("block", {"rows": rows, "cols": cols}).support([TIED], 0.3)[0]
    assert torch.equal(mask, expected.view_as(TIED))


@pytest.mark.parametrize("n, m", [(1, 2), (2, 4), (3, 5), (4, 16), (5, 40)])
def test_n_of_m_ties_to_the_lower_channel(n: int, m: int) -> None:
    weight = torch.randint(-1, 2, (6, 47, 2, 3), generator=torch.Generator().manual_seed(5)).float()
    expected = torch.zeros_like(weight, dtype=torch.bool)
    for start in range(0, 47, m):
        block = weight[:, start : start + m].abs()
        order = block.argsort(dim=1, descending=True, stable=True)[:, :n]
        expected[:, start : start + m].scatter_(1, order, True)
    assert torch.equal(Projection("n:m", {"n": n, "m": m}).support([weight], 0.5)[0], expected)


def test_kernels_tie_to_the_pattern_and_kernel_listed_first() -> None:
    mask = Projection("kernel_pattern").support([torch.ones(3, 2, 3, 3)], 0.2)[0]
    first = torch.tensor(DEFAULT[0], dtype=torch.bool).view(3, 3)
    expected = torch.zeros(6, 3, 3, dtype=torch.bool)
    expected[: quota(0.2 * 9 / 4, 6)] = first
    assert torch.equal(mask.view(6, 3, 3), expected)


def test_coupled_tensors_share_one_mask() -> None:
    tensors = [torch.randn(12, 5, 3, 3), torch.randn(12, 7), torch.randn(12, 1, 1, 1) * 9]
    masks = Projection("filter", {"coupled": True}).support(tensors, 0.25)
    rows = [mask.flatten(1) for mask in masks]
    assert all(torch.equal(row.any(1), row.all(1)) for row in rows)  # whole filters
    assert torch.equal(rows[0][:, 0], rows[1][:, 0]) and torch.equal(rows[0][:, 0], rows[2][:, 0])
    summed = sum((t.double().square().flatten(1).sum(1) for t in tensors), torch.zeros(12).double())
    assert set(rows[0][:, 0].nonzero().flatten().tolist()) == set(summed.topk(3).indices.tolist())


def test_a_shared_budget_goes_where_the_large_entries_are() -> None:
    small, large = torch.full((4, 5), 0.1), torch.full((4, 5), 3.0)
    masks = Projection("unstructured").support([small, large], 0.5)
    assert int(masks[0].sum()) == 0 and bool(masks[1].all())
    masks = Projection("filter").support([small, large], 0.25)
    assert [mask[:, 0].tolist() for mask in masks] == [[False] * 4, [True, True, False, False]]

"""What every projection promises, checked on all of them and on one written the way an outsider would."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from slr_det.projections import Projection, names, projection
from slr_det.projections.registry import REGISTRY

SPECS = [  # spellings of the built-in ones; whatever else is registered joins with its default options
    "unstructured",
    "2:4",
    "3:8",
    "1:40",
    "filter",
    "filter:coupled",
    "channel",
    "channel:coupled",
    "block:4x4",
    "block:3x5",
    "kernel_pattern",
    "kernel_pattern:centre",
    "kernel_pattern:all",
    "corner",
]
SPECS += [name for name in names() if name not in {Projection.parse(text).name for text in SPECS[:-1]}]
KEEPS = (0.01, 0.1, 0.3, 0.5, 1.0)


@pytest.fixture(autouse=True, scope="module")
def outsider() -> Iterator[None]:
    """One function is all it takes: keep the first entries of every kernel."""

    @projection("corner")
    def corner(tensors: Sequence[Tensor], keep: float, *, size: int = 2) -> list[Tensor]:
        masks = [torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device) for tensor in tensors]
        for mask in masks:
            mask[..., :size, :size] = True
        return masks

    yield
    del REGISTRY["corner"]


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> Projection:
    return Projection.parse(request.param)


def _group(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(10, 6, 3, 3), (10, 6, 3, 3)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def _distance(tensors: Sequence[Tensor], points: Sequence[Tensor]) -> float:
    return sum(float((t.double() - p.double()).square().sum()) for t, p in zip(tensors, points, strict=True))


@pytest.mark.parametrize("keep", KEEPS)
def test_masks_have_the_shapes_and_the_count(spec: Projection, keep: float) -> None:
    tensors = _group()
    masks = spec.support(tensors, keep)
    assert [mask.shape for mask in masks] == [tensor.shape for tensor in tensors]
    assert all(mask.dtype == torch.bool for mask in masks)
    count = spec.count([tensor.shape for tensor in tensors], keep)
    assert count is None or sum(int(mask.sum()) for mask in masks) == count
    assert any(bool(mask.any()) for mask in masks)


@pytest.mark.parametrize("keep", KEEPS)
def test_kept_entries_stay_and_the_rest_are_zero(spec: Projection, keep: float) -> None:
    tensors = _group()
    for tensor, mask, point in zip(
        tensors, spec.support(tensors, keep), spec.project(tensors, keep), strict=True
    ):
        assert torch.equal(point[mask], tensor[mask])
        assert not point[~mask].any() and not torch.signbit(point[~mask]).any()


@pytest.mark.parametrize("keep", KEEPS)
def test_projecting_twice_changes_nothing(spec: Projection, keep: float) -> None:
    once = spec.project(_group(), keep)
    for first, second in zip(once, spec.project(once, keep), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("keep", (0.05, 0.3))
def test_no_random_point_of_the_set_is_nearer(spec: Projection, keep: float) -> None:
    tensors = _group()
    nearest = _distance(tensors, spec.project(tensors, keep))
    for seed in range(1, 40):
        support = spec.support(_group(seed), keep)
        # The nearest point with that support, and one a little off it.
        point = [tensor * mask for tensor, mask in zip(tensors, support, strict=True)]
        assert nearest <= _distance(tensors, point)
        assert nearest < _distance(tensors, [p * 1.1 for p in point])


def test_all_zero_tensors_still_get_their_count(spec: Projection) -> None:
    tensors = [torch.zeros(10, 6, 3, 3), torch.zeros(10, 6, 3, 3)]
    masks = spec.support(tensors, 0.3)
    count = spec.count([tensor.shape for tensor in tensors], 0.3)
    assert count is None or sum(int(mask.sum()) for mask in masks) == count
    assert all(not point.any() for point in spec.project(tensors, 0.3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_keep_the_entries_of_the_same_values(spec: Projection, dtype: torch.dtype) -> None:
    tensors = _group(dtype=dtype)
    as_double = [tensor.double() for tensor in tensors]
    for mask, expected in zip(spec.support(tensors, 0.3), spec.support(as_double, 0.3), strict=True):
        assert torch.equal(mask, expected)
    assert all(point.dtype == dtype for point in spec.project(tensors, 0.3))


def test_memory_layout_does_not_matter(spec: Projection) -> None:
    tensors = _group()
    tensors[0] = torch.randint(-1, 2, tensors[0].shape, generator=torch.Generator().manual_seed(1)).float()
    strange = [
        tensors[0].to(memory_format=torch.channels_last),
        tensors[1].transpose(0, 1).clone().transpose(0, 1),
    ]
    for mask, expected in zip(spec.support(strange, 0.3), spec.support(tensors, 0.3), strict=True):
        assert torch.equal(mask, expected)
    for point, expected in zip(spec.project(strange, 0.3), spec.project(tensors, 0.3), strict=True):
        assert torch.equal(point, expected)


def test_out_is_written_and_may_be_the_input(spec: Projection) -> None:
    tensors = _group()
    expected = spec.project(tensors, 0.3)
    out = [torch.full_like(tensor, 7.0) for tensor in tensors]
    assert all(a is b for a, b in zip(spec.project(tensors, 0.3, out=out), out, strict=True))
    spec.project(tensors, 0.3, out=tensors)
    for point, written, in_place in zip(expected, out, tensors, strict=True):
        assert torch.equal(written, point) and torch.equal(in_place, point)


def test_parameters_that_need_gradients_are_projected_without_a_graph(spec: Projection) -> None:
    weights = [torch.nn.Parameter(tensor) for tensor in _group()]
    expected = spec.project([weight.detach().clone() for weight in weights], 0.3)
    assert all(not point.requires_grad for point in spec.project(weights, 0.3))
    spec.project(weights, 0.3, out=weights)
    for weight, point in zip(weights, expected, strict=True):
        assert weight.requires_grad and weight.is_leaf and torch.equal(weight.detach(), point)


def test_inputs_stay_as_they_were(spec: Projection) -> None:
    tensors = _group()
    before = [tensor.clone() for tensor in tensors]
    spec.support(tensors, 0.3)
    spec.project(tensors, 0.3)
    assert all(torch.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))


def test_nan_ends_with_masks_of_the_right_shape(spec: Projection) -> None:
    tensors = _group()
    tensors[0].view(-1)[::7] = torch.nan
    tensors[1].fill_(torch.nan)
    assert [mask.shape for mask in spec.support(tensors, 0.3)] == [tensor.shape for tensor in tensors]


def test_name_and_options_make_the_same_projection_again(spec: Projection) -> None:
    again = Projection.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec and hash(again) == hash(spec)
    for mask, expected in zip(again.support(_group(), 0.3), spec.support(_group(), 0.3), strict=True):
        assert torch.equal(mask, expected)

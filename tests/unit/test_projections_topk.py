"""Selecting the l largest entries: against one stable sort, on inputs made to break a sampled bracket."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from projection_reference import largest_by_sort
from torch import Tensor
from torch.overrides import TorchFunctionMode

from slr_det.projections import scan, topk
from slr_det.projections.topk import largest

SIZE = 200_000


def _made_against_the_sample() -> Tensor:
    """Large exactly where the sample looks, so that its quantiles are far from the tensor's."""
    stride = SIZE // topk.SAMPLE
    while math.gcd(stride, 210) > 1:
        stride += 1
    tensor = torch.linspace(-0.5, 0.5, SIZE)
    tensor[::stride] = torch.arange(1.0, tensor[::stride].numel() + 1)
    return tensor


def _inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(SIZE, generator=generator)
    uniform = torch.rand(SIZE, generator=generator)
    return {
        "normal": normal,
        "zeros": torch.zeros(SIZE),
        "constant": torch.full((SIZE,), -2.5),
        "both zeros": torch.zeros(SIZE) * torch.where(uniform < 0.5, 1.0, -1.0),
        "pruned before": normal * (uniform < 0.1),
        "ternary": torch.randint(-1, 2, (SIZE,), generator=generator).float(),
        "ascending": torch.arange(SIZE).float(),
        "descending": torch.arange(SIZE, 0, -1).float(),
        "periodic": torch.arange(SIZE).remainder(9).float(),
        "steps": torch.arange(SIZE).div(1000, rounding_mode="floor").float(),
        "huge range": torch.exp(normal * 25).clamp(max=3e38),
        "subnormal": normal * 1e-41,
        "few spikes": torch.cat([torch.zeros(SIZE - 5), torch.ones(5)]),
        "infinities": torch.where(uniform < 0.05, torch.inf, normal),
        "against the sample": _made_against_the_sample(),
    }


INPUTS = _inputs()
KEEPS = (1, 2, SIZE // 100, SIZE // 10, SIZE // 2, SIZE - 1, SIZE)


def _assert_same(scores: list[Tensor], keep: int) -> None:
    masks = largest(scores, keep)
    assert sum(int(mask.sum()) for mask in masks) == keep
    for mask, expected in zip(masks, largest_by_sort(scores, keep), strict=True):
        assert mask.dtype == torch.bool
        assert torch.equal(mask, expected)


@pytest.mark.parametrize("name", INPUTS)
def test_large_inputs_agree_with_a_stable_sort(name: str) -> None:
    tensor = INPUTS[name]
    for keep in KEEPS:
        _assert_same([tensor[:999], tensor[999:].view(-1, 1)], keep)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["normal", "ternary", "pruned before", "against the sample"])
def test_other_types_agree_with_a_stable_sort(name: str, dtype: torch.dtype) -> None:
    for keep in (1, SIZE // 10, SIZE - 1):
        _assert_same([INPUTS[name].to(dtype)], keep)


@pytest.mark.parametrize("name", INPUTS)
def test_device_passes_agree_with_the_host_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "scan", scan._DeviceScan)
    monkeypatch.setattr(scan, "DEVICE_CHUNK", 70_001)
    for keep in (1, SIZE // 10, SIZE - 1):
        _assert_same([INPUTS[name][:5], INPUTS[name][5:]], keep)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", INPUTS)
def test_a_gpu_selects_the_same_entries(name: str) -> None:
    for keep in KEEPS:
        masks = largest([INPUTS[name].cuda()], keep)
        assert torch.equal(masks[0].cpu(), largest([INPUTS[name]], keep)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("passes", ["host", "device"])
def test_radix_search_finds_the_threshold_of_any_input(
    passes: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if passes == "device":
        monkeypatch.setattr(topk, "scan", scan._DeviceScan)
    for name in ("normal", "ternary", "huge range", "zeros"):
        tensor = INPUTS[name][:20_000].to(dtype)
        keys = scan.magnitude_keys(tensor)
        for keep in (1, 777, 19_999):
            threshold, above, at = topk._radix([tensor[:7], tensor[7:]], dtype, keep)
            assert threshold == int(keys.sort(descending=True).values[keep - 1])
            assert above == int((keys > threshold).sum())
            assert at == int((keys == threshold).sum())


def test_a_misleading_sample_falls_back_to_the_radix_search(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[int] = []
    search = topk._radix

    def counted(scores: list[Tensor], dtype: torch.dtype, keep: int) -> tuple[int, int, int]:
        searches.append(keep)
        return search(scores, dtype, keep)

    monkeypatch.setattr(topk, "_radix", counted)
    largest([INPUTS["normal"]], SIZE // 10)
    assert not searches
    largest([INPUTS["against the sample"]], SIZE // 2)
    assert searches == [SIZE // 2]


@settings(deadline=None, max_examples=200)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    values=st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -3.0]), min_size=1, max_size=160),
    fraction=st.floats(0, 1),
)
def test_small_groups_full_of_ties_agree_with_a_stable_sort(
    sizes: list[int], values: list[float], fraction: float
) -> None:
    total = sum(sizes)
    flat = torch.tensor((values * total)[:total])
    _assert_same(list(flat.split(sizes)), max(1, round(fraction * total)))


def test_nan_ranks_above_infinity_and_the_count_still_holds() -> None:
    tensor = torch.tensor([1.0, torch.nan, -torch.inf, 0.0, -torch.nan, 3.0])
    assert largest([tensor], 2)[0].tolist() == [False, True, False, False, True, False]
    assert largest([tensor], 4)[0].tolist() == [False, True, True, False, True, True]
    noisy = INPUTS["normal"].clone()
    noisy[::3] = torch.nan
    assert int(largest([noisy], SIZE // 2)[0].sum()) == SIZE // 2


def test_layout_does_not_change_which_entries_win() -> None:
    weight = torch.randint(-2, 3, (16, 8, 3, 3), generator=torch.Generator().manual_seed(1)).float()
    expected = largest([weight], 400)[0]
    assert torch.equal(largest([weight.to(memory_format=torch.channels_last)], 400)[0], expected)
    assert torch.equal(largest([weight.transpose(0, 3).contiguous().transpose(0, 3)], 400)[0], expected)


def test_mixed_types_share_one_ranking() -> None:
    scores = [
        torch.tensor([1.0, 2.5]),
        torch.tensor([2.0, 3.0], dtype=torch.float16),
        torch.tensor([2.25]).double(),
    ]
    assert [mask.tolist() for mask in largest(scores, 3)] == [[False, True], [False, True], [True]]


class _LargestTensor(TorchFunctionMode):
    """Notes the largest tensor that any operation returns, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


def test_a_group_is_never_joined() -> None:
    tensors = [torch.randn(500_000, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    tracemalloc.start()
    masks = largest(tensors, 200_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(int(mask.sum()) for mask in masks) == 200_000
    assert peak < 2_000_000 + 2_000_000  # the masks, and candidates worth less than one tensor
    with _LargestTensor() as torch_side:
        largest(tensors, 200_000)
    assert torch_side.bytes <= 500_000 * 4  # one tensor; all of them are 8 MB

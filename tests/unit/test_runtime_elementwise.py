"""The sparse runtime's copies, sums, maxima and enlargements against torch, in any layout; the accuracy of SiLU."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_tensors import SLOPE, Placed, Pools, Room, activated, calm, isas, pools_of, rooms, using
from torch import Tensor
from torch.nn import functional

from slr_det.runtime.library import Activation, Isa, Library


@pytest.fixture(scope="module")
def pools(runtime: Library) -> Pools:
    return pools_of(runtime)


@dataclass(frozen=True)
class Case:
    """Two tensors of one size, or one and what becomes of it."""

    shape: tuple[int, int, int, int]
    first: Room
    second: Room
    target: Room
    activation: Activation
    threads: int
    seed: int


SHAPES = st.one_of(
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 20), st.integers(1, 40)),
    st.tuples(st.just(1), st.integers(1, 2), st.integers(1, 3), st.integers(900, 2100)),
)
CASES = st.builds(
    Case,
    SHAPES,
    rooms(),
    rooms(),
    rooms(),
    st.sampled_from(list(Activation)),
    st.integers(0, 3),
    st.integers(0, 2**32),
)


def numbers(case: Case, number: int = 0) -> Tensor:
    """Of all sizes, with zeros of both signs."""
    draw = torch.Generator().manual_seed(case.seed + number)
    x = torch.randn(case.shape, generator=draw) * 10 ** (4 * torch.rand(case.shape, generator=draw) - 2)
    kind = torch.randint(0, 20, case.shape, generator=draw)
    return x.masked_fill(kind == 0, 0.0).masked_fill(kind == 1, -0.0)


def assert_same(got: Tensor, expected: Tensor, activation: int = Activation.NONE) -> None:
    """Every bit, where nothing but SiLU rounds in ways of its own."""
    if activation == Activation.SILU:
        assert torch.allclose(got, expected, rtol=2e-6, atol=1e-30)
    else:
        assert torch.equal(got, expected)


def check_copy(library: Library, pools: Pools, case: Case) -> None:
    x = numbers(case)
    source = Placed.of(x, case.first)
    for isa in isas(library):
        target = Placed(case.shape, case.target, dirty=True)
        with using(library, isa):
            library.copy(
                source.layout,
                source.address,
                target.layout,
                target.address,
                case.activation,
                SLOPE,
                pools[case.threads],
            )
        assert_same(target.taken(), activated(x, case.activation, SLOPE), case.activation)


def check_add(library: Library, pools: Pools, case: Case, into: int) -> None:
    a, b = numbers(case), numbers(case, 1)
    for isa in isas(library):
        first, second = Placed.of(a, case.first), Placed.of(b, case.second)
        target = (first, second, Placed(case.shape, case.target, dirty=True))[into]
        with using(library, isa):
            library.add(
                first.layout,
                first.address,
                second.layout,
                second.address,
                target.layout,
                target.address,
                case.activation,
                SLOPE,
                pools[case.threads],
            )
        assert_same(target.taken(), activated(a + b, case.activation, SLOPE), case.activation)


def check_upsample(library: Library, pools: Pools, case: Case, factors: tuple[int, int]) -> None:
    x = numbers(case)
    expected = x.repeat_interleave(factors[0], 2).repeat_interleave(factors[1], 3)
    source, target = Placed.of(x, case.first), Placed(tuple(expected.shape), case.target, dirty=True)
    library.upsample(source.layout, source.address, target.layout, target.address, pools[case.threads])
    assert_same(target.taken(), expected)


@dataclass(frozen=True)
class Window:
    """Of a maximum; heights first, the padding left, right, top and bottom."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]


@st.composite
def pooled(draw: st.DrawFn) -> tuple[Case, Window]:
    """Windows that reach into the picture, at times beyond it on every side."""
    case = draw(CASES)
    if draw(st.integers(0, 3)) == 0 and min(case.shape[2:]) >= 2:
        return case, Window((2, 2), (2, 2), (0, 0, 0, 0))
    sides = []
    for length in case.shape[2:]:
        kernel = draw(st.integers(1, 7))
        before = draw(st.integers(0, kernel - 1))
        least = max(0, kernel - before - length)
        sides.append((kernel, draw(st.integers(1, 4)), before, draw(st.integers(least, least + kernel))))
    high, wide = sides
    return case, Window((high[0], wide[0]), (high[1], wide[1]), (wide[2], wide[3], high[2], high[3]))


def check_max_pool(library: Library, pools: Pools, case: Case, window: Window, lowest: float) -> None:
    """A third of the numbers are ``lowest``, all of them in some windows; outside of the picture is minus infinity."""
    x = numbers(case)
    x = torch.where(x < -1, lowest, x)
    expected = functional.max_pool2d(
        functional.pad(x, window.padding, value=-torch.inf), window.kernel, window.stride
    )
    source = Placed.of(x, case.first)
    for isa in isas(library):
        target = Placed(tuple(expected.shape), case.target, dirty=True)
        with using(library, isa):
            library.max_pool(
                source.layout,
                source.address,
                target.layout,
                target.address,
                window.kernel,
                window.stride,
                (window.padding[2], window.padding[0]),
                pools[case.threads],
            )
        assert_same(target.taken(), expected)


LOWEST = st.sampled_from((-2.0, -torch.inf))
FACTORS = st.tuples(st.integers(1, 5), st.integers(1, 5))
INTO = st.integers(0, 2)


@given(case=CASES)
@settings(calm, max_examples=50)
def test_a_copy_in_any_layout(runtime: Library, pools: Pools, case: Case) -> None:
    check_copy(runtime, pools, case)


@given(case=CASES, into=INTO)
@settings(calm, max_examples=50)
def test_a_sum_in_any_layout_also_into_its_own_terms(
    runtime: Library, pools: Pools, case: Case, into: int
) -> None:
    check_add(runtime, pools, case, into)


@given(case=CASES, factors=FACTORS)
@settings(calm, max_examples=50)
def test_an_enlargement_by_whole_factors(
    runtime: Library, pools: Pools, case: Case, factors: tuple[int, int]
) -> None:
    check_upsample(runtime, pools, case, factors)


@given(pooled=pooled(), lowest=LOWEST)
@settings(calm, max_examples=80)
def test_a_maximum_over_windows(
    runtime: Library, pools: Pools, pooled: tuple[Case, Window], lowest: float
) -> None:
    check_max_pool(runtime, pools, *pooled, lowest)


@pytest.mark.slow
@given(pooled=pooled(), lowest=LOWEST, into=INTO, factors=FACTORS)
@settings(calm, max_examples=1500)
def test_many_layouts(
    runtime: Library,
    pools: Pools,
    pooled: tuple[Case, Window],
    lowest: float,
    into: int,
    factors: tuple[int, int],
) -> None:
    check_copy(runtime, pools, pooled[0])
    check_add(runtime, pools, pooled[0], into)
    check_upsample(runtime, pools, pooled[0], factors)
    check_max_pool(runtime, pools, *pooled, lowest)


ALL_ISAS = pytest.mark.parametrize("isa", list(Isa), ids=lambda isa: isa.name.lower())


def through(library: Library, isa: Isa, x: Tensor, activation: Activation, slope: float = SLOPE) -> Tensor:
    if not library.has_isa(isa):
        pytest.skip(f"this processor has no {isa.name.lower()} instructions")
    source, target = Placed.of(x.view(1, 1, 1, -1), Room()), Placed((1, 1, 1, x.numel()), Room())
    with using(library, isa):
        library.copy(source.layout, source.address, target.layout, target.address, activation, slope)
    return target.taken().flatten()


@ALL_ISAS
def test_silu_is_right_to_a_few_units_in_the_last_place(runtime: Library, isa: Isa) -> None:
    """From where it leaves float32's normal numbers, at -87, to where it is its argument."""
    x = torch.cat(
        [torch.linspace(-87, 100, 100_003), torch.logspace(-30, 2, 999), -torch.logspace(-30, 1.9, 999)]
    )
    exact = functional.silu(x.double())
    error = (through(runtime, isa, x, Activation.SILU).double() - exact).abs() / exact.abs()
    # exp(-x) carries the rounding of a product of up to 125 with log2(e) split in two, and one of its own.
    assert error.max() < 6e-7


@ALL_ISAS
def test_silu_of_huge_numbers(runtime: Library, isa: Isa) -> None:
    x = torch.tensor(
        [-88.0, -89.0, -104.0, -200.0, -1e4, -1e10, -1e20, -1e30, -1e38, -3.4e38, 1e10, 3.4e38, torch.inf]
    )
    got = through(runtime, isa, x, Activation.SILU)
    assert torch.allclose(got, functional.silu(x.double()).float(), rtol=1e-6, atol=1e-30), got


@ALL_ISAS
@pytest.mark.parametrize("activation", list(Activation), ids=lambda activation: activation.name.lower())
def test_not_a_number_stays_one(runtime: Library, isa: Isa, activation: Activation) -> None:
    """A model that diverged must not look healthy."""
    x = torch.linspace(-3, 3, 37)
    x[::5] = torch.nan
    assert torch.equal(through(runtime, isa, x, activation).isnan(), x.isnan())


@ALL_ISAS
@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 1), (3, 2)])
def test_not_a_number_wins_every_maximum(runtime: Library, isa: Isa, kernel: int, stride: int) -> None:
    """Wherever in a register and in a window it stands."""
    if not runtime.has_isa(isa):
        pytest.skip(f"this processor has no {isa.name.lower()} instructions")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, 18, 90, generator=generator)
    x[torch.rand(x.shape, generator=generator) < 0.03] = torch.nan
    expected = functional.max_pool2d(x, kernel, stride)
    source, target = Placed.of(x, Room()), Placed(tuple(expected.shape), Room())
    windows = ((kernel, kernel), (stride, stride), (0, 0))
    with using(runtime, isa):
        runtime.max_pool(source.layout, source.address, target.layout, target.address, *windows)
    assert torch.allclose(target.taken(), expected, rtol=0, atol=0, equal_nan=True)


@ALL_ISAS
def test_infinities_and_slopes_of_all_signs(runtime: Library, isa: Isa) -> None:
    x = torch.tensor([-torch.inf, -2.0, -0.0, 0.0, 2.0, torch.inf])
    assert torch.equal(through(runtime, isa, x, Activation.RELU), x.relu())
    for slope in (-0.5, 0.01, 1.0, 2.0):
        expected = functional.leaky_relu(x, slope)
        assert torch.equal(through(runtime, isa, x, Activation.LEAKY_RELU, slope), expected)

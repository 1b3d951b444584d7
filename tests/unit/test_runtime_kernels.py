"""The sparse runtime's convolutions against torch in double precision: any size, place and density."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_tensors import (
    DENSITIES,
    SLOPE,
    Placed,
    Pools,
    Room,
    activated,
    assert_close,
    calm,
    isas,
    kept,
    pools_of,
    rooms,
    using,
)
from torch import Tensor
from torch.nn import functional

from slr_det.runtime.library import Activation, ConvSpec, Library


@pytest.fixture(scope="module")
def pools(runtime: Library) -> Pools:
    return pools_of(runtime)


@dataclass(frozen=True)
class Case:
    """A convolution, where its tensors lie, and what its numbers are drawn from."""

    size: tuple[int, int, int]  # images, height, width
    channels: tuple[int, int]  # of a group, in and out
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # left, right, top, bottom
    transposed: bool = False
    activation: int = Activation.NONE
    pool: bool = False
    bias: bool = True
    density: float = 0.5
    source: Room = field(default_factory=Room)
    target: Room = field(default_factory=Room)
    rows: str = (
        "own"  # rows of the output as long as those of the "input", or of the "workspace", if they can be
    )
    threads: int = 0
    seed: int = 0


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    """Heights and widths, the same one as often as two."""
    each = st.integers(low, high)
    return st.one_of(each.map(lambda both: (both, both)), st.tuples(each, each))


FEW = st.one_of(pairs(1, 7), st.just((1, 1)))
GROUPS = st.integers(1, 4)
SIZES = st.one_of(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 24), st.integers(1, 40)),
    st.tuples(st.just(1), st.just(1), st.integers(1, 300)),
    st.tuples(st.just(1), st.integers(1, 300), st.just(1)),
)


@st.composite
def cases(
    draw: st.DrawFn,
    sizes: st.SearchStrategy[tuple[int, int, int]] = SIZES,
    channels: st.SearchStrategy[tuple[int, int]] = FEW,
    groups: st.SearchStrategy[int] = GROUPS,
    densities: st.SearchStrategy[float] = DENSITIES,
) -> Case:
    """Convolutions whose kernel fits into the padded picture."""
    kernel, dilation, size = draw(pairs(1, 5)), draw(pairs(1, 3)), draw(sizes)
    padding = []
    for axis in (1, 0):
        reach = (kernel[axis] - 1) * dilation[axis] + 1
        before = draw(st.integers(0, reach))
        least = max(0, reach - size[1 + axis] - before)
        padding += [before, draw(st.one_of(st.just(max(before, least)), st.integers(least, least + reach)))]
    return Case(
        size,
        draw(channels),
        draw(groups),
        kernel,
        draw(pairs(1, 4)),
        dilation,
        (padding[0], padding[1], padding[2], padding[3]),
        draw(st.sampled_from((False, False, False, True))),
        draw(st.sampled_from(list(Activation))),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(densities),
        draw(rooms()),
        draw(rooms()),
        draw(st.sampled_from(("own", "input", "workspace"))),
        draw(st.integers(0, 3)),
        draw(st.integers(0, 2**32)),
    )


def convolved(case: Case, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The sums, before the activation, in the precision of the arguments."""
    if case.transposed:
        return functional.conv_transpose2d(x, weight, bias, case.kernel, groups=case.groups)
    x = functional.pad(x, case.padding)
    return functional.conv2d(x, weight, bias, case.stride, dilation=case.dilation, groups=case.groups)


def workspace_row(case: Case, width: int) -> int:
    """How long rows become where the input is sorted by strides and gets the margins that a kernel reaches into."""
    stride = 1 if case.transposed else case.stride[1]
    planes = -(-case.size[2] // stride)
    left = max(0, -(-case.padding[0] // stride))
    high = ((case.kernel[1] - 1) * case.dilation[1] - case.padding[0]) // stride
    return max(planes + max(left, width + high - planes), width)


def check_conv(library: Library, pools: Pools, case: Case) -> None:
    """Run a case with all instructions, and compare the numbers, what lies around them, and the description."""
    draw = torch.Generator().manual_seed(case.seed)
    images, height, width = case.size
    of_in, of_out = case.channels
    inputs, outputs = case.groups * of_in, case.groups * of_out
    x = torch.randn((images, inputs, height, width), generator=draw)
    rows, columns = (inputs, of_out) if case.transposed else (outputs, of_in)
    weight = kept((rows, columns, *case.kernel), case.density, draw)
    bias = torch.randn(outputs, generator=draw) if case.bias else None

    sums = convolved(case, x.double(), weight.double(), None if bias is None else bias.double())
    terms = convolved(
        case, x.double().abs(), weight.double().abs(), None if bias is None else bias.double().abs()
    )
    exact = activated(sums, case.activation, SLOPE)
    pool = case.pool and not case.transposed and min(exact.shape[2:]) >= 2
    if pool:
        exact, terms = functional.max_pool2d(exact, 2), functional.max_pool2d(terms, 2)

    source = Placed.of(x, case.source, slack=True)
    room = case.target
    if case.rows != "own":
        length = source.layout.row if case.rows == "input" else workspace_row(case, sums.shape[3])
        room = replace(room, row=max(length - exact.shape[3] - room.left, 0))
    stride = case.kernel if case.transposed else case.stride
    padding, dilation = ((0, 0), (1, 1)) if case.transposed else (case.padding[2::-2], case.dilation)
    spec = ConvSpec(
        *case.kernel,
        *stride,
        *dilation,
        *padding,
        case.groups,
        case.transposed,
        case.activation,
        SLOPE,
        2 * pool,
    )
    input_before = source.buffer.clone()
    for isa in isas(library):
        target = Placed(tuple(exact.shape), room)
        with using(library, isa):
            layer = library.conv(spec, weight, bias, source.layout, target.layout)
            workspace = torch.full((layer.info.workspace,), torch.nan)
            layer.run(source.address, target.address, workspace.data_ptr(), pools[case.threads])
        assert_close(target.taken(), exact, terms, columns * case.kernel[0] * case.kernel[1])
        nonzeros = int(weight.count_nonzero())
        places = height * width if case.transposed else exact.shape[2] * exact.shape[3] * (4 if pool else 1)
        assert (layer.info.nonzeros, layer.info.macs) == (nonzeros, nonzeros * places * images)
        assert 4 * nonzeros <= layer.info.bytes <= 12 * nonzeros + 64 * weight.numel() + 4096
    assert torch.equal(source.buffer.view(torch.int32), input_before.view(torch.int32)), (
        "the input was written"
    )


WIDE = cases(
    st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(4090, 8400)),
    st.just((1, 2)),
    st.integers(1, 2),
)
#: Their input does not fit into the first caches, so that sums are taken up and put down again.
DEEP = cases(
    st.tuples(st.integers(1, 2), st.integers(8, 24), st.integers(8, 24)),
    st.tuples(st.integers(60, 200), st.integers(1, 5)),
    st.just(1),
    st.floats(0.1, 1),
)
#: A kernel of its own for each channel.
DEPTHWISE = cases(SIZES, st.sampled_from(((1, 1), (1, 2))), st.integers(1, 40))


@given(case=cases())
@settings(calm, max_examples=120)
def test_a_convolution_of_any_shape(runtime: Library, pools: Pools, case: Case) -> None:
    check_conv(runtime, pools, case)


@given(case=DEPTHWISE)
@settings(calm, max_examples=30)
def test_a_convolution_of_each_channel(runtime: Library, pools: Pools, case: Case) -> None:
    check_conv(runtime, pools, case)


@given(case=WIDE)
@settings(calm, max_examples=30)
def test_a_convolution_of_long_rows(runtime: Library, pools: Pools, case: Case) -> None:
    check_conv(runtime, pools, case)


@given(case=DEEP)
@settings(calm, max_examples=30)
def test_a_convolution_of_many_channels(runtime: Library, pools: Pools, case: Case) -> None:
    check_conv(runtime, pools, case)


@pytest.mark.slow
@given(case=st.one_of(cases(), cases(), cases(), DEPTHWISE, WIDE, DEEP))
@settings(calm, max_examples=3000)
def test_many_convolutions(runtime: Library, pools: Pools, case: Case) -> None:
    check_conv(runtime, pools, case)


def test_margins_that_suffice_need_no_workspace(runtime: Library) -> None:
    """The planner counts on it: a kernel of three by three reads in place from margins of one."""
    weight = torch.ones(2, 3, 3, 3)
    plain, padded = Placed((1, 3, 8, 9), Room()), Placed((1, 3, 8, 9), Room(above=1, left=1))
    target = Placed((1, 2, 8, 9), Room())
    spec = ConvSpec(3, 3, 1, 1, 1, 1, 1, 1, 1, 0, Activation.NONE, 0.0, 0)
    assert runtime.conv(spec, weight, None, padded.layout, target.layout).info.workspace == 0
    assert runtime.conv(spec, weight, None, plain.layout, target.layout).info.workspace >= 3 * 10 * 10

"""What the sparse runtime cannot do it refuses, in one line and for the right reason, and nothing is run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from slr_det.errors import RuntimeRefusedError
from slr_det.runtime.library import Activation, ConvSpec, Layout, Library

IMPOSSIBLE = "it has sizes or layouts that it cannot take"
TOO_LARGE = "it is too large"


def layout(**changes: int) -> Layout:
    """Two channels of 4 x 6, contiguous but for the changes."""
    made = Layout.contiguous(1, 2, 4, 6)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def spec(**changes: Any) -> ConvSpec:
    """Three by three, padded by one, but for the changes."""
    made = ConvSpec(3, 3, 1, 1, 1, 1, 1, 1, 1, 0, Activation.NONE, 0.0, 0)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@dataclass(frozen=True)
class Wrong:
    """What is changed in a convolution from two channels to two."""

    spec: dict[str, int] = field(default_factory=dict)
    source: dict[str, int] = field(default_factory=dict)
    target: dict[str, int] = field(default_factory=dict)
    shape: tuple[int, ...] = (2, 2, 3, 3)


BAD_LAYOUTS = [
    {"images": 0},
    {"channels": -2},
    {"height": 0},
    {"width": -1},
    {"row": 5},
    {"left": 1},
    {"left": -1},
    {"above": 1},
    {"above": -1},
    {"origin": -1},
    {"left": 2**31 - 1},
    {"above": 2**31 - 1},
]
BAD_SPECS = [
    Wrong({"stride_h": 0}),
    Wrong({"stride_w": -1}),
    Wrong({"dilation_h": 0}),
    Wrong({"dilation_w": -3}),
    Wrong({"pad_top": -1}),
    Wrong({"pad_left": -1}),
    Wrong({"groups": -1}),
    Wrong({"pool": 1}),
    Wrong({"pool": 3}),
    Wrong({"activation": 4}),
    Wrong({"activation": -1}),
    Wrong({"groups": 3}, shape=(2, 0, 3, 3)),
    Wrong({"kernel_h": 0}, shape=(2, 2, 0, 3)),
    Wrong({}, {}, {"images": 2, "image": 48}),
    Wrong({"transposed": 1}),
    Wrong({"transposed": 1, "pad_top": 0, "pad_left": 0}),
    Wrong({"transposed": 1, "stride_h": 3, "stride_w": 3, "pad_top": 0, "pad_left": 0}),
]


def convolution(library: Library, wrong: Wrong) -> None:
    weight = torch.zeros(wrong.shape)
    library.conv(spec(**wrong.spec), weight, None, layout(**wrong.source), layout(**wrong.target))


@pytest.mark.parametrize("wrong", BAD_SPECS, ids=lambda wrong: str(wrong.spec or wrong.target))
def test_a_convolution_that_cannot_be(runtime: Library, wrong: Wrong) -> None:
    with pytest.raises(RuntimeRefusedError, match=f"convolution: {IMPOSSIBLE}"):
        convolution(runtime, wrong)


@pytest.mark.parametrize("bad", [bad for bad in BAD_LAYOUTS if "channels" not in bad], ids=str)
def test_a_convolution_in_layouts_that_cannot_be(runtime: Library, bad: dict[str, int]) -> None:
    for wrong in (Wrong(source=bad), Wrong(target=bad)):
        with pytest.raises(RuntimeRefusedError, match=IMPOSSIBLE):
            convolution(runtime, wrong)


def test_the_unchanged_convolution_is_taken(runtime: Library) -> None:
    """Else the refusals above would say nothing."""
    convolution(runtime, Wrong())


def test_what_is_taken_where_it_fits_in_32_bits_is_refused_beyond(runtime: Library) -> None:
    """Distances of a weight's input are kept in 32 bits: here the second channel lies 2^31 floats off, or one less."""
    one = {"kernel_h": 1, "kernel_w": 1, "pad_top": 0, "pad_left": 0}
    weight = torch.ones(2, 2, 1, 1)
    runtime.conv(spec(**one), weight, None, layout(plane=2**31 - 1), layout())
    with pytest.raises(RuntimeRefusedError, match=f"convolution: {TOO_LARGE}"):
        runtime.conv(spec(**one), weight, None, layout(plane=2**31), layout())


def test_a_workspace_too_large_for_32_bits_is_refused(runtime: Library) -> None:
    padding = {"pad_top": 2**15, "pad_left": 2**15}
    with pytest.raises(RuntimeRefusedError, match=f"convolution: {TOO_LARGE}"):
        convolution(runtime, Wrong(padding))


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong({"dilation_w": 2**30}),
        Wrong({"dilation_h": 2**30, "pad_top": 2**30}),
        Wrong({"stride_h": 2**16, "stride_w": 2**16}),
        Wrong({"stride_w": 2**31 - 1}),
        Wrong({"pool": 2}, {}, {"height": 2**30}),
        Wrong({"pad_left": 2**31 - 1}),
    ],
    ids=lambda wrong: str({**wrong.spec, **wrong.target}),
)
def test_sizes_whose_products_leave_32_bits_are_refused(runtime: Library, wrong: Wrong) -> None:
    with pytest.raises(RuntimeRefusedError, match=f"convolution: {TOO_LARGE}"):
        convolution(runtime, wrong)


@pytest.mark.parametrize("bad", BAD_LAYOUTS, ids=str)
def test_layouts_that_cannot_be_are_refused_by_whatever_runs_on_them(
    runtime: Library, bad: dict[str, int]
) -> None:
    here, numbers = layout(), torch.full((64,), 7.0)
    at = numbers.data_ptr()
    for first, second in ((layout(**bad), here), (here, layout(**bad))):
        with pytest.raises(RuntimeRefusedError, match=f"copy: {IMPOSSIBLE}"):
            runtime.copy(first, at, second, at)
        with pytest.raises(RuntimeRefusedError, match=f"sum: {IMPOSSIBLE}"):
            runtime.add(first, at, second, at, here, at)
        with pytest.raises(RuntimeRefusedError, match=f"sum: {IMPOSSIBLE}"):
            runtime.add(here, at, first, at, second, at)
        with pytest.raises(RuntimeRefusedError, match=f"maximum: {IMPOSSIBLE}"):
            runtime.max_pool(first, at, second, at, (1, 1), (1, 1), (0, 0))
        with pytest.raises(RuntimeRefusedError, match=f"enlargement: {IMPOSSIBLE}"):
            runtime.upsample(first, at, second, at)
    assert torch.equal(numbers, torch.full((64,), 7.0))


def test_sizes_that_do_not_belong_together(runtime: Library) -> None:
    numbers = torch.full((256,), 7.0)
    at, here = numbers.data_ptr(), layout()
    for other in (
        layout(height=3),
        layout(width=5),
        Layout.contiguous(1, 3, 4, 6),
        Layout.contiguous(2, 2, 4, 6),
    ):
        with pytest.raises(RuntimeRefusedError):
            runtime.copy(here, at, other, at)
        with pytest.raises(RuntimeRefusedError):
            runtime.add(here, at, other, at, here, at)
        with pytest.raises(RuntimeRefusedError):
            runtime.upsample(here, at, other, at)
    for channels, images in ((3, 1), (2, 2)):
        with pytest.raises(RuntimeRefusedError):
            runtime.max_pool(here, at, Layout.contiguous(images, channels, 4, 6), at, (1, 1), (1, 1), (0, 0))
    assert torch.equal(numbers, torch.full((256,), 7.0))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((0, 2), (1, 1), (0, 0)),
        ((2, -1), (1, 1), (0, 0)),
        ((2, 2), (0, 1), (0, 0)),
        ((2, 2), (1, 0), (0, 0)),
        ((2, 2), (1, 1), (-1, 0)),
        ((2, 2), (1, 1), (2, 0)),
        ((2, 2), (1, 1), (0, 2)),
        ((1, 1024), (1, 1), (0, 0)),
        ((1, 2**31 - 1), (1, 2**31 - 1), (0, 0)),
    ],
)
def test_windows_that_cannot_be(
    runtime: Library, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    numbers, out = torch.full((64,), 7.0), torch.zeros(64)
    with pytest.raises(RuntimeRefusedError, match=f"maximum: {IMPOSSIBLE}"):
        runtime.max_pool(layout(), numbers.data_ptr(), layout(), out.data_ptr(), kernel, stride, padding)


def test_linear_layers_that_cannot_be(runtime: Library) -> None:
    for shape, rows, activation in (
        ((3, 0), 1, 0),
        ((0, 3), 1, 0),
        ((3, 3), 0, 0),
        ((3, 3), 1, 4),
        ((3, 3), 1, -1),
    ):
        with pytest.raises(RuntimeRefusedError, match=f"linear layer: {IMPOSSIBLE}"):
            runtime.linear(torch.zeros(shape), None, rows, activation)


def test_without_the_workspace_that_it_needs_nothing_runs(runtime: Library) -> None:
    numbers, out = torch.ones(48), torch.full((48,), 7.0)
    conv = runtime.conv(spec(), torch.ones(2, 2, 3, 3), None, layout(), layout())
    linear = runtime.linear(torch.ones(6, 6), None, 8)
    assert conv.info.workspace > 0 and linear.info.workspace > 0
    for layer in (conv, linear):
        with pytest.raises(RuntimeRefusedError):
            layer.run(numbers.data_ptr(), out.data_ptr())
    assert torch.equal(out, torch.full((48,), 7.0))

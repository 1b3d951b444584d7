"""The sparse runtime's linear layers against torch in double precision: rows, features and densities of all kinds."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_tensors import (
    DENSITIES,
    SLOPE,
    Pools,
    activated,
    assert_close,
    calm,
    isas,
    kept,
    pools_of,
    using,
)
from torch.nn import functional

from slr_det.runtime.library import Activation, Library


@pytest.fixture(scope="module")
def pools(runtime: Library) -> Pools:
    return pools_of(runtime)


@dataclass(frozen=True)
class LinearCase:
    """A linear layer."""

    rows: int
    inputs: int
    outputs: int
    density: float
    activation: int
    bias: bool
    threads: int
    seed: int


def linear_cases() -> st.SearchStrategy[LinearCase]:
    """Few rows and many, with features that fill no tile."""
    rows = st.one_of(st.integers(1, 5), st.integers(1, 200), st.sampled_from((63, 64, 65, 128)))
    features = st.one_of(st.integers(1, 9), st.integers(1, 150), st.sampled_from((31, 32, 33, 64)))
    return st.builds(
        LinearCase,
        rows,
        features,
        features,
        DENSITIES,
        st.sampled_from(list(Activation)),
        st.booleans(),
        st.integers(0, 3),
        st.integers(0, 2**32),
    )


def check_linear(library: Library, pools: Pools, case: LinearCase) -> None:
    draw = torch.Generator().manual_seed(case.seed)
    x = torch.randn((case.rows, case.inputs), generator=draw)
    weight = kept((case.outputs, case.inputs), case.density, draw)
    bias = torch.randn(case.outputs, generator=draw) if case.bias else None
    sums = functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    exact = activated(sums, case.activation, SLOPE)
    terms = x.double().abs() @ weight.double().abs().T + (0 if bias is None else bias.double().abs())
    for isa in isas(library):
        out = torch.full((case.rows * case.outputs + 16,), torch.nan)
        with using(library, isa):
            layer = library.linear(weight, bias, case.rows, case.activation, SLOPE)
            workspace = torch.full((layer.info.workspace,), torch.nan)
            layer.run(x.data_ptr(), out.data_ptr(), workspace.data_ptr(), pools[case.threads])
        assert out[-16:].isnan().all(), "written behind the output"
        most = int(weight.count_nonzero(1).max())
        assert_close(out[:-16].view(case.rows, case.outputs), exact, terms, most)
        nonzeros = int(weight.count_nonzero())
        assert (layer.info.nonzeros, layer.info.macs) == (nonzeros, nonzeros * case.rows)
        assert 4 * nonzeros <= layer.info.bytes <= 12 * nonzeros + 64 * case.outputs + 4096


@given(case=linear_cases())
@settings(calm, max_examples=100)
def test_a_linear_layer_of_any_shape(runtime: Library, pools: Pools, case: LinearCase) -> None:
    check_linear(runtime, pools, case)


@pytest.mark.slow
@given(case=linear_cases())
@settings(calm, max_examples=2000)
def test_many_linear_layers(runtime: Library, pools: Pools, case: LinearCase) -> None:
    check_linear(runtime, pools, case)


@pytest.mark.parametrize("inputs", [65_535, 65_536, 65_537, 70_001])
@pytest.mark.parametrize("rows", [1, 5])
def test_a_linear_layer_of_more_inputs_than_16_bits_number(
    runtime: Library, pools: Pools, inputs: int, rows: int
) -> None:
    check_linear(runtime, pools, LinearCase(rows, inputs, 3, 0.01, Activation.NONE, True, 2, inputs))


def test_the_last_of_many_inputs_counts(runtime: Library) -> None:
    """A column number of 16 bits would wrap around to the first input."""
    weight = torch.zeros(1, 65_537)
    weight[0, 65_536] = 2.0
    x, out = torch.zeros(1, 65_537), torch.zeros(1)
    x[0, 65_536] = 3.0
    runtime.linear(weight, None, 1).run(x.data_ptr(), out.data_ptr())
    assert out.item() == 6.0

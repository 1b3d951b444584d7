"""A compiled model answers as the model does whatever torch is told to do meanwhile, and whatever it is given."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from runtime_nets import Function, conv, images, settle
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

import slr_det.runtime
from slr_det.errors import ConfigError
from slr_det.runtime.checking import difference
from slr_det.runtime.compiled import MOST_THREADS, CompiledModule

pytestmark = pytest.mark.usefixtures("runtime")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLR_DET_CACHE", str(tmp_path))


def net() -> nn.Module:
    """Something of all: layers of ours, functions that torch does in place, products of torch's, a linear layer."""

    def call(m: Any, x: Tensor) -> object:
        y = F.hardswish(m.one(x))
        y = F.adaptive_avg_pool2d(m.two(y), (4, 4))
        return m.two(F.gelu(m.two(y @ y.transpose(2, 3)))), m.head(y.mean((2, 3)))

    return settle(Function(call, one=conv(3, 6), two=nn.Conv2d(6, 6, 1), head=nn.Linear(6, 4)))


def sparse(model: nn.Module, *inputs: Tensor) -> CompiledModule:
    return slr_det.runtime.compile(model, *inputs, choose="sparse", verify=False)


def answer(model: nn.Module, *inputs: Tensor) -> Any:
    with torch.no_grad():
        return model(*(item.clone() for item in inputs))


X = images(2, 3, 12, 10)


def test_autocast_is_the_models_own() -> None:
    model = net()
    fast = sparse(model, X)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = answer(model, X), fast(X)
        assert "autocast" in sparse(model, X).reason
    assert expected[0].dtype == found[0].dtype == torch.bfloat16
    assert difference(expected, found) is None
    assert difference(answer(model, X), fast(X)) is None


def test_inference_mode_may_come_and_go() -> None:
    model = net()
    with torch.inference_mode():
        within = sparse(model, X)
        assert difference(answer(model, X), within(X)) is None
    assert not within.reason
    assert difference(answer(model, X), within(X)) is None
    without = sparse(model, X)
    with torch.inference_mode():
        without(X[:1])
    assert difference(answer(model, X[:1]), without(X[:1])) is None


def test_defaults_of_torch_do_not_reach_the_library() -> None:
    model = net()
    expected, alone = answer(model, X), answer(model, X[:1])
    fast = sparse(model, X)
    with torch.device("meta"):
        assert difference(expected, fast(X)) is None
        assert difference(alone, fast(X[:1])) is None
    torch.set_default_dtype(torch.float64)
    try:
        assert difference(expected, fast(X)) is None
        assert difference(expected, sparse(model, X)(X)) is None
    finally:
        torch.set_default_dtype(torch.float32)


def test_inputs_without_an_address_go_to_the_model() -> None:
    model = net()
    fast = sparse(model, X)
    assert difference(answer(model, -X), fast(torch._neg_view(X))) is None
    stacked = torch.func.vmap(fast)(torch.stack([X, X + 1]))[0]
    assert torch.allclose(stacked[1], answer(model, X + 1)[0], atol=1e-5)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert fast(mode.from_tensor(X))[0].shape == (2, 6, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(fast, (X,), check_trace=False)  # type: ignore[no-untyped-call]
    assert difference(answer(model, X + 1), answer(traced, X + 1)) is None


def test_parts_that_train_keep_doing_so() -> None:
    model = net()
    drop = nn.Sequential(model, Function(lambda _, pair: pair[0]), nn.Dropout(0.5)).eval()
    drop[2].train()
    fast = sparse(drop, X)
    assert drop[2].training
    assert 0.3 < float((fast(X) == 0).float().mean()) < 0.7
    norm = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    norm[1].train()
    assert "its own state" in sparse(norm, X).reason


class Anchored(nn.Module):
    """Replaces a buffer where its size is not the input's, or always."""

    anchors: Tensor

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.register_buffer("anchors", torch.zeros(1, 1))
        self.always = always

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.always or self.anchors.shape != x.shape[2:]:
            self.anchors = torch.ones(x.shape[2:]) + self.anchors.mean()
        return self.layer(x), self.anchors * 1.0


@pytest.mark.parametrize("always", [False, True])
def test_a_buffer_that_is_replaced_in_every_run_is_noticed(always: bool) -> None:
    model = Anchored(always).eval()
    answer(model, X)
    fast = sparse(model, X)
    assert ("its own state" in fast.reason) == bool(fast.reason) == always
    assert difference(answer(copy.deepcopy(model), X), fast(X)) is None


def test_sizes_that_depend_on_numbers_are_refused() -> None:
    model = Function(
        lambda m, x: m.two(m.one(x)[x.amax((1, 2, 3)) > 0.5]), one=nn.Conv2d(3, 4, 3), two=nn.Conv2d(4, 4, 3)
    ).eval()
    fast = sparse(model, images(4, 3, 8, 8))
    assert "sizes" in fast.reason
    x = images(4, 3, 8, 8)
    x[1:] = 0
    assert fast(x).shape[0] == answer(model, x).shape[0] == 1
    # Places that are whole numbers give one size.
    picked = Function(lambda m, x: m.one(x)[:, [2, 0, 1]], one=nn.Conv2d(3, 4, 3)).eval()
    fast = sparse(picked, X)
    assert not fast.reason and difference(answer(picked, X), fast(X)) is None


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("factor", [1.2, 2.2, 3.3])
@pytest.mark.parametrize("side", [2, 4])
def test_enlargement_by_a_factor_that_is_not_whole(mode: str, factor: float, side: int) -> None:
    """4 rows times 1.2 are 4 rows, but not the same ones."""
    model = Function(
        lambda m, x: m.two(F.interpolate(m.one(x), scale_factor=factor, mode=mode)),
        one=nn.Conv2d(3, 4, 1),
        two=nn.Conv2d(4, 2, 1),
    ).eval()
    x = images(1, 3, side, side)
    assert difference(answer(model, x), sparse(model, x)(x)) is None


def gated(m: Any, x: Tensor) -> Tensor:
    y = F.relu(m.one(x))
    found: Tensor = m.two(torch.cos(y * torch.sigmoid(y)))
    return found


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(10, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 3)),
        Function(gated, one=nn.Linear(10, 6), two=nn.Linear(6, 2)),
    ],
    ids=["norm", "gate"],
)
def test_what_torch_gets_back_is_whole(model: nn.Module) -> None:
    """A batch norm that nothing can take in, and x * sigmoid(x) of rows."""
    x = images(4, 10)
    fast = sparse(settle(model), x)
    assert not fast.reason and difference(answer(model, x), fast(x)) is None


def test_new_weights_make_new_programs() -> None:
    model, other = net(), settle(net(), seed=5)
    fast = sparse(model, X)
    fast.load_state_dict({f"model.{name}": value for name, value in other.state_dict().items()})
    assert difference(answer(other, X), fast(X)) is None
    fast.double()
    assert difference(answer(other.double(), X.double()), fast(X.double())) is None


def test_threads_have_an_upper_end() -> None:
    with pytest.raises(ConfigError, match=f"to {MOST_THREADS:,}"):
        slr_det.runtime.compile(net(), X, threads=2**40)

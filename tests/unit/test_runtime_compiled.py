"""A compiled model answers as the model does, whatever it is made of; and where it cannot, the model itself answers."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runtime_nets import NETS, STEPS, Function, Woven, conv, images, resnet, settle, yolo
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import slr_det.runtime
from slr_det.errors import ConfigError
from slr_det.runtime import compiled as module
from slr_det.runtime.capture import Captured, capture
from slr_det.runtime.choosing import DENSEST, by_output, layers_of
from slr_det.runtime.functions import Library
from slr_det.runtime.library import LIBRARY_VARIABLE
from slr_det.runtime.plan import make_plan
from slr_det.runtime.program import Program

pytestmark = pytest.mark.usefixtures("runtime")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLR_DET_CACHE", str(tmp_path))


def same(expected: Any, found: Any, tolerance: float = 1e-4) -> None:
    (one, structure), (other, other_structure) = pytree.tree_flatten(expected), pytree.tree_flatten(found)
    assert structure == other_structure
    for a, b in zip(one, other, strict=True):
        if isinstance(a, Tensor):
            assert a.shape == b.shape and a.dtype == b.dtype
            assert torch.allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(a.abs().max())))
        else:
            assert a == b


def answer(model: nn.Module, *inputs: Tensor) -> Any:
    with torch.no_grad():
        return model(*inputs)


def run_with(runtime: Library, captured: Captured, image: Tensor, dense: int, threads: int = 1) -> Any:
    """Outputs of the second of two runs in which bit i of ``dense`` says whether torch runs layer i."""
    choices = {key: bool(dense >> index & 1) for index, key in enumerate(layers_of(captured.graph))}
    plan = make_plan(captured.graph, by_output(captured.graph, choices))
    pool = runtime.pool(threads) if threads > 1 else None
    program = Program(captured.graph, plan, runtime, pool, threading.Lock())
    program.run((image + 1,))
    return captured.rebuild(program.run((image,)))


@lru_cache
def traced(net: str) -> tuple[Captured, Tensor, Any]:
    """A net of the list as a graph, an image, and the net's own answer."""
    make, shape = NETS[net]
    model, image = settle(make()), images(*shape)
    return capture(model, (image,)), image, answer(model, image)


@pytest.mark.parametrize("dense", [0, 0b0101010101010101, 0b1001001001001001, 0b0011001100110011, 0xFFFF])
@pytest.mark.parametrize("net", NETS)
def test_every_net_answers_as_in_torch_whoever_runs_its_layers(
    runtime: Library, net: str, dense: int
) -> None:
    captured, image, expected = traced(net)
    same(expected, run_with(runtime, captured, image, dense), 1e-5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 6), st.integers(0, 6)),
        min_size=1,
        max_size=9,
    ),
    size=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 13), st.integers(1, 19)),
    dense=st.integers(0, 255),
)
def test_any_net_answers_as_in_torch(
    runtime: Library, steps: list[tuple[str, int, int]], size: tuple[int, ...], dense: int
) -> None:
    image = images(*size)
    model = settle(Woven(steps, image))
    same(answer(model, image), run_with(runtime, capture(model, (image,)), image, dense), 1e-5)


@pytest.mark.parametrize("net", ["resnet, two images", "yolo", "pillars", "mixer"])
def test_two_threads_answer_the_same(runtime: Library, net: str) -> None:
    captured, image, expected = traced(net)
    same(expected, run_with(runtime, captured, image, 0, threads=2), 1e-5)


def test_outputs_are_new_tensors_that_no_later_run_changes() -> None:
    make, shape = NETS["reused"]
    model, image = settle(make()), images(*shape)
    compiled = slr_det.runtime.compile(model, image, threads=1, choose="sparse")
    first = compiled(image)
    kept = copy.deepcopy(first)
    for tensor in pytree.tree_leaves(compiled(image * 2)):
        if isinstance(tensor, Tensor):
            tensor.fill_(7.0)
    same(kept, first, 0.0)
    first["x"].zero_()
    assert float(image.abs().sum()) > 0
    same(answer(model, image), compiled(image))


def test_other_shapes_and_strided_inputs_get_programs_of_their_own() -> None:
    model = settle(yolo())
    compiled = slr_det.runtime.compile(model, images(1, 3, 16, 16), threads=1, choose="sparse")
    for shape in [(2, 3, 16, 16), (1, 3, 24, 40), (1, 3, 8, 8), (3, 3, 16, 24), (1, 3, 16, 16)]:
        image = images(*shape)
        same(answer(model, image), compiled(image))
    turned = images(1, 16, 24, 3).permute(0, 3, 1, 2)
    same(answer(model, turned), compiled(turned))
    assert len(compiled._programs) == module.SHAPES
    with pytest.raises(RuntimeError):  # the model's own refusal
        compiled(images(1, 4, 16, 16))


def test_many_threads_may_call_it() -> None:
    model = settle(resnet())
    inputs = [images(1, 3, 24, 24, seed=seed) for seed in range(12)]
    compiled = slr_det.runtime.compile(model, inputs[0], threads=1, choose="sparse")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(compiled, inputs))
    for image, result in zip(inputs, found, strict=True):
        same(answer(model, image), result)


def test_copies_and_pickles_make_programs_of_their_own() -> None:
    model, image = settle(nn.Sequential(conv(3, 4), conv(4, 4))), images(1, 3, 8, 8)
    compiled = slr_det.runtime.compile(model, image, threads=2, choose="sparse")
    for other in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        assert other.table == compiled.table
        same(answer(model, image), other(image))
        assert other.weight_bytes == compiled.weight_bytes > 0


def test_the_table_names_every_layer_and_why_it_runs_as_it_does() -> None:
    model = settle(
        nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, groups=4)),
        density=0.25,
    )
    image = images(1, 3, 12, 12)
    compiled = slr_det.runtime.compile(model, image, threads=1, choose="sparse")
    rows = {row.name: row for row in compiled.table}
    assert list(rows) == ["0.0.weight", "2.weight", "1.weight"]
    assert [row.kind for row in compiled.table] == ["conv 3x3", "depthwise conv 3x3", "convolution"]
    assert [row.choice for row in compiled.table] == ["sparse", "sparse", "dense"]
    assert rows["0.0.weight"].density == int((model[0][0].weight != 0).sum()) / 216
    assert "not supported" in rows["1.weight"].reason
    lines = compiled.report().splitlines()
    assert lines[0] == "2 of 3 layers run sparse, on 1 thread"
    assert len(lines) == 5 and lines[2].startswith("0.0.weight")
    same(answer(model, image), compiled(image))


def test_measured_times_decide_and_stand_in_the_table() -> None:
    model, image = (
        settle(nn.Sequential(conv(16, 64), conv(64, 64), nn.Conv2d(64, 4, 1)), 0.02),
        images(1, 16, 40, 40),
    )
    compiled = slr_det.runtime.compile(model, image, threads=1)
    for row in compiled.table:
        assert row.sparse_seconds is not None and row.dense_seconds is not None
        faster = row.sparse_seconds < 0.97 * row.dense_seconds
        assert row.choice == ("sparse" if faster else "dense")
    same(answer(model, image), compiled(image))
    again = slr_det.runtime.compile(model, image, threads=1)
    assert all("remembered" in row.reason for row in again.table)


def test_a_dense_model_stays_as_it_is_and_says_so() -> None:
    model, image = settle(nn.Sequential(conv(3, 8), conv(8, 8)), density=1.0), images(1, 3, 8, 8)
    compiled = slr_det.runtime.compile(model, image, threads=1)
    assert "sparsity is too low to gain" in compiled.reason and f"{DENSEST:.0%}" in compiled.reason
    assert [row.choice for row in compiled.table] == ["dense", "dense"]
    assert compiled.report().startswith("the whole model runs dense, in torch: sparsity is too low")
    assert torch.equal(answer(model, image), compiled(image))
    assert compiled.bytes == 0


def branches(m: nn.Module, x: Tensor) -> Tensor:
    return m.c(x) if x.sum().item() > 0 else x


def draws(m: nn.Module, x: Tensor) -> Tensor:
    return m.c(x) + torch.rand(())


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        (nn.Identity(), (images(1, 3, 4, 4),), "no convolution"),
        (nn.Conv2d(3, 4, 3).double(), (images(1, 3, 4, 4).double(),), "weight is float64"),
        (nn.Conv2d(3, 4, 3), (images(1, 3, 4, 4).double(),), "cannot be traced"),
        (Function(branches, c=nn.Conv2d(3, 3, 1)), (images(1, 3, 4, 4),), "traced"),
        (Function(draws, c=nn.Conv2d(3, 3, 1)), (images(1, 3, 4, 4),), "is not the model's"),
    ],
)  # fmt: skip
def test_what_cannot_run_stays_in_torch_with_a_reason(
    model: nn.Module, inputs: tuple[Tensor, ...], words: str
) -> None:
    compiled = slr_det.runtime.compile(model.eval(), *inputs, threads=1, choose="sparse")
    assert words in compiled.reason and "\n" not in compiled.reason
    assert compiled.report().startswith("the whole model runs dense, in torch: ")
    if words not in ("cannot be traced", "is not the model's"):
        same(answer(model, *inputs), compiled(*inputs))


def test_weights_are_held_by_the_model_and_packed_but_not_a_third_time() -> None:
    model, image = settle(nn.Sequential(conv(3, 8), nn.Conv2d(8, 8, 3)), 0.1), images(1, 3, 12, 12)
    compiled = slr_det.runtime.compile(model, image, threads=1, choose="sparse")
    ((captured, program),) = compiled._kept()
    assert [layer.weight.numel() for layer in layers_of(captured.graph).values()] == [0, 0]
    nonzeros = sum(int((weight != 0).sum()) for weight in (model[0][0].weight, model[1].weight))
    assert 8 * nonzeros <= compiled.weight_bytes < 8 * nonzeros + 400
    assert compiled.bytes == program.bytes > compiled.weight_bytes
    same(answer(model, image), compiled(image))


def test_without_a_library_the_model_itself_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "none.so"))
    model, image = settle(nn.Sequential(conv(3, 4))), images(1, 3, 6, 6)
    compiled = slr_det.runtime.compile(model, image, threads=1)
    assert "none.so" in compiled.reason and "does not exist" in compiled.reason
    assert torch.equal(answer(model, image), compiled(image))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_starts_threads_of_its_own() -> None:
    model, image = settle(nn.Sequential(conv(3, 8), conv(8, 8))), images(1, 3, 32, 32)
    compiled = slr_det.runtime.compile(model, image, threads=2, choose="sparse")
    expected = compiled(image)
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(100)  # it must not wait for threads that are not there
            os._exit(0 if torch.equal(compiled(image), expected) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_it_never_trains() -> None:
    model, image = settle(nn.Sequential(conv(3, 4))), images(1, 3, 6, 6)
    compiled = slr_det.runtime.compile(model, image, threads=1, choose="sparse").train()
    assert not compiled.training and not model.training
    assert not compiled(image.requires_grad_()).requires_grad


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"choose": "mesure"}, "did you mean 'measure'"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": True}, "threads is True"),
        ({"inputs": ()}, "no inputs"),
        ({"inputs": ([1.0],)}, "input 1 is list"),
        ({"training": True}, "model.eval"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: dict[str, Any], words: str) -> None:
    model = nn.Conv2d(3, 4, 3).train(arguments.pop("training", False))
    inputs = arguments.pop("inputs", (images(1, 3, 4, 4),))
    with pytest.raises(ConfigError, match=words):
        slr_det.runtime.compile(model, *inputs, **arguments)

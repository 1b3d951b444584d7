"""INT8: each weight is the multiple of its channel's scale that is nearest, and zeros stay zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_models import example, exportable, small

pytest.importorskip("onnxruntime", reason='needs the export extra: uv pip install "slr-det[export]"')

import onnx

from slr_det.errors import ConfigError, DataError
from slr_det.export.int8 import quantise
from slr_det.export.onnxfile import to_onnx
from slr_det.export.runtime import OnnxNetwork


@pytest.fixture(scope="module")
def made() -> Any:
    torch.manual_seed(0)
    net = small(keep=0.3)
    model, _ = to_onnx(exportable(net), example())
    return net, model


def arrays(model: Any) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_weights_are_rounded_to_multiples_of_their_channels_scale(made: Any) -> None:
    _, model = made
    quantised, found = quantise(model, exportable(made[0]).samples("train", 16))
    before, after = arrays(model), arrays(quantised)
    names = ["0.weight", "3.weight", "7.weight"]
    assert (found.weights, found.samples, found.kept_float) == (3, 16, ())
    zeros = rounded = 0
    for name in names:
        weight, whole = before[name], after[f"{name}_quantized"]
        greatest = np.abs(weight).reshape(len(weight), -1).max(1)
        scale = np.where(greatest == 0, 1, greatest / 127).reshape(-1, *[1] * (weight.ndim - 1))
        assert whole.dtype == np.int8
        assert np.abs(weight / scale - whole).max() <= 0.5 + 1e-4
        assert not after[f"{name}_zero_point"].any()
        zeros += int((weight == 0).sum())
        rounded += int(((weight != 0) & (whole == 0)).sum())
        assert not whole[weight == 0].any()
    assert found.zeros_before == found.zeros_kept == zeros > 3000
    assert found.zeros_after == zeros + rounded
    assert found.entries == sum(before[name].size for name in names)


def test_the_answers_are_near_and_the_model_that_was_given_is_untouched(made: Any, tmp_path: Path) -> None:
    net, model = made
    before = model.SerializeToString(deterministic=True)
    quantised, _ = quantise(model, exportable(net).samples("train", 16))
    assert {n.op_type for n in quantised.graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    assert quantised.metadata_props == model.metadata_props
    onnx.save(quantised, tmp_path / "int8.onnx")
    inputs = example(batch=6)
    with torch.no_grad():
        wanted = net(*inputs)
    error = (OnnxNetwork(tmp_path / "int8.onnx", 1)(*inputs)[0] - wanted).abs().max()
    assert 0 < error < 0.1 * wanted.abs().max()
    assert [t.name for t in model.graph.initializer] == [
        t.name for t in type(model).FromString(before).graph.initializer
    ]


def test_chosen_weights_stay_in_float32(made: Any) -> None:
    net, model = made
    quantised, found = quantise(model, exportable(net).samples("train", 4), keep_float=["7.*"])
    assert found.kept_float == ("7.weight",) and found.weights == 2
    assert np.array_equal(arrays(quantised)["7.weight"], arrays(model)["7.weight"])


def test_seven_bits(made: Any) -> None:
    net, model = made
    quantised, found = quantise(model, exportable(net).samples("train", 4), reduce_range=True)
    assert np.abs(arrays(quantised)["3.weight_quantized"]).max() <= 64
    assert found.zeros_kept == found.zeros_before


@pytest.mark.parametrize(
    ("samples", "keep", "error", "expected"),
    [
        (4, ["conv.*"], ConfigError, "--keep-float conv.*: the network has no such weight"),
        (4, ["*"], ConfigError, "no layer left to quantise"),
        (0, [], DataError, "at least one sample"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    made: Any, samples: int, keep: list[str], error: type[Exception], expected: str
) -> None:
    net, model = made
    with pytest.raises(error) as raised:
        quantise(model, exportable(net).samples("train", samples), keep_float=keep)
    assert expected in str(raised.value) and "\n" not in str(raised.value)

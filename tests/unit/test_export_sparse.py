"""Sparse initializers: the same bits in fewer bytes, where there are fewer bytes to be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_models import example, exportable, small

pytest.importorskip("onnxruntime", reason='needs the export extra: uv pip install "slr-det[export]"')

import onnx

from slr_det.export.onnxfile import to_onnx
from slr_det.export.runtime import OnnxNetwork
from slr_det.export.sparse import sparsify


def model_of(**weights: np.ndarray) -> Any:
    """A model that holds weights and does nothing with them."""
    helper = onnx.helper
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    tensors = [onnx.numpy_helper.from_array(weight, name) for name, weight in weights.items()]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [other], tensors)
    return helper.make_model(graph)


def dense_again(tensor: Any) -> np.ndarray:
    """Decode a sparse tensor by the definition of the format."""
    values = onnx.numpy_helper.to_array(tensor.values)
    found = np.zeros(int(np.prod(tensor.dims)), values.dtype)
    for place, value in zip(onnx.numpy_helper.to_array(tensor.indices), values, strict=True):
        found[place] = value
    return found.reshape(tensor.dims)


def weight(entries: int, nonzeros: int, dtype: Any = np.float32) -> np.ndarray:
    found = np.zeros(entries, dtype)
    found[np.random.default_rng(0).choice(entries, nonzeros, replace=False)] = 1 + np.arange(nonzeros) % 100
    return found.reshape(2, -1)


@pytest.mark.parametrize(
    ("entries", "nonzeros", "dtype", "sparse"),
    [
        (300, 99, np.float32, True),  # 12 bytes a nonzero against 4 an entry
        (300, 100, np.float32, False),
        (900, 99, np.int8, True),  # 9 against 1
        (900, 100, np.int8, False),
        (300, 0, np.float32, False),
    ],
)
def test_a_weight_is_sparse_where_that_is_smaller(
    entries: int, nonzeros: int, dtype: Any, sparse: bool
) -> None:
    made = weight(entries, nonzeros, dtype)
    model = model_of(w=made)
    found = sparsify(model)
    assert len(model.graph.sparse_initializer) == found.tensors == int(sparse)
    assert len(model.graph.initializer) == 1 - int(sparse)
    if sparse:
        (tensor,) = model.graph.sparse_initializer
        onnx.checker.check_sparse_tensor(tensor)
        assert np.array_equal(dense_again(tensor), made)
        assert (found.values, found.entries, found.index_bytes) == (nonzeros, entries, 8 * nonzeros)


def test_a_negative_zero_is_a_zero_a_nan_is_none_and_vectors_stay_dense() -> None:
    made = np.zeros((4, 8), np.float32)
    made[0, 1], made[1, 2], made[2, 3] = -0.0, np.nan, 2.0
    model = model_of(w=made, bias=np.zeros(100, np.float32))
    assert sparsify(model).values == 2
    (tensor,) = model.graph.sparse_initializer
    assert np.array_equal(dense_again(tensor), made, equal_nan=True)
    assert not np.signbit(dense_again(tensor)).any()
    assert [tensor.name for tensor in model.graph.initializer] == ["bias"]


def test_onnx_runtime_gives_the_same_bits(tmp_path: Path) -> None:
    model, _ = to_onnx(exportable(small(keep=0.013)), example())
    onnx.save(model, tmp_path / "dense.onnx")
    assert sparsify(model).tensors == 3
    onnx.save(model, tmp_path / "sparse.onnx")
    dense, sparse = (OnnxNetwork(tmp_path / f"{name}.onnx", 1) for name in ("dense", "sparse"))
    inputs = example(batch=4)
    assert torch.equal(dense(*inputs)[0], sparse(*inputs)[0])
    bytes_of = {name: (tmp_path / f"{name}.onnx").stat().st_size for name in ("dense", "sparse")}
    assert bytes_of["sparse"] < 0.3 * bytes_of["dense"]


def test_at_the_papers_highest_rate_a_file_of_weights_is_below_an_eighth(tmp_path: Path) -> None:
    made = weight(1_000_000, 13_000)
    model = model_of(w=made)
    before = model.ByteSize()
    sparsify(model)
    # 12 bytes for 1.3 % of the entries of 4 bytes: 3.9 %
    assert model.ByteSize() / before == pytest.approx(0.039, abs=0.001)

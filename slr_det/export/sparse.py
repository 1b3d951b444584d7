"""Weights that are mostly zero, kept in an ONNX file as their nonzeros alone (``sparse_initializer``).

ONNX's only form is COO: a value and an index of 64 bits for each nonzero. In float32 a nonzero takes 12 bytes where a
dense weight takes 4, so a tensor is smaller than dense below a density of one third, in int8 below one ninth. A file
of ``slr_det.pack`` takes far less; it needs unpacking first, and this does not. ONNX Runtime makes the weights dense
again when it loads the file: the memory and the time of a sparse file are those of a dense one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from slr_det.export.extras import load

_INDEX_BYTES = 8


@dataclass(frozen=True)
class Sparsified:
    """What was made sparse.

    Attributes:
        tensors: How many weights.
        values: How many nonzeros they have.
        entries: How many entries they have.
        index_bytes: Bytes that the places of the nonzeros take.
    """

    tensors: int
    values: int
    entries: int
    index_bytes: int


def sparsify(model: Any) -> Sparsified:
    """Make each weight of an ONNX graph sparse where that takes fewer bytes, in place.

    The values are the same, but for negative zeros, as a mask leaves them behind: they become zeros.
    """
    onnx = load("onnx")
    graph = model.graph
    tensors = values = entries = 0
    for tensor in list(graph.initializer):
        dense = onnx.numpy_helper.to_array(tensor)
        if not _can_be_sparse(dense):
            continue
        flat = dense.reshape(-1)
        places = np.flatnonzero(flat)  # a NaN is among them
        if len(places) * (flat.itemsize + _INDEX_BYTES) >= flat.nbytes:
            continue
        graph.sparse_initializer.append(
            onnx.helper.make_sparse_tensor(
                onnx.numpy_helper.from_array(flat[places], tensor.name),
                onnx.numpy_helper.from_array(places.astype(np.int64), f"{tensor.name}.places"),
                list(dense.shape),
            )
        )
        graph.initializer.remove(tensor)
        tensors, values, entries = tensors + 1, values + len(places), entries + flat.size
    return Sparsified(tensors, values, entries, values * _INDEX_BYTES)


def _can_be_sparse(dense: np.ndarray) -> bool:
    # Vectors are biases and scales: a runtime may look for them among the dense initializers, and they are small. A
    # weight without a nonzero would be an empty tensor, which readers handle differently.
    return dense.ndim > 1 and dense.dtype in (np.float32, np.float16, np.int8) and bool(np.any(dense))

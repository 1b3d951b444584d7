"""Batch norms go into the layers before them: a network for inference has none.

In evaluation a batch norm is y = s (x - m) + b with s = scale / sqrt(variance + eps), all of them constants. After a
convolution or a linear layer y = W x + c that is W' = s W and c' = s (c - m) + b (Jacob et al. 2018, section 3.2), for
the output channels of W. Elsewhere it is a multiplication and an addition. Weights that are zero stay zero.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from slr_det.export.extras import load

_NORM = "BatchNormalization"


@dataclass(frozen=True)
class Folded:
    """What became of the batch norms of a graph.

    Attributes:
        merged: How many went into the layer before them.
        replaced: How many became a multiplication and an addition, having no such layer.
    """

    merged: int
    replaced: int


def fold_batchnorms(model: Any) -> Folded:
    """Remove every batch norm from an ONNX graph, in place; computed in float64, kept in the weights' own type.

    Batch norms in training mode, or whose statistics are computed in the graph, are not of a network for inference,
    and stay.
    """
    onnx = load("onnx")
    _resolve_identities(model.graph)
    graph = model.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    ranks = _ranks(onnx, model)
    merged = replaced = 0
    for norm in [node for node in graph.node if node.op_type == _NORM and _is_constant(node, values)]:
        scale, shift = _affine(onnx, norm, values)
        makers = {name: node for node in graph.node for name in node.output}
        readers = Counter(name for node in graph.node for name in node.input)
        before = makers.get(norm.input[0])
        alone = readers[norm.input[0]] == 1 and norm.input[0] not in outputs
        axis = _output_axis(before, values) if before is not None and alone else None
        if before is not None and axis is not None:
            _merge(onnx, graph, before, axis, norm, scale, shift, values, readers)
            merged += 1
        else:
            _replace(onnx, graph, norm, ranks.get(norm.input[0], 4), scale, shift)
            replaced += 1
        values = {tensor.name: tensor for tensor in graph.initializer}
    _drop_unread(graph)
    return Folded(merged, replaced)


def count_batchnorms(model: Any) -> int:
    """Number of batch-norm nodes in a graph."""
    return sum(node.op_type == _NORM for node in model.graph.node)


def _is_constant(norm: Any, values: dict[str, Any]) -> bool:
    training = any(a.name == "training_mode" and a.i for a in norm.attribute)
    return not training and all(name in values for name in norm.input[1:5])


def _affine(onnx: Any, norm: Any, values: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    scale, bias, mean, variance = (
        onnx.numpy_helper.to_array(values[name]).astype(np.float64) for name in norm.input[1:5]
    )
    eps = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    slope = scale / np.sqrt(variance + eps)
    return slope, bias - slope * mean


def _output_axis(node: Any, values: dict[str, Any]) -> int | None:
    """The axis of a layer's weight that counts its outputs; None where it is no layer with constant weights."""
    if len(node.input) < 2 or any(name and name not in values for name in node.input[1:]):
        return None
    attributes = {a.name: a for a in node.attribute}
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        group = attributes["group"].i if "group" in attributes else 1
        return 1 if group == 1 else None
    if node.op_type == "Gemm":
        plain = all(attributes[name].f == 1.0 for name in ("alpha", "beta") if name in attributes)
        turned = "transB" in attributes and attributes["transB"].i == 1
        return (0 if turned else 1) if plain else None
    return None


def _merge(
    onnx: Any,
    graph: Any,
    layer: Any,
    axis: int,
    norm: Any,
    scale: np.ndarray,
    shift: np.ndarray,
    values: dict[str, Any],
    readers: Counter[str],
) -> None:
    helper = onnx.numpy_helper
    weight = helper.to_array(values[layer.input[1]])
    shape = [1] * weight.ndim
    shape[axis] = -1
    bias = np.zeros_like(scale)
    if len(layer.input) > 2 and layer.input[2]:
        bias = helper.to_array(values[layer.input[2]]).astype(np.float64).reshape(-1)
    new = (weight * scale.reshape(shape)).astype(weight.dtype)
    # A weight that two layers share is folded for one of them alone.
    name = layer.input[1] if readers[layer.input[1]] == 1 else f"{layer.input[1]}.{norm.output[0]}"
    _put(graph, values, helper.from_array(new, name))
    layer.input[1] = name
    own_bias = f"{norm.output[0]}.bias"
    _put(graph, values, helper.from_array((scale * bias + shift).astype(weight.dtype), own_bias))
    if len(layer.input) > 2:
        layer.input[2] = own_bias
    else:
        layer.input.append(own_bias)
    layer.output[0] = norm.output[0]
    graph.node.remove(norm)


def _replace(onnx: Any, graph: Any, norm: Any, rank: int, scale: np.ndarray, shift: np.ndarray) -> None:
    shape = (-1, *[1] * (rank - 2))
    name = norm.output[0]
    for part, value in (("scale", scale), ("shift", shift)):
        graph.initializer.append(
            onnx.numpy_helper.from_array(value.astype(np.float32).reshape(shape), f"{name}.{part}")
        )
    make = onnx.helper.make_node
    place = list(graph.node).index(norm)
    graph.node.remove(norm)
    graph.node.insert(place, make("Mul", [norm.input[0], f"{name}.scale"], [f"{name}.scaled"]))
    graph.node.insert(place + 1, make("Add", [f"{name}.scaled", f"{name}.shift"], [name]))


def _ranks(onnx: Any, model: Any) -> dict[str, int]:
    """Number of dimensions of every value whose shape follows from the graph."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in [*graph.input, *graph.value_info, *graph.output]
        if value.type.tensor_type.HasField("shape")
    }


def _put(graph: Any, values: dict[str, Any], tensor: Any) -> None:
    if tensor.name in values:
        values[tensor.name].CopyFrom(tensor)
    else:
        graph.initializer.append(tensor)


def _resolve_identities(graph: Any) -> None:
    """Constants that are equal are one, and the others its copies by an Identity: let their readers read it."""
    values = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    same: dict[str, str] = {}
    for node in list(graph.node):
        for place, name in enumerate(node.input):
            node.input[place] = same.get(name, name)
        if node.op_type == "Identity" and node.input[0] in values and node.output[0] not in outputs:
            same[node.output[0]] = node.input[0]
            graph.node.remove(node)


def _drop_unread(graph: Any) -> None:
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)

"""What can be done in one pass is: batch norms, activations and pools go into the layers before them.

Whatever is known to the runtime but would gain nothing from it, because torch makes and reads the values around it, is
given back to torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from slr_det.runtime import layers
from slr_det.runtime.graph import (
    Activate,
    Add,
    Concat,
    Conv,
    Graph,
    Linear,
    MaxPool,
    Node,
    Norm,
    Opaque,
    Pad,
    Pointwise,
    Ref,
    Slice,
    Upsample,
)
from slr_det.runtime.structs import Activation

_aten = torch.ops.aten
#: Nodes whose results lie where the runtime wants them.
NATIVE = (Conv, MaxPool, Upsample, Add, Activate, Concat, Pointwise)
# Those whose results nobody else can be reading under another name.
_OWN = (Conv, MaxPool, Upsample, Add, Activate, Pointwise)
# Functions of single numbers that the library lacks, and their forms that work in place.
_IN_PLACE: dict[Any, Callable[..., Any]] = {
    _aten.hardtanh.default: _aten.hardtanh_.default,
    _aten.hardswish.default: _aten.hardswish_.default,
    _aten.hardsigmoid.default: _aten.hardsigmoid_.default,
    _aten.sigmoid.default: _aten.sigmoid_.default,
    _aten.tanh.default: _aten.tanh_.default,
    _aten.gelu.default: _aten.gelu_.default,
    _aten.elu.default: _aten.elu_.default,
    _aten.mish.default: _aten.mish_.default,
    _aten.clamp.default: _aten.clamp_.default,
    _aten.clamp_min.default: _aten.clamp_min_.default,
}


def fuse(graph: Graph) -> None:
    """Fold and fuse all that can be, in place."""
    _join_pieces(graph)
    graph.drop_unread()
    fused: list[Node] = []
    makers: dict[str, Node] = {}
    readers = graph.readers()
    for node in graph.nodes:
        before = makers.get(node.inputs[0]) if node.inputs else None
        if before is not None and readers[before.out] == 1 and _absorb(graph, before, node):
            makers.pop(node.inputs[0])
            makers[before.out] = before
            continue
        kept = _alone(graph, node, before, readers[before.out] if before is not None else 0)
        fused.append(kept)
        makers[kept.out] = kept
    graph.nodes = fused
    _give_back(graph)
    graph.drop_unread()


def _absorb(graph: Graph, before: Node, node: Node) -> bool:
    """Let a node do what its only reader does; whether it can."""
    if isinstance(node, Norm) and isinstance(before, (Conv, Linear)):
        outputs = before.channels if isinstance(before, Conv) else before.weight.shape[0]
        if outputs == node.scale.numel() and _is_bare(before):
            layers.fold(before, node)
            return True
    elif isinstance(node, Activate) and isinstance(before, (Conv, Linear, Add)) and _is_bare(before):
        before.activation, before.slope, before.out = node.activation, node.slope, node.out
        return True
    elif isinstance(node, MaxPool) and isinstance(before, Conv) and not before.pool and not before.transposed:
        height, width = graph.values[before.out].shape[2:]
        whole = graph.values[node.out].shape[2:] == (height // 2, width // 2)
        if whole and node.kernel == node.stride == (2, 2) and node.padding == (0, 0):
            before.pool, before.out = True, node.out
            return True
    return False


def _is_bare(node: Conv | Linear | Add) -> bool:
    """Whether something can still follow in the same pass."""
    return node.activation == Activation.NONE and not (isinstance(node, Conv) and node.pool)


def _alone(graph: Graph, node: Node, before: Node | None, readers: int) -> Node:
    """What becomes of a node that nothing absorbs."""
    if isinstance(node, Norm):
        return layers.as_conv(node) if graph.values[node.out].is_image else node.original
    if isinstance(node, Activate) and not graph.values[node.out].is_image:
        return node.original
    if isinstance(node, Opaque) and node.op in _IN_PLACE and len(node.inputs) == 1:
        plain = not any(isinstance(item, Ref) for item in node.args[1:]) and not _refs_in(node.kwargs)
        if isinstance(before, _OWN) and readers == 1 and plain and graph.values[node.out].is_image:
            arguments = (*node.args[1:],)
            op = _IN_PLACE[node.op]
            return Pointwise(out=node.out, inputs=node.inputs, op=_with(op, node.kwargs), arguments=arguments)
    return node


def _refs_in(kwargs: dict[str, Any]) -> bool:
    return any(isinstance(item, Ref) for item in kwargs.values())


def _with(op: Callable[..., Any], kwargs: dict[str, Any]) -> Callable[..., Any]:
    if not kwargs:
        return op

    def call(*args: Any) -> Any:
        return op(*args, **kwargs)

    return call


def _join_pieces(graph: Graph) -> None:
    """Where a concatenation puts all pieces of a value back in order, it takes the value itself."""
    makers = graph.makers()
    for node in graph.nodes:
        if isinstance(node, Concat):
            node.inputs = tuple(_joined(graph, makers, list(node.inputs)))
            node.original.inputs = node.inputs
            node.original.args = ([Ref(name) for name in node.inputs], 1)


def _joined(graph: Graph, makers: dict[str, Node], names: list[str]) -> list[str]:
    result: list[str] = []
    while names:
        first = makers.get(names[0])
        if isinstance(first, Slice) and first.start == 0:
            whole, covered = first.inputs[0], 0
            for count, name in enumerate(names, start=1):
                piece = makers.get(name)
                if not isinstance(piece, Slice) or piece.inputs[0] != whole or piece.start != covered:
                    break
                covered += graph.values[name].shape[1]
                if covered == graph.values[whole].shape[1]:
                    names[:count] = [whole]
                    break
        result.append(names.pop(0))
    return result


def _give_back(graph: Graph) -> None:
    """Torch cuts and joins what it makes itself, where the runtime reads nothing of it."""
    makers = graph.makers()
    for index, node in enumerate(graph.nodes):
        if isinstance(node, (Concat, Slice, Activate)):
            ours = any(isinstance(makers.get(name), (*NATIVE, Slice, Pad)) for name in node.inputs)
            read = [other for other in graph.nodes if node.out in other.inputs]
            if not ours and not any(isinstance(other, (*NATIVE, Slice, Pad)) for other in read):
                graph.nodes[index] = makers[node.out] = node.original

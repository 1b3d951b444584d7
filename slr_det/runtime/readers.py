"""One reader for each of torch's operations that the runtime knows: arguments become a node of the graph.

A reader returns None where the runtime does not have this form of the operation, which then stays torch's.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from slr_det.runtime import layers
from slr_det.runtime.graph import Activate, Add, Concat, MaxPool, Node, Opaque, Pad, Ref, Slice, Upsample
from slr_det.runtime.structs import Activation

if TYPE_CHECKING:
    from slr_det.runtime.lowering import Lowering

_aten = torch.ops.aten


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    return node.args


def _argument(node: fx.Node, place: int, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else default


def _conv(low: Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    source, weight, bias, stride, padding, dilation, transposed, output_padding, groups = _arguments(node)
    kernel, constant_bias = low.constant(weight), low.constant(bias)
    if kernel is None:
        return None
    opaque.layer = low.layer(weight)
    if not low.image(source) or (bias is not None and constant_bias is None):
        opaque.reason = "it does not work on float32 images"
        return None
    return layers.conv(
        opaque,
        low.name(source),
        kernel,
        constant_bias,
        stride=tuple(stride),
        padding=tuple(padding),
        dilation=tuple(dilation),
        output_padding=tuple(output_padding),
        groups=groups,
        transposed=bool(transposed),
    )


def _linear(low: Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    bias, source, weight = (
        _arguments(node) if node.target is _aten.addmm.default else (None, *_arguments(node))
    )
    matrix, constant_bias = low.constant(weight), low.constant(bias)
    if matrix is None or low.constant(source) is not None:
        return None
    opaque.layer = low.layer(weight)
    plain = all(value == 1 for value in node.kwargs.values())
    one_row = constant_bias is None or constant_bias.ndim == 1
    if not plain or (bias is not None and constant_bias is None) or not one_row:
        opaque.reason = "it is a product of matrices, but no linear layer"
        return None
    return layers.linear(opaque, low.name(source), matrix, constant_bias, low.values[low.name(source)])


def _norm(low: Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    source, *parts = _arguments(node)
    if node.target is _aten.native_batch_norm.default:
        *affine, training, _, eps = parts
        if training:
            return None
    else:
        *affine, _, eps = parts
    if low.constant(source) is not None or any(
        item is not None and low.constant(item) is None for item in affine
    ):
        return None
    scale, shift, mean, variance = (low.constant(item) for item in affine)
    if mean is None or variance is None:
        return None
    name = next((low.layer(item) for item in affine if item is not None), "")
    return layers.norm(opaque, low.name(source), name, (scale, shift, mean, variance), float(eps))


def _first_of(low: Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    """Operations that return several tensors are known by the first of them, pieces of channels by any."""
    parent, index = _arguments(node)
    if not isinstance(parent, fx.Node) or not isinstance(index, int):
        return None
    if parent.target in _FIRST and index == 0:
        whole = low.opaque(parent)
        whole.out, whole.op = node.name, _First(whole.op)
        return _FIRST[parent.target](low, parent, whole)
    if parent.target in (_aten.split.Tensor, _aten.split_with_sizes.default):
        source, sizes = _arguments(parent)[:2]
        if low.image(source) and _argument(parent, 2, 0) in (1, -3):
            shares = [sizes] * index if isinstance(sizes, int) else list(sizes)[:index]
            return _piece(low, node, low.name(source), sum(shares))
    return None


@dataclass(frozen=True)
class _First:
    """An operation of which only the first result counts."""

    op: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.op(*args, **kwargs)[0]


def _piece(low: Lowering, node: fx.Node, source: str, start: int) -> Slice:
    arguments = (Ref(source), 1, start, low.values[node.name].shape[1])
    original = Opaque(out=node.name, inputs=(source,), op=torch.narrow, args=arguments)
    return Slice(out=node.name, inputs=(source,), start=start, original=original)


def _max_pool(low: Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    source, kernel = _arguments(node)[:2]
    stride = _pair(_argument(node, 2, []) or kernel)
    padding, dilation = _pair(_argument(node, 3, [0, 0])), _pair(_argument(node, 4, [1, 1]))
    kernel = _pair(kernel)
    if not low.image(source) or dilation != (1, 1) or max(kernel[1], stride[1]) > 256:
        return None
    return MaxPool(out=opaque.out, inputs=opaque.inputs, kernel=kernel, stride=stride, padding=padding)


def _pair(sizes: Any) -> tuple[int, int]:
    sizes = list(sizes)
    return (sizes[0], sizes[-1])


def _upsample(low: Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    if not low.image(node.args[0]):
        return None
    (height, width), (high, wide) = low.values[opaque.inputs[0]].shape[2:], low.values[node.name].shape[2:]
    if high % height or wide % width or not _whole(node, high // height, wide // width):
        return None
    return Upsample(out=node.name, inputs=opaque.inputs)


def _whole(node: fx.Node, *factors: int) -> bool:
    """Whether the factors that are given beside the sizes are theirs: 4 rows times 1.2 are 4, but not the same 4."""
    *_, scale_h, scale_w = (None, None, *_arguments(node)[2:])
    given = scale_w if isinstance(scale_w, (list, tuple)) else (scale_h, scale_w)
    return all(scale is None or scale == factor for scale, factor in zip(given, factors, strict=False))


def _add(low: Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    a, b = _arguments(node)[:2]
    plain = node.kwargs.get("alpha", 1) == 1 and low.image(a) and low.image(b)
    if not plain or low.values[low.name(a)].shape != low.values[low.name(b)].shape:
        return None
    return Add(out=node.name, inputs=(low.name(a), low.name(b)))


def _cat(low: Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    parts: Any = node.args[0]
    if _argument(node, 1, 0) not in (1, -3) or not all(low.image(part) for part in parts):
        return None
    return Concat(out=node.name, inputs=tuple(low.name(part) for part in parts), original=opaque)


def _slice(low: Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    source, dim, start = node.args[0], _argument(node, 1, 0), _argument(node, 2, None)
    if not low.image(source) or dim not in (1, -3) or _argument(node, 4, 1) != 1:
        return None
    channels = low.values[opaque.inputs[0]].shape[1]
    begin = start if isinstance(start, int) else 0
    return _piece(low, node, opaque.inputs[0], max(begin + channels, 0) if begin < 0 else begin)


def _pad(low: Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    sizes = list(_arguments(node)[1])
    sizes += [0] * (4 - len(sizes))
    zero = _argument(node, 2, 0) == 0
    if not low.image(node.args[0]) or not zero or any(sizes[4:]) or min(sizes) < 0:
        return None
    left, right, top, bottom = sizes[:4]
    return Pad(out=node.name, inputs=opaque.inputs, left=left, right=right, top=top, bottom=bottom)


def _activation(kind: Activation) -> Callable[[Lowering, fx.Node, Opaque], Node | None]:
    def read(low: Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
        slope = float(_argument(node, 1, 0.01)) if kind == Activation.LEAKY_RELU else 0.0
        return Activate(out=node.name, inputs=opaque.inputs, activation=kind, slope=slope, original=opaque)

    return read


def _product(low: Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    """``x * sigmoid(x)`` is a SiLU."""
    one, other = _arguments(node)[:2]
    for x, gate in ((one, other), (other, one)):
        is_gate = isinstance(gate, fx.Node) and gate.target is _aten.sigmoid.default
        if is_gate and isinstance(x, fx.Node) and low.name(_arguments(gate)[0]) == low.name(x):
            source = low.name(x)
            whole = Opaque(out=node.name, inputs=(source,), op=_aten.silu.default, args=(Ref(source),))
            return Activate(
                out=node.name, inputs=(source,), activation=Activation.SILU, slope=0.0, original=whole
            )
    return None


#: What reads an operation: a trace in progress, the operation, and what it is where torch runs it.
_Reader = Callable[["Lowering", fx.Node, Opaque], Node | None]
_FIRST: dict[Any, _Reader] = {
    _aten.native_batch_norm.default: _norm,
    _aten._native_batch_norm_legit_no_training.default: _norm,
    _aten.max_pool2d_with_indices.default: _max_pool,
}
#: By operation.
READERS: dict[Any, _Reader] = {
    _aten.convolution.default: _conv,
    _aten.addmm.default: _linear,
    _aten.mm.default: _linear,
    operator.getitem: _first_of,
    _aten.upsample_nearest2d.default: _upsample,
    _aten.upsample_nearest2d.vec: _upsample,
    _aten._upsample_nearest_exact2d.default: _upsample,
    _aten.add.Tensor: _add,
    _aten.cat.default: _cat,
    _aten.slice.Tensor: _slice,
    _aten.constant_pad_nd.default: _pad,
    _aten.relu.default: _activation(Activation.RELU),
    _aten.leaky_relu.default: _activation(Activation.LEAKY_RELU),
    _aten.silu.default: _activation(Activation.SILU),
    _aten.mul.Tensor: _product,
}

"""Torch's basic operations become nodes of a graph: those the runtime knows by name, all others as they are.

What depends on parameters and constants alone is computed here, once.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from slr_det.errors import RuntimeRefusedError
from slr_det.runtime import layers
from slr_det.runtime.graph import (
    Activate,
    Add,
    Concat,
    Graph,
    MaxPool,
    Node,
    Opaque,
    Pad,
    Ref,
    Slice,
    Upsample,
    Value,
)
from slr_det.runtime.structs import Activation

_aten = torch.ops.aten
# Copies and aliases: in a graph in which nothing is changed, they are the value itself.
_SAME = {_aten.alias.default, _aten.detach.default, _aten.clone.default, _aten.lift_fresh.default}

_STRIDED = {_aten.as_strided.default, _aten.as_strided_.default}


def lower(module: fx.GraphModule, names: list[str], tensors: list[Tensor]) -> Graph:
    """Read a traced module whose first inputs are the model's parameters and buffers.

    Args:
        module: A functional trace, as ``make_fx`` gives it.
        names: The model's names of the first inputs.
        tensors: Their values.

    Raises:
        RuntimeRefusedError: The model writes into its inputs, parameters or buffers when it runs.
    """
    return _Lowering(module, names, tensors).run()


class _Lowering:
    def __init__(self, module: fx.GraphModule, names: list[str], tensors: list[Tensor]) -> None:
        self.module, self.names, self.tensors = module, names, tensors
        self.constants: dict[str, Tensor] = {}
        self.layer_of: dict[str, str] = {}  # the first parameter that a constant is made from
        self.alias: dict[str, str] = {}
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []

    def run(self) -> Graph:
        inputs: list[str] = []
        outputs: tuple[Any, ...] = ()
        for index, node in enumerate(self.module.graph.nodes):
            if node.op == "placeholder" and index < len(self.names):
                self.constants[node.name] = self.tensors[index]
                self.layer_of[node.name] = self.names[index]
            elif node.op == "placeholder":
                inputs.append(node.name)
                self._note_value(node)
            elif node.op == "get_attr":
                self.constants[node.name] = operator.attrgetter(node.target)(self.module)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                outputs = tuple(self._refs(item) for item in node.args[0])
        graph = Graph(tuple(inputs), outputs, self.nodes, self.values, self.constants)
        graph.drop_unread()
        return graph

    def _call(self, node: fx.Node) -> None:
        target: Any = node.target
        parents = node.all_input_nodes
        same = bool(parents) and (target in _SAME or _is_restride(node))
        if not same:
            _refuse_memory(target)
        if all(parent.name in self.constants for parent in parents) and _is_deterministic(target):
            self._fold(node)
            return
        if same:
            self.alias[node.name] = self.name(parents[0])
            self.values[node.name] = self.values[self.name(parents[0])]
            return
        self._note_value(node)
        opaque = self.opaque(node)
        reader = _READERS.get(target)
        known = reader(self, node, opaque) if reader is not None else None
        self.nodes.append(known if known is not None else opaque)

    def opaque(self, node: fx.Node) -> Opaque:
        """An operation as it is."""
        parents = node.all_input_nodes
        target: Any = node.target
        return Opaque(
            out=node.name,
            inputs=tuple(self.name(parent) for parent in parents),
            op=target,
            args=tuple(self._refs(item) for item in node.args),
            kwargs={key: self._refs(item) for key, item in node.kwargs.items()},
            layer=next((self.layer_of[p.name] for p in parents if p.name in self.layer_of), ""),
        )

    def _fold(self, node: fx.Node) -> None:
        values = fx.node.map_arg((node.args, node.kwargs), lambda parent: self.constants[parent.name])
        args, kwargs = values
        with torch.no_grad():
            self.constants[node.name] = node.target(*args, **kwargs)  # type: ignore[operator]
        for parent in node.all_input_nodes:
            if parent.name in self.layer_of:
                self.layer_of.setdefault(node.name, self.layer_of[parent.name])

    def _note_value(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            self.values[node.name] = Value(tuple(int(size) for size in value.shape), value.dtype)

    def name(self, node: fx.Node) -> str:
        return self.alias.get(node.name, node.name)

    def _refs(self, item: Any) -> Any:
        """Arguments with references in place of the trace's nodes; lists stay lists."""
        if isinstance(item, fx.Node):
            return Ref(self.name(item))
        if isinstance(item, (list, tuple)):
            return [self._refs(part) for part in item]
        return item

    # -- what readers ask -----------------------------------------------------------------------------

    def constant(self, item: Any) -> Tensor | None:
        """The tensor behind an argument that is the same for all inputs; None for any other."""
        return self.constants.get(item.name) if isinstance(item, fx.Node) else None

    def image(self, item: Any) -> bool:
        """Whether an argument is an image that depends on the inputs."""
        if not isinstance(item, fx.Node) or item.name in self.constants:
            return False
        value = self.values.get(self.name(item))
        return value is not None and value.is_image

    def layer(self, item: Any) -> str:
        """Name of the parameter that a constant is or was made from."""
        return self.layer_of.get(item.name, item.name) if isinstance(item, fx.Node) else ""


def _refuse_memory(target: Any) -> None:
    """Refuse operations that write into what they get, or that read it as memory: layouts here are others."""
    schema = getattr(target, "_schema", None)
    if target is operator.getitem:
        return
    if schema is None or target in _STRIDED:
        raise RuntimeRefusedError(
            f"the model uses {target}, which the sparse runtime cannot follow; it runs in torch"
        )
    if schema.is_mutable:
        raise RuntimeRefusedError(
            f"the model changes its inputs or its own state ({target}); it runs in torch"
        )


def _is_restride(node: fx.Node) -> bool:
    """Whether an operation only names other strides for dimensions of size 1, which have none."""
    if node.target not in _STRIDED or not isinstance(node.args[0], fx.Node) or len(node.args) != 3:
        return False
    before: Any = node.args[0].meta.get("val")
    size, strides = _arguments(node)[1:]
    if not isinstance(before, Tensor) or tuple(before.shape) != tuple(size):
        return False
    return all(
        length == 1 or old == new for length, old, new in zip(size, before.stride(), strides, strict=True)
    )


def _is_deterministic(target: Any) -> bool:
    tags = getattr(target, "tags", ())
    return torch.Tag.nondeterministic_seeded not in tags


# -- one reader per operation: it returns None where the runtime does not have this form of it ----------------


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    return node.args


def _argument(node: fx.Node, place: int, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else default


def _conv(low: _Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
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


def _linear(low: _Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
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


def _norm(low: _Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
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


def _first_of(low: _Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
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


def _piece(low: _Lowering, node: fx.Node, source: str, start: int) -> Slice:
    arguments = (Ref(source), 1, start, low.values[node.name].shape[1])
    original = Opaque(out=node.name, inputs=(source,), op=torch.narrow, args=arguments)
    return Slice(out=node.name, inputs=(source,), start=start, original=original)


def _max_pool(low: _Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
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


def _upsample(low: _Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    if not low.image(node.args[0]):
        return None
    (height, width), (high, wide) = low.values[opaque.inputs[0]].shape[2:], low.values[node.name].shape[2:]
    if high % height or wide % width:
        return None
    return Upsample(out=node.name, inputs=opaque.inputs)


def _add(low: _Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    a, b = _arguments(node)[:2]
    plain = node.kwargs.get("alpha", 1) == 1 and low.image(a) and low.image(b)
    if not plain or low.values[low.name(a)].shape != low.values[low.name(b)].shape:
        return None
    return Add(out=node.name, inputs=(low.name(a), low.name(b)))


def _cat(low: _Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    parts: Any = node.args[0]
    if _argument(node, 1, 0) not in (1, -3) or not all(low.image(part) for part in parts):
        return None
    return Concat(out=node.name, inputs=tuple(low.name(part) for part in parts), original=opaque)


def _slice(low: _Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    source, dim, start = node.args[0], _argument(node, 1, 0), _argument(node, 2, None)
    if not low.image(source) or dim not in (1, -3) or _argument(node, 4, 1) != 1:
        return None
    channels = low.values[opaque.inputs[0]].shape[1]
    begin = start if isinstance(start, int) else 0
    return _piece(low, node, opaque.inputs[0], max(begin + channels, 0) if begin < 0 else begin)


def _pad(low: _Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    sizes = list(_arguments(node)[1])
    sizes += [0] * (4 - len(sizes))
    zero = _argument(node, 2, 0) == 0
    if not low.image(node.args[0]) or not zero or any(sizes[4:]) or min(sizes) < 0:
        return None
    left, right, top, bottom = sizes[:4]
    return Pad(out=node.name, inputs=opaque.inputs, left=left, right=right, top=top, bottom=bottom)


def _activation(kind: Activation) -> Callable[[_Lowering, fx.Node, Opaque], Node | None]:
    def read(low: _Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
        slope = float(_argument(node, 1, 0.01)) if kind == Activation.LEAKY_RELU else 0.0
        return Activate(out=node.name, inputs=opaque.inputs, activation=kind, slope=slope, original=opaque)

    return read


def _product(low: _Lowering, node: fx.Node, opaque: Opaque) -> Node | None:
    """``x * sigmoid(x)`` is a SiLU."""
    one, other = _arguments(node)[:2]
    for x, gate in ((one, other), (other, one)):
        is_gate = isinstance(gate, fx.Node) and gate.target is _aten.sigmoid.default
        if is_gate and isinstance(x, fx.Node) and low.name(_arguments(gate)[0]) == low.name(x):
            source, kind = (low.name(x),), Activation.SILU
            return Activate(out=node.name, inputs=source, activation=kind, slope=0.0, original=opaque)
    return None


_Reader = Callable[[_Lowering, fx.Node, Opaque], Node | None]
_FIRST: dict[Any, _Reader] = {
    _aten.native_batch_norm.default: _norm,
    _aten._native_batch_norm_legit_no_training.default: _norm,
    _aten.max_pool2d_with_indices.default: _max_pool,
}
_READERS: dict[Any, _Reader] = {
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

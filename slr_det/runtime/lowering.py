"""A trace in torch's basic operations becomes a graph: operations that are known by name, all others as they are.

What depends on parameters and constants alone is computed here, once.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from slr_det.errors import RuntimeRefusedError
from slr_det.runtime.graph import Graph, Node, Opaque, Ref, Value
from slr_det.runtime.readers import READERS

_aten = torch.ops.aten
# Copies and aliases: in a graph in which nothing is changed, they are the value itself.
_SAME = {_aten.alias.default, _aten.detach.default, _aten.clone.default, _aten.lift_fresh.default}
# What sees memory instead of numbers.
_STRIDED = {_aten.as_strided.default, _aten.as_strided_.default}


def lower(module: fx.GraphModule, names: list[str], tensors: list[Tensor]) -> Graph:
    """Read a traced module whose first inputs are the model's parameters and buffers.

    Args:
        module: A functional trace, as ``make_fx`` gives it.
        names: The model's names of the first inputs.
        tensors: Their values.

    Raises:
        RuntimeRefusedError: The model writes into its inputs, parameters or buffers when it runs, or the sizes of what
            it computes depend on the numbers.
    """
    return Lowering(module, names, tensors).run()


class Lowering:
    """What is known of a trace while it is read; the arguments are those of :func:`lower`."""

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
        self._refuse_sizes(node)
        if same:
            self.alias[node.name] = self.name(parents[0])
            self.values[node.name] = self.values[self.name(parents[0])]
            return
        self._note_value(node)
        opaque = self.opaque(node)
        reader = READERS.get(target)
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

    def _refuse_sizes(self, node: fx.Node) -> None:
        """Refuse operations whose result has a size that depends on numbers: memory is planned for one size."""
        target: Any = node.target
        if torch.Tag.dynamic_output_shape not in getattr(target, "tags", ()):
            return
        if target is _aten.index.Tensor:
            places = [part.meta.get("val") for part in node.all_input_nodes[1:]]
            if not any(isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8) for t in places):
                return
        raise RuntimeRefusedError(
            f"the sizes of what the model computes depend on its input's numbers ({target}); it runs in torch"
        )

    def name(self, node: fx.Node) -> str:
        """The value that a node of the trace stands for."""
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
            "the model changes its inputs or its own state, or writes in place where that cannot be followed "
            f"({target}); it runs in torch"
        )


def _is_restride(node: fx.Node) -> bool:
    """Whether an operation only names other strides for dimensions of size 1, which have none."""
    if node.target not in _STRIDED or not isinstance(node.args[0], fx.Node) or len(node.args) != 3:
        return False
    before: Any = node.args[0].meta.get("val")
    size: Any = node.args[1]
    strides: Any = node.args[2]
    if not isinstance(before, Tensor) or tuple(before.shape) != tuple(size):
        return False
    return all(
        length == 1 or old == new for length, old, new in zip(size, before.stride(), strides, strict=True)
    )


def _is_deterministic(target: Any) -> bool:
    tags = getattr(target, "tags", ())
    return torch.Tag.nondeterministic_seeded not in tags

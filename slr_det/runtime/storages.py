"""Which memory each value lies in: its own, or a part of another one's, and what margins that needs.

Values that are pieces of others (slices of channels, the parts of a concatenation, a picture with zeros around it)
share their memory: whoever writes them writes straight where they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from slr_det.runtime.fusing import NATIVE
from slr_det.runtime.graph import (
    Activate,
    Add,
    Concat,
    Conv,
    Graph,
    Linear,
    Node,
    Opaque,
    Pad,
    Pointwise,
    Ref,
    Slice,
)

Margins = tuple[int, int]


@dataclass
class Storages:
    """Where values lie, before any number of bytes is known.

    Attributes:
        loose: Values that lie where torch put them, without margins: inputs, and what it computes.
        part_of: The value whose memory holds another one.
        offset: First channel in that memory; only of parts of a concatenation and of slices.
        copied: Inputs of a concatenation, by its name and place, that have to be copied there.
        copied_pads: Paddings whose input has to be copied into theirs.
        margins: Zeros that a value with its own memory needs around it: rows above and below, columns at each side.
        fresh: Values with own memory that are outputs and nothing else, and are made anew for each run.
        plain: Values with own memory that torch reads and nobody needs margins of: they are contiguous.
        classes: Values with own memory, each with one that stands for all whose rows should be equally long.
    """

    loose: set[str] = field(default_factory=set)
    part_of: dict[str, str] = field(default_factory=dict)
    offset: dict[str, int] = field(default_factory=dict)
    copied: set[tuple[str, int]] = field(default_factory=set)
    copied_pads: set[str] = field(default_factory=set)
    margins: dict[str, Margins] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)
    plain: set[str] = field(default_factory=set)
    classes: dict[str, str] = field(default_factory=dict)

    def root(self, name: str) -> str:
        """The value whose own memory holds this one; loose values hold themselves."""
        while name in self.part_of:
            name = self.part_of[name]
        return name

    def class_of(self, name: str) -> str:
        """The value that stands for all with equally long rows."""
        while self.classes.get(name, name) != name:
            name = self.classes[name]
        return name


def conv_margins(graph: Graph, conv: Conv) -> Margins:
    """Zeros that a convolution wants around its input: rows above and below, columns at each side.

    With a stride above 1 the library sorts its input into memory of its own first, and needs none.
    """
    if conv.transposed or conv.stride != (1, 1):
        return (0, 0)
    inside, outside = graph.values[conv.inputs[0]].shape[2:], graph.values[conv.out].shape[2:]
    needs = []
    for axis in (0, 1):
        size = outside[axis] * 2 if conv.pool else outside[axis]
        reach = (conv.kernel[axis] - 1) * conv.dilation[axis] - conv.padding[axis]
        needs.append(max(0, conv.padding[axis], size - 1 + reach - (inside[axis] - 1)))
    return (needs[0], needs[1])


def place(graph: Graph, dense: Mapping[str, bool]) -> Storages:
    """Find the memory of every value.

    Args:
        graph: The graph.
        dense: Whether torch runs a layer, by its output.
    """
    result = Storages()
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    outputs = {item.name for item in graph.outputs if isinstance(item, Ref)}

    def by_torch(node: Node) -> bool:
        return isinstance(node, (Opaque, Linear)) or dense.get(node.out, False)

    _find_loose(graph, result, readers, dense)
    _share(graph, result)
    _need_margins(graph, result, dense)
    own = [
        node.out for node in graph.nodes if node.out not in result.part_of and node.out not in result.loose
    ]
    parts: dict[str, set[str]] = {}
    for name in graph.values:
        parts.setdefault(result.root(name), set()).add(name)
    for name in own:
        inside = parts.get(name, {name})
        read_by = [node for part in inside for node in readers.get(part, []) if node.out not in inside]
        # The zeros of a copied padding are those that its memory began with.
        if result.margins.get(name, (0, 0)) == (0, 0) and name not in result.copied_pads:
            if name in outputs and all(isinstance(node, Opaque) for node in read_by):
                result.fresh.add(name)
            if name in outputs or any(by_torch(node) for node in read_by):
                result.plain.add(name)
    _equal_rows(graph, result, set(own))
    return result


def _find_loose(
    graph: Graph, result: Storages, readers: dict[str, list[Node]], dense: Mapping[str, bool]
) -> None:
    """Inputs, constants, what torch computes; a dense layer's result too where only torch reads it."""
    result.loose.update(graph.inputs)
    result.loose.update(graph.constants)
    for node in reversed(graph.nodes):
        if isinstance(node, Opaque):
            result.loose.add(node.out)
        elif dense.get(node.out, False) and not (isinstance(node, Conv) and node.pool):
            reads = list(readers.get(node.out, []))
            while len(reads) == 1 and isinstance(reads[0], Pointwise):
                reads = list(readers.get(reads[0].out, []))
            if all(isinstance(read, Opaque) or dense.get(read.out, False) for read in reads):
                result.loose.add(node.out)


def _share(graph: Graph, result: Storages) -> None:
    makers = graph.makers()
    for node in reversed(graph.nodes):
        if isinstance(node, Concat):
            _take_in(graph, result, node, makers)
    for node in reversed(graph.nodes):
        if isinstance(node, Pointwise):
            # What is a part of a concatenation in its last form is one before.
            before = node.inputs[0]
            if node.out in result.part_of:
                result.part_of[before], result.offset[before] = (
                    result.part_of[node.out],
                    result.offset[node.out],
                )
            result.part_of[node.out], result.offset[node.out] = before, 0
        elif isinstance(node, Slice):
            result.part_of[node.out], result.offset[node.out] = node.inputs[0], node.start
    for node in graph.nodes:
        if isinstance(node, Pad) and result.root(node.inputs[0]) in result.loose:
            result.copied_pads.add(node.out)
        elif isinstance(node, Pad):
            result.part_of[node.out], result.offset[node.out] = node.inputs[0], 0


def _take_in(graph: Graph, result: Storages, node: Concat, makers: dict[str, Node]) -> None:
    """Let the parts of a concatenation be written where it is, or find it within a longer one that has them all."""
    wholes = {result.part_of.get(name) for name in node.inputs}
    begins = [result.offset.get(name, 0) for name in node.inputs]
    ends = [begin + graph.values[name].shape[1] for begin, name in zip(begins, node.inputs, strict=True)]
    whole = wholes.pop() if len(wholes) == 1 else None
    if whole is not None and isinstance(makers.get(whole), Concat) and ends[:-1] == begins[1:]:
        result.part_of[node.out], result.offset[node.out] = whole, begins[0]
        return
    channel = 0
    for place_, name in enumerate(node.inputs):
        maker = makers.get(name)
        base = maker
        while isinstance(base, Pointwise):
            base = makers.get(base.inputs[0])
        free = isinstance(maker, NATIVE) and base is not None and not isinstance(base, (Slice, Pad))
        loose = name in result.loose or (base is not None and base.out in result.loose)
        if free and not loose and name not in result.part_of and node.inputs.count(name) == 1:
            result.part_of[name], result.offset[name] = node.out, channel
        else:
            result.copied.add((node.out, place_))
        channel += graph.values[name].shape[1]


def _need_margins(graph: Graph, result: Storages, dense: Mapping[str, bool]) -> None:
    needs: dict[str, Margins] = {}

    def need(name: str, above: int, left: int) -> None:
        old = needs.get(name, (0, 0))
        needs[name] = (max(old[0], above), max(old[1], left))

    for node in reversed(graph.nodes):
        if isinstance(node, Conv) and not dense.get(node.out, False):
            need(node.inputs[0], *conv_margins(graph, node))
        elif isinstance(node, Pad):
            # The columns at the right of a row are those at the left of the next one.
            above, left = needs.get(node.out, (0, 0))
            if node.out not in result.copied_pads:
                need(node.inputs[0], above + max(node.top, node.bottom), left + node.left + node.right)
        elif isinstance(node, (Slice, Pointwise)):
            need(node.inputs[0], *needs.get(node.out, (0, 0)))
    for name, (above, left) in needs.items():
        root = result.root(name)
        if root not in result.loose:
            old = result.margins.get(root, (0, 0))
            result.margins[root] = (max(old[0], above), max(old[1], left))


def _equal_rows(graph: Graph, result: Storages, own: set[str]) -> None:
    """Values that are read and written by one operation get equal rows, and the largest margins among them."""

    def unite(a: str, b: str) -> None:
        first, second = result.class_of(result.root(a)), result.class_of(result.root(b))
        same = graph.values[first].shape[2:] == graph.values[second].shape[2:]
        if {first, second} <= own and same and not {first, second} & result.plain:
            result.classes[second] = first
            (up, left), (other_up, other_left) = (result.margins.get(n, (0, 0)) for n in (first, second))
            result.margins[first] = (max(up, other_up), max(left, other_left))

    for node in graph.nodes:
        if isinstance(node, (Conv, Add, Activate)) and not (isinstance(node, Conv) and node.pool):
            for name in node.inputs:
                unite(name, node.out)

"""Where everything lies in memory: layouts with margins, and as little memory as the order of operations allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from slr_det.runtime.graph import Conv, Graph, Linear, Node, Opaque, Pad, Ref
from slr_det.runtime.storages import Storages, place
from slr_det.runtime.structs import SLACK, Layout

_LINE = 16  # floats of a cache line


@dataclass(frozen=True)
class Place:
    """Where a value lies: by the address of a storage, in a layout. Values that are no images have no layout."""

    storage: int
    layout: Layout | None


@dataclass(frozen=True)
class Plan:
    """A graph's memory.

    Attributes:
        graph: The graph.
        dense: Outputs of the layers that torch runs.
        storages: How values share memory.
        places: Of every value that something native writes or reads.
        storage_of: Number of the storage of each value with its own memory, loose ones included.
        slot_of: The block of memory of a storage; fresh and loose storages have none.
        slots: Floats of each block, the slack behind it included. All start as zeros, which margins stay.
    """

    graph: Graph
    dense: frozenset[str]
    storages: Storages
    places: dict[str, Place]
    storage_of: dict[str, int]
    slot_of: dict[int, int]
    slots: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Memory for what lies between layers."""
        return 4 * sum(self.slots)


def make_plan(graph: Graph, dense: Mapping[str, bool]) -> Plan:
    """Plan a graph's memory.

    Args:
        graph: The graph.
        dense: Whether torch runs a layer, by the layer's output; layers that are missing run in the runtime.
    """
    storages = place(graph, dense)
    storage_of = {
        name: index
        for index, name in enumerate(
            [*graph.inputs, *graph.constants, *(n.out for n in graph.nodes if n.out not in storages.part_of)]
        )
    }
    layouts: dict[str, Layout] = {}
    for name in storage_of:
        layouts.update(_own_layout(graph, storages, name))
    places: dict[str, Place] = {}
    makers = graph.makers()
    for name, value in graph.values.items():
        root = storages.root(name)
        if root in storage_of:
            layout = _layout(graph, storages, layouts, makers, name) if value.is_image else None
            places[name] = Place(storage_of[root], layout)
    slot_of, slots = _share_memory(graph, storages, storage_of, layouts)
    return Plan(
        graph=graph,
        dense=frozenset(name for name, by_torch in dense.items() if by_torch),
        storages=storages,
        places=places,
        storage_of=storage_of,
        slot_of=slot_of,
        slots=tuple(slots),
    )


def padded(images: int, channels: int, height: int, width: int, above: int, left: int) -> Layout:
    """A layout with margins, whose planes start in all sets of a cache.

    A sparse sum reads the same place of many planes: were they a power of two apart, all of them would compete for the
    same few lines of the first cache. An odd number of lines apart, they use all of it.
    """
    row = width + left
    lines = -(-((height + 2 * above) * row + left) // _LINE) | 1
    plane = lines * _LINE
    return Layout(
        images, channels, height, width, above * row + left, channels * plane, plane, row, above, left
    )


def inner(layout: Layout, pad: Pad) -> Layout:
    """The picture within a padded one, as if it had no margins: what is written there leaves the zeros around it."""
    return Layout(
        layout.images,
        layout.channels,
        layout.height - pad.top - pad.bottom,
        layout.width - pad.left - pad.right,
        layout.origin + pad.top * layout.row + pad.left,
        layout.image,
        layout.plane,
        layout.row,
        0,
        0,
    )


def zeros(floats: int) -> Tensor:
    """Memory for the library, which takes it for float32 whatever torch's defaults are just now."""
    return torch.zeros(floats, dtype=torch.float32, device="cpu")


def view_of(memory: Tensor, layout: Layout) -> Tensor:
    """The image in some memory, as a tensor (images, channels, height, width)."""
    shape = (layout.images, layout.channels, layout.height, layout.width)
    strides = (layout.image, layout.plane, layout.row, 1)
    return memory.as_strided(shape, strides, int(memory.storage_offset()) + layout.origin)


def _own_layout(graph: Graph, storages: Storages, name: str) -> dict[str, Layout]:
    value = graph.values.get(name)
    if value is None or not value.is_image:
        return {}
    images, channels, height, width = value.shape
    if name in storages.loose or name in storages.plain:
        return {name: Layout.contiguous(images, channels, height, width)}
    above, left = storages.margins.get(storages.class_of(name), (0, 0))
    return {name: padded(images, channels, height, width, above, left)}


def _layout(
    graph: Graph, storages: Storages, layouts: dict[str, Layout], makers: dict[str, Node], name: str
) -> Layout:
    """The layout of a value, through all that it is a part of."""
    if name in layouts:
        return layouts[name]
    whole = _layout(graph, storages, layouts, makers, storages.part_of[name])
    images, channels, height, width = graph.values[name].shape
    node = makers.get(name)
    origin, above, left = whole.origin + storages.offset[name] * whole.plane, whole.above, whole.left
    if isinstance(node, Pad):
        origin -= node.top * whole.row + node.left
        above, left = above - max(node.top, node.bottom), left - node.left - node.right
    layout = Layout(images, channels, height, width, origin, whole.image, whole.plane, whole.row, above, left)
    layouts[name] = layout
    return layout


def _share_memory(
    graph: Graph, storages: Storages, storage_of: dict[str, int], layouts: dict[str, Layout]
) -> tuple[dict[int, int], list[int]]:
    """Give each storage a block of memory, one that is free again where there is one.

    Only images of one geometry share a block, so that their margins are the same and stay zeros; contiguous values
    share with all others of their kind.
    """
    born, dies = _lifetimes(graph, storages)
    slot_of: dict[int, int] = {}
    slots: list[int] = []
    free: dict[tuple[int | str, ...], list[int]] = {}
    ending: dict[int, list[str]] = {}
    for name, step in dies.items():
        ending.setdefault(step, []).append(name)
    kinds: dict[str, tuple[int | str, ...]] = {}
    for step in range(len(graph.nodes)):
        for name in (n for n in born.get(step, ()) if n not in storages.loose and n not in storages.fresh):
            kind, size = _kind(graph, layouts, storages, name)
            kinds[name] = kind
            candidates = free.get(kind, [])
            # The smallest that is large enough, or else the largest, which grows.
            best = min(candidates, key=lambda s: (slots[s] < size, abs(slots[s] - size)), default=None)
            if best is None:
                best = len(slots)
                slots.append(size)
            else:
                candidates.remove(best)
                slots[best] = max(slots[best], size)
            slot_of[storage_of[name]] = best
        for name in ending.get(step, ()):
            if name in kinds:
                free.setdefault(kinds[name], []).append(slot_of[storage_of[name]])
    return slot_of, slots


def _kind(
    graph: Graph, layouts: dict[str, Layout], storages: Storages, name: str
) -> tuple[tuple[int | str, ...], int]:
    shape = graph.values[name].shape
    layout = layouts.get(name)
    if layout is None or name in storages.plain:
        size = 1
        for length in shape:
            size *= length
        return (), size + SLACK
    kind: tuple[int | str, ...] = (
        layout.height,
        layout.width,
        layout.plane,
        layout.row,
        layout.above,
        layout.left,
    )
    if name in storages.copied_pads:
        kind = (name,)  # its own: others would write where its zeros are
    return kind, layout.images * layout.image + layout.left + SLACK


def _lifetimes(graph: Graph, storages: Storages) -> tuple[dict[int, list[str]], dict[str, int]]:
    """The values with own memory that are first written at each step, and the last step that reads each.

    What torch makes of a value may be a view of it, so that it lives as long as everything that torch makes of it.
    """
    born: dict[int, list[str]] = {}
    dies: dict[str, int] = {}
    behind: dict[str, set[str]] = {}

    def read(name: str, step: int) -> set[str]:
        roots = behind.get(name, set()) | {storages.root(name)}
        for root in roots:
            dies[root] = step
        return roots

    seen: set[str] = set()
    for step, node in enumerate(graph.nodes):
        roots = {root for name in node.inputs for root in read(name, step)}
        own = storages.root(node.out)
        if own not in seen:
            seen.add(own)
            born.setdefault(step, []).append(own)
        dies[own] = step
        if isinstance(node, Opaque) and may_alias(node):
            behind[node.out] = roots
        elif isinstance(node, (Conv, Linear)):
            behind[node.out] = set()
    for item in graph.outputs:
        if isinstance(item, Ref):
            read(item.name, len(graph.nodes))
    return born, dies


def may_alias(node: Opaque) -> bool:
    """Whether the result of an operation of torch may lie in the memory of its input."""
    schema = getattr(node.op, "_schema", None)
    if schema is None or "view" in str(node.op) or "reshape" in str(node.op):
        return True
    return any(result.alias_info is not None for result in schema.returns)

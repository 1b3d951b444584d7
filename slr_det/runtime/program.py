"""Runs a plan: the library's operations on addresses, all others in torch on views of the same memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slr_det.runtime import steps
from slr_det.runtime.graph import Conv, Graph, Linear, Node, Opaque, Pad, Pointwise, Ref, Slice
from slr_det.runtime.handles import Pool
from slr_det.runtime.library import Library
from slr_det.runtime.plan import Place, Plan, may_alias, view_of, zeros
from slr_det.runtime.steps import Environment, Step
from slr_det.runtime.structs import SLACK, Layout

_aten = torch.ops.aten
#: What torch had better do on all threads.
_HEAVY = frozenset(
    op.default
    for op in (
        _aten.convolution,
        _aten.mm,
        _aten.addmm,
        _aten.bmm,
        _aten.baddbmm,
        _aten._scaled_dot_product_flash_attention_for_cpu,
    )
)


@dataclass(frozen=True)
class ImagePlace:
    """The storage and layout of an image."""

    storage: int
    layout: Layout


class Program:
    """A graph that is ready to run on inputs of its shapes. Runs on one lock wait for each other.

    Args:
        graph: The graph.
        plan: Its memory.
        library: What computes.
        pool: Its threads, or None for the caller alone.
        lock: Held by a run: programs that share a pool share it.

    Raises:
        RuntimeRefusedError: The library cannot do a layer in these layouts.

    Attributes:
        plan: The memory.
        packed_bytes: What the packed weights take.
        addresses: Of each storage, while the program runs.
    """

    def __init__(
        self, graph: Graph, plan: Plan, library: Library, pool: Pool | None, lock: threading.Lock
    ) -> None:
        self.graph, self.plan, self.library, self.pool = graph, plan, library, pool
        self.packed_bytes = 0
        self.addresses: list[int] = [0] * len(plan.storage_of)
        self.workspace: int | None = None
        self._workspace_size = 0
        self._lock = lock
        self._slots = [zeros(size) for size in plan.slots]
        self._more: list[Tensor] = []
        for storage, slot in plan.slot_of.items():
            self.addresses[storage] = self._slots[slot].data_ptr()
        self._static: Environment = dict(graph.constants)
        self._torch_reads = self._read_by_torch()
        self._static.update(self._views())
        self._native_reads = self._read_natively()
        self._fresh = [
            (name, graph.values[name].shape, plan.storage_of[name]) for name in sorted(plan.storages.fresh)
        ]
        with torch.no_grad():
            self._steps = [step for node in graph.nodes for step in self._steps_of(node)]
        if self._workspace_size:
            block = zeros(self._workspace_size + SLACK)
            self._more.append(block)
            self.workspace = block.data_ptr()
        heavy = any(isinstance(node, Opaque) and node.op in _HEAVY for node in graph.nodes)
        passive = os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
        self._torch_alone = not (heavy or plan.dense or passive)
        kept = [*self._slots, *self._more, *graph.constants.values()]
        self._mine = {tensor.untyped_storage().data_ptr() for tensor in kept}

    @property
    def bytes(self) -> int:
        """Memory of packed weights, of what lies between layers, and of the workspace."""
        return self.packed_bytes + sum(4 * tensor.numel() for tensor in (*self._slots, *self._more))

    def run(self, inputs: tuple[Tensor, ...]) -> list[Any]:
        """The graph's flat outputs; new tensors, which nobody else writes.

        Args:
            inputs: Contiguous tensors on the CPU, of the graph's shapes and types.
        """
        with self._lock, torch.no_grad(), self._torch_threads():
            env = dict(self._static)
            addresses, storage_of = self.addresses, self.plan.storage_of
            for name, tensor in zip(self.graph.inputs, inputs, strict=True):
                env[name] = tensor
                addresses[storage_of[name]] = tensor.data_ptr()
            for name, shape, storage in self._fresh:
                tensor = torch.empty(shape, dtype=torch.float32, device="cpu")
                env[name] = tensor
                addresses[storage] = tensor.data_ptr()
            for step in self._steps:
                step(env)
            theirs = {tensor.untyped_storage().data_ptr() for tensor in inputs}
            done: dict[str, Any] = {}
            return [self._output(item, env, theirs, done) for item in self.graph.outputs]

    @contextmanager
    def _torch_threads(self) -> Iterator[None]:
        """Keep torch to one thread where it does small things only.

        The threads of its OpenMP spin for milliseconds after each operation that used them, on the cores that ours
        need for the next layer: that made a network of 4 ms take 10. With OMP_WAIT_POLICY=passive they sleep.
        """
        before = torch.get_num_threads()
        if before == 1 or self.pool is None or not self._torch_alone:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    # -- for the steps ------------------------------------------------------------------------------------

    def image(self, name: str) -> ImagePlace:
        """Where an image lies."""
        place = self.plan.places[name]
        if place.layout is None:
            raise TypeError(f"{name} is no image")
        return ImagePlace(place.storage, place.layout)

    def own(self, floats: int) -> int:
        """A further storage of so many floats."""
        block = zeros(floats)
        self._more.append(block)
        self.addresses.append(block.data_ptr())
        return len(self.addresses) - 1

    def need_workspace(self, floats: int) -> None:
        """Make the workspace at least so large."""
        self._workspace_size = max(self._workspace_size, floats)

    # -- putting together ---------------------------------------------------------------------------------

    def _by_torch(self, node: Node) -> bool:
        return isinstance(node, Opaque) or node.out in self.plan.dense

    def _read_by_torch(self) -> set[str]:
        reads = {name for node in self.graph.nodes if self._by_torch(node) for name in node.inputs}
        pointwise = {name for node in self.graph.nodes if isinstance(node, Pointwise) for name in node.inputs}
        dense_linear = {node.out for node in self.graph.nodes if isinstance(node, Linear)}
        return reads | pointwise | dense_linear

    def _views(self) -> Environment:
        """Tensors on the memory of values that torch reads, where that memory is always the same."""
        views: Environment = {}
        for name in self._torch_reads:
            place = self.plan.places.get(name)
            if place is not None and place.storage in self.plan.slot_of:
                slot = self._slots[self.plan.slot_of[place.storage]]
                views[name] = _view(slot, place, self.graph.values[name].shape)
        return views

    def _read_natively(self) -> set[str]:
        """Loose values whose address is needed."""
        root, loose = self.plan.storages.root, self.plan.storages.loose
        found: set[str] = set()
        for node in self.graph.nodes:
            if not self._by_torch(node):
                found.update(root(name) for name in node.inputs)
        return found & loose

    def _steps_of(self, node: Node) -> list[Step]:
        dense = node.out in self.plan.dense
        if isinstance(node, Opaque):
            made = self._opaque(node)
        elif isinstance(node, Conv):
            made = steps.torch_conv(self, node) if dense else steps.sparse_conv(self, node)
        elif isinstance(node, Linear):
            made = steps.torch_linear(self, node) if dense else steps.sparse_linear(self, node)
        elif isinstance(node, Slice):
            made = []
        else:
            made = steps.plain_step(self, node)
        if isinstance(node, (Slice, Pad)) and node.out in self._torch_reads and node.out not in self._static:
            made.append(self._moving_view(node.out))
        if node.out in self._native_reads and node.out not in self._static:
            made.append(self._land(node.out))
        return made

    def _opaque(self, node: Opaque) -> list[Step]:
        """Nothing where the result is always the same view of the same memory."""
        if may_alias(node) and all(name in self._static for name in node.inputs):
            result = steps.opaque_call(node)(self._static)
            parts = result if isinstance(result, (tuple, list)) else (result,)
            memory = {slot.untyped_storage().data_ptr() for slot in self._slots}
            if all(
                isinstance(part, Tensor) and part.untyped_storage().data_ptr() in memory for part in parts
            ):
                self._static[node.out] = result
                if node.out in self._native_reads:
                    return self._land_static(node.out)
                return []
        return [steps.opaque_step(node)]

    def _land_static(self, name: str) -> list[Step]:
        if self._static[name].is_contiguous():
            self.addresses[self.plan.storage_of[name]] = self._static[name].data_ptr()
            return []
        return [self._land(name)]

    def _land(self, name: str) -> Step:
        """Make a tensor's memory readable for the library."""
        storage, addresses = self.plan.storage_of[name], self.addresses

        def step(env: Environment) -> None:
            tensor = env[name]
            if not tensor.is_contiguous():
                tensor = env[name] = tensor.contiguous()
            addresses[storage] = tensor.data_ptr()

        return step

    def _moving_view(self, name: str) -> Step:
        """A tensor on a part of memory that is another one in each run."""
        place, shape, root = (
            self.plan.places[name],
            self.graph.values[name].shape,
            self.plan.storages.root(name),
        )

        def step(env: Environment) -> None:
            env[name] = _view(env[root], place, shape)

        return step

    def _output(self, item: Any, env: Environment, theirs: set[int], done: dict[str, Any]) -> Any:
        if not isinstance(item, Ref):
            return item
        if item.name not in done:
            done[item.name] = self._new(item.name, env, theirs)
        return done[item.name]

    def _new(self, name: str, env: Environment, theirs: set[int]) -> Tensor:
        place = self.plan.places.get(name)
        if place is not None and place.layout is not None and place.storage in self.plan.slot_of:
            out = torch.empty(self.graph.values[name].shape, dtype=torch.float32, device="cpu")
            target = Layout.contiguous(*out.shape)
            address = self.addresses[place.storage]
            self.library.copy(place.layout, address, target, out.data_ptr(), pool=self.pool)
            return out
        tensor: Tensor = env[name] if name in env else self._part(name, env)
        memory = tensor.untyped_storage().data_ptr()
        return tensor.clone() if memory in self._mine or memory in theirs else tensor

    def _part(self, name: str, env: Environment) -> Tensor:
        """A slice of what torch made, or of another output."""
        root = self.plan.storages.root(name)
        return _view(env[root], self.plan.places[name], self.graph.values[name].shape).clone()


def _view(memory: Tensor, place: Place, shape: tuple[int, ...]) -> Tensor:
    if place.layout is None:
        return memory.view(-1)[: torch.Size(shape).numel()].view(shape)
    return view_of(memory, place.layout)

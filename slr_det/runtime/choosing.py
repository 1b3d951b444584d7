"""Which layers run sparse: by measurement in the very layouts of the plan, or as the user says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch

from slr_det.errors import RuntimeRefusedError
from slr_det.runtime.graph import Conv, Graph, Linear
from slr_det.runtime.handles import Pool
from slr_det.runtime.library import Library
from slr_det.runtime.plan import Plan, make_plan, view_of, zeros
from slr_det.runtime.steps import activate_, conv_spec, dense_conv
from slr_det.runtime.structs import SLACK, Layout
from slr_det.runtime.table import Row, density, kind
from slr_det.runtime.tuning import Cache, Signature, choose, machine_key

#: A layer that keeps more of its weights than this is not worth measuring.
DENSEST = 0.7

#: A layer by the name of its weight, and how many with that name came before it.
Key = tuple[str, int]
Action = Callable[[], object]


@dataclass(frozen=True)
class Choices:
    """How each layer runs.

    Attributes:
        dense: Whether torch runs it.
        rows: The table.
    """

    dense: dict[Key, bool]
    rows: list[Row]

    @property
    def any_sparse(self) -> bool:
        """Whether anything runs in the runtime."""
        return not all(self.dense.values())


def layers_of(graph: Graph) -> dict[Key, Conv | Linear]:
    """Layers with weights, in the order in which they run."""
    seen: Counter[str] = Counter()
    found: dict[Key, Conv | Linear] = {}
    for node in graph.nodes:
        if isinstance(node, (Conv, Linear)):
            found[node.name, seen[node.name]] = node
            seen[node.name] += 1
    return found


def by_output(graph: Graph, dense: dict[Key, bool]) -> dict[str, bool]:
    """Choices by the output of the graph's layers; layers that were not known run dense."""
    return {layer.out: dense.get(key, True) for key, layer in layers_of(graph).items()}


def release(graph: Graph, plan: Plan) -> None:
    """Let go of the weights that are packed in a program: nothing is made from this graph any more."""
    for layer in layers_of(graph).values():
        if layer.out not in plan.dense:
            layer.weight, layer.bias = layer.weight.new_empty(0), None


def all_alike(graph: Graph, *, dense: bool, reason: str) -> Choices:
    """The same choice for every layer, without a measurement."""
    layers = layers_of(graph)
    choice = "dense" if dense else "sparse"
    rows = [_row(graph, layer, choice, None, None, reason) for layer in layers.values()]
    return Choices(dict.fromkeys(layers, dense), rows)


def measured(graph: Graph, library: Library, pool: Pool | None) -> Choices:
    """Measure every layer that may gain, each sparse and dense in turn; times are remembered in the user's cache."""
    layers = layers_of(graph)
    plan = make_plan(graph, {})
    cache = Cache(machine_key(library))
    threads = pool.threads if pool is not None else 1
    dense: dict[Key, bool] = {}
    rows: list[Row] = []
    hopeless = all(density(layer) > DENSEST for layer in layers.values())
    with torch.no_grad():
        for key, layer in layers.items():
            share = density(layer)
            # A depthwise layer has so few weights that it may gain with all of them.
            depthwise = isinstance(layer, Conv) and layer.groups > 1 and layer.weight.shape[1] == 1
            if share > DENSEST and (hopeless or not depthwise):
                dense[key] = True
                rows.append(
                    _row(graph, layer, "dense", None, None, f"keeps over {DENSEST:.0%} of its weights")
                )
                continue
            try:
                words, sparse_run, dense_run = _actions(plan, layer, library, pool)
            except RuntimeRefusedError as error:
                dense[key] = True
                rows.append(_row(graph, layer, "dense", None, None, str(error)))
                continue
            chosen = choose(Signature(words, share, threads), sparse_run, dense_run, cache)
            dense[key] = not chosen.sparse
            times = f"{chosen.dense_seconds / chosen.sparse_seconds:.2f}x as fast sparse"
            how = "remembered" if chosen.remembered else "measured"
            word = "sparse" if chosen.sparse else "dense"
            rows.append(
                _row(graph, layer, word, chosen.sparse_seconds, chosen.dense_seconds, f"{how}: {times}")
            )
    cache.save()
    return Choices(dense, rows)


def _row(
    graph: Graph, layer: Conv | Linear, choice: str, sparse: float | None, dense: float | None, reason: str
) -> Row:
    return Row(
        name=layer.name,
        kind=kind(layer),
        shape=tuple(layer.weight.shape),
        output=graph.values[layer.out].shape,
        density=density(layer),
        choice=choice,
        sparse_seconds=sparse,
        dense_seconds=dense,
        reason=reason,
    )


def _actions(
    plan: Plan, layer: Conv | Linear, library: Library, pool: Pool | None
) -> tuple[str, Action, Action]:
    """A layer's words for the cache, and a run of it alone in both ways."""
    return (
        _conv(plan, layer, library, pool) if isinstance(layer, Conv) else _linear(plan, layer, library, pool)
    )


def _conv(plan: Plan, conv: Conv, library: Library, pool: Pool | None) -> tuple[str, Action, Action]:
    begin, end = plan.places[conv.inputs[0]].layout, plan.places[conv.out].layout
    if begin is None or end is None:
        raise RuntimeRefusedError(f"{conv.name} does not work on images")
    begin, end = _alone(begin), _alone(end)
    packed = library.conv(conv_spec(conv), conv.weight, conv.bias, begin, end)
    source, target = _memory(begin), _memory(end)
    workspace = zeros(packed.info.workspace + SLACK)
    view, run = view_of(source, begin), dense_conv(conv)

    def sparse() -> None:
        packed.run(source.data_ptr(), target.data_ptr(), workspace.data_ptr(), pool)

    def dense() -> None:
        result = run(view).contiguous()
        sums = Layout.contiguous(*result.shape)
        if conv.pool:
            activate_(result, conv.activation, conv.slope)
            library.max_pool(sums, result.data_ptr(), end, target.data_ptr(), (2, 2), (2, 2), (0, 0), pool)
        else:
            library.copy(sums, result.data_ptr(), end, target.data_ptr(), conv.activation, conv.slope, pool)

    words = (
        f"{kind(conv)} {'x'.join(map(str, conv.weight.shape))} groups {conv.groups} stride {conv.stride} "
        f"padding {conv.padding} dilation {conv.dilation} activation {conv.activation.name} pool {int(conv.pool)} "
        f"from {_words(begin)} to {_words(end)}"
    )
    return words, sparse, dense


def _linear(plan: Plan, linear: Linear, library: Library, pool: Pool | None) -> tuple[str, Action, Action]:
    rows = plan.graph.values[linear.inputs[0]].shape[0]
    packed = library.linear(linear.weight, linear.bias, rows, linear.activation, linear.slope)
    inputs, outputs = linear.weight.shape[1], linear.weight.shape[0]
    source, target = (
        zeros(rows * inputs).view(rows, inputs).uniform_(),
        zeros(rows * outputs).view(rows, outputs),
    )
    workspace = zeros(packed.info.workspace + SLACK)

    def sparse() -> None:
        packed.run(source.data_ptr(), target.data_ptr(), workspace.data_ptr(), pool)

    def dense() -> None:
        result = torch.nn.functional.linear(source, linear.weight, linear.bias)
        target.copy_(activate_(result, linear.activation, linear.slope))

    words = (
        f"linear {rows} rows {'x'.join(map(str, linear.weight.shape))} activation {linear.activation.name}"
    )
    return words, sparse, dense


def _alone(layout: Layout) -> Layout:
    """A layout that begins where its memory does."""
    origin = layout.above * layout.row + layout.left
    sizes = (layout.images, layout.channels, layout.height, layout.width)
    return Layout(*sizes, origin, layout.image, layout.plane, layout.row, layout.above, layout.left)


def _memory(layout: Layout) -> torch.Tensor:
    """Memory of a layout, with random numbers where the image is."""
    memory = zeros(layout.images * layout.image + layout.origin + layout.left + SLACK)
    view_of(memory, layout).uniform_(-1.0, 1.0, generator=torch.Generator("cpu").manual_seed(0))
    return memory


def _words(layout: Layout) -> str:
    sizes = f"{layout.images}x{layout.channels}x{layout.height}x{layout.width}"
    return f"{sizes} row {layout.row} margins {layout.above} {layout.left}"

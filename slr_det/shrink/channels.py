"""Which channels of a network are one channel: what Torch-Pruning's dependency graph says, as sets of weight slices.

A filter of a residual sum is one channel with the filters it is added to, with the batch norms it passes through, and
with the input channels of every layer that reads it. Such a set goes as a whole or stays.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from slr_det.errors import ConfigError, MissingExtraError

#: One channel of one module: its name, ``out`` or ``in``, and the position.
Slot = tuple[str, str, int]

# Operations that treat channels one by one and leave their order alone, as autograd names them. Whatever is missing
# here keeps the channels that pass through it.
_CHANNELWISE = {
    "accumulategrad", "adaptiveavgpool2d", "add", "alias", "avgpool2d", "clone", "constantpadnd", "div", "elu", "gelu",
    "hardsigmoid", "hardswish", "hardtanh", "leakyrelu", "maxpool2dwithindices", "mean", "mish", "mul", "nativedropout",
    "mkldnnmaxpool2d", "relu", "sigmoid", "silu", "softplus", "squeeze", "sub", "t", "tanh", "tocopy",
    "upsamplebilinear2d", "upsamplenearest2d",
}  # fmt: skip


@dataclass
class Channel:
    """Weight slices that go together or stay together.

    Attributes:
        producers: Filters of dense layers that are added up or passed on to make the channel.
        consumers: Input channels of dense layers that read it.
        others: Slices of batch norms, depthwise convolutions and PReLUs on the way.
        kept_by: Why it stays whatever its weights are; empty where it may go.
    """

    producers: list[Slot] = field(default_factory=list)
    consumers: list[Slot] = field(default_factory=list)
    others: list[Slot] = field(default_factory=list)
    kept_by: str = ""


def channels_of(
    network: nn.Module,
    example: Any,
    keep: Collection[str] = (),
    forward: Callable[..., Any] | None = None,
) -> list[Channel]:
    """List the channels of a network.

    Args:
        network: Any module; it is copied, and not changed.
        example: Its input, a tensor or a tuple of them.
        keep: Names of modules whose filters stay, such as those that write the result.
        forward: How to run the network up to the outputs of those, called with it and the inputs; by default all of it.

    Raises:
        MissingExtraError: Torch-Pruning is not installed.
        ConfigError: The network cannot be traced.
    """
    work = deepcopy(network).eval()
    for parameter in work.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    graph = _graph(work, example, forward)
    names = {module: name for name, module in work.named_modules()}
    order = {name: number for number, name in enumerate(names.values())}
    found: list[Channel] = []
    seen: set[Slot] = set()
    for module in list(graph.module2node):
        if not isinstance(module, _ConvNd | nn.Linear) or _depthwise(module):
            continue
        pruner = graph.get_pruner_of_module(module)
        free = [i for i in range(pruner.get_out_channels(module)) if (names[module], "out", i) not in seen]
        if free:
            group = graph.get_pruning_group(module, pruner.prune_out_channels, free)
            for channel in _channels_in(graph, group, names, keep):
                seen.update(channel.producers)
                channel.producers.sort(key=lambda slot: order[slot[0]])
                found.append(channel)
    # The graph was walked from the outputs; a reader expects the order of the network.
    found.sort(key=lambda channel: order[channel.producers[0][0]] if channel.producers else len(order))
    return found


def _graph(work: nn.Module, example: Any, forward: Callable[..., Any] | None) -> Any:
    try:
        package = importlib.import_module("torch_pruning")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            'removing filters needs torch-pruning, which is not installed; run: uv pip install "slr-det[shrink]"'
        ) from error
    inputs = example if isinstance(example, tuple) else (example,)
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A copy of every output ends in a node of its own, so that what a caller sees is known to be seen.
            return package.DependencyGraph().build_dependency(
                work,
                example_inputs=inputs,
                forward_fn=lambda model, given: model(*given) if forward is None else forward(model, *given),
                output_transform=lambda out: [t.clone() for t in tensors_in(out) if t.grad_fn is not None],
                verbose=False,
            )
    except (
        RuntimeError,
        AttributeError,
        TypeError,
        ValueError,
        AssertionError,
        IndexError,
        KeyError,
    ) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ConfigError(
            f"the network cannot be traced by torch-pruning ({reason}); nothing was removed, keep the pruned checkpoint"
        ) from error


def _channels_in(
    graph: Any, group: Any, names: Mapping[Any, str], keep: Collection[str]
) -> Iterator[Channel]:
    """The channels of one of Torch-Pruning's groups, which holds many side by side."""
    parent: dict[int, int] = {}

    def find(root: int) -> int:
        parent.setdefault(root, root)
        while parent[root] != root:
            parent[root] = parent[parent[root]]
            root = parent[root]
        return root

    slots: dict[Slot, int] = {}
    barred: dict[int, str] = {}
    kinds: dict[Slot, str] = {}
    for item in group:
        module, is_out = item.dep.target.module, graph.is_out_channel_pruning_fn(item.dep.handler)
        kind, why = _kind_of(item.dep.target, is_out, names)
        if kind == "producer" and names[module] in keep:
            why = f"{names[module]} writes the result"
        size = _size(graph, module, kind == "consumer")
        for position, root in zip(item.idxs, item.root_idxs, strict=True):
            find(root)
            if why:
                barred.setdefault(root, why)
            if not kind:
                continue
            if not 0 <= position < size:
                # The graph took an operation that adds or moves channels for one that does not.
                barred.setdefault(root, f"its channels cannot be followed to {names[module]}")
                continue
            slot = (names[module], "in" if kind == "consumer" else "out", position)
            kinds[slot] = kind
            # Two roots that meet in one slice are one channel, such as halves of a layer that are added up.
            parent[find(root)] = find(slots.setdefault(slot, root))
    channels: dict[int, Channel] = {}
    for slot, root in slots.items():
        channel = channels.setdefault(find(root), Channel())
        kind = kinds[slot]
        (
            channel.producers
            if kind == "producer"
            else channel.consumers
            if kind == "consumer"
            else channel.others
        ).append(slot)
    for root, why in barred.items():
        channel = channels.setdefault(find(root), Channel())
        channel.kept_by = channel.kept_by or why
    for channel in channels.values():
        if not channel.consumers and not channel.kept_by:
            channel.kept_by = "nothing reads it"
        yield channel


def _size(graph: Any, module: Any, inputs: bool) -> int:
    pruner = graph.get_pruner_of_module(module)
    return int((pruner.get_in_channels if inputs else pruner.get_out_channels)(module) or 0)


def _kind_of(node: Any, is_out: bool, names: Mapping[Any, str]) -> tuple[str, str]:
    """What a node is to a channel, and why it bars the channel from going, each empty where there is nothing to say."""
    module = node.module
    if isinstance(module, _ConvNd):
        if _depthwise(module):
            return "other", ""
        why = f"{names[module]} is a grouped convolution" if module.groups > 1 else ""
        return "producer" if is_out else "consumer", why
    if isinstance(module, nn.Linear):
        return "producer" if is_out else "consumer", ""
    if isinstance(module, _BatchNorm):
        return "other", ""
    if isinstance(module, nn.PReLU):
        return ("other" if module.num_parameters > 1 else ""), ""
    if module in names:
        return "", f"{names[module]} is a {type(module).__name__}"
    return "", _barred_operation(node)


def _barred_operation(node: Any) -> str:
    kind = type(node.module).__name__
    if kind == "_OutputOp":
        return "it is an output of the network"
    if kind in ("_ConcatOp", "_ReshapeOp"):
        return ""
    grad_fn = node.grad_fn
    operation = grad_fn.name().partition("Backward")[0] if hasattr(grad_fn, "name") else kind
    plain = operation.lower().rpartition("::")[2].replace("_", "")
    if plain == "slice":
        return "" if _dimension(grad_fn._saved_dim) > 1 else "its channels are cut apart (slice)"
    if plain == "constantpadnd":
        # Pairs from the last dimension on; the channels of an image are the third from the end.
        return "channels are added beside it (pad)" if any(grad_fn._saved_pad[4:]) else ""
    if plain == "mean" and 1 in [_dimension(d) for d in getattr(grad_fn, "_saved_dim", None) or ()]:
        return "its channels are averaged"
    return (
        "" if plain in _CHANNELWISE else f"it passes through an operation that may mix channels ({operation})"
    )


def _dimension(saved: int) -> int:
    """A dimension that autograd saved, where a negative one is stored as an unsigned number of 64 bits."""
    return 99 if saved < 0 or saved >= 1 << 63 else saved


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) and 1 < module.groups == module.in_channels == module.out_channels


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested lists, tuples and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_in(inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from tensors_in(inner)

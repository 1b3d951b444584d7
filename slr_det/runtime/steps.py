"""One operation of a plan each, ready to run: addresses and layouts bound, so that a call costs a few microseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from slr_det.errors import RuntimeRefusedError
from slr_det.runtime.graph import (
    Activate,
    Add,
    Concat,
    Conv,
    Linear,
    MaxPool,
    Node,
    Opaque,
    Pad,
    Pointwise,
    Ref,
    Upsample,
)
from slr_det.runtime.plan import inner
from slr_det.runtime.structs import SLACK, Activation, ConvSpec, Layout

if TYPE_CHECKING:
    from slr_det.runtime.program import Program

#: Tensors by value, while a program runs.
Environment = dict[str, Any]
Step = Callable[[Environment], None]

_aten = torch.ops.aten
# Views of what has margins are copies at times; everything else is as the model has it.
_REPLACED: dict[Any, Any] = {
    _aten.view.default: _aten.reshape.default,
    _aten._unsafe_view.default: _aten.reshape.default,
}


def conv_spec(conv: Conv) -> ConvSpec:
    """The library's description of a convolution."""
    return ConvSpec(
        *conv.kernel,
        *conv.stride,
        *conv.dilation,
        *conv.padding,
        conv.groups,
        int(conv.transposed),
        conv.activation,
        conv.slope,
        2 if conv.pool else 0,
    )


def activate_(tensor: Tensor, activation: Activation, slope: float) -> Tensor:
    """Apply one of the library's activations in torch, in place."""
    if activation == Activation.RELU:
        return torch.relu_(tensor)
    if activation == Activation.LEAKY_RELU:
        return F.leaky_relu_(tensor, slope)
    if activation == Activation.SILU:
        return F.silu(tensor, inplace=True)
    return tensor


def dense_conv(conv: Conv) -> Callable[[Tensor], Tensor]:
    """A convolution in torch, without what follows it."""
    weight, bias = conv.weight, conv.bias
    if conv.transposed:
        return lambda x: F.conv_transpose2d(x, weight, bias, conv.stride, groups=conv.groups)
    arguments = (conv.stride, conv.padding, conv.dilation, conv.groups)
    return lambda x: F.conv2d(x, weight, bias, *arguments)


def sparse_conv(program: Program, conv: Conv) -> list[Step]:
    """A convolution in the library; an input that may end where memory ends is copied first."""
    source, target = program.image(conv.inputs[0]), program.image(conv.out)
    layout = source.layout
    steps: list[Step] = []
    packed = program.library.conv(conv_spec(conv), conv.weight, conv.bias, layout, target.layout)
    begin = source.storage
    if not packed.info.workspace and begin not in program.plan.slot_of:
        plain = Layout.contiguous(layout.images, layout.channels, layout.height, layout.width)
        begin = program.own(layout.images * plain.image + SLACK)
        steps.append(_copy(program, layout, source.storage, plain, begin))
        packed = program.library.conv(conv_spec(conv), conv.weight, conv.bias, plain, target.layout)
    program.packed_bytes += packed.info.bytes
    program.need_workspace(packed.info.workspace)
    run, pool, addresses, end = packed.run, program.pool, program.addresses, target.storage

    def step(_: Environment) -> None:
        run(addresses[begin], addresses[end], program.workspace, pool)

    return [*steps, step]


def torch_conv(program: Program, conv: Conv) -> list[Step]:
    """A convolution in torch; what follows it is done on the way to where the result belongs."""
    run, name, out = dense_conv(conv), conv.inputs[0], conv.out
    activation, slope = conv.activation, conv.slope
    if program.plan.storages.root(out) in program.plan.storages.loose:

        def alone(env: Environment) -> None:
            env[out] = activate_(run(env[name]), activation, slope)

        return [alone]
    target = program.image(out)
    library, pool, addresses = program.library, program.pool, program.addresses
    layout, end = target.layout, target.storage
    height, width = (2 * layout.height, 2 * layout.width) if conv.pool else (layout.height, layout.width)

    def step(env: Environment) -> None:
        result = run(env[name]).contiguous()
        address = result.data_ptr()
        if conv.pool:
            activate_(result, activation, slope)
            sums = Layout.contiguous(*result.shape)
            library.max_pool(sums, address, layout, addresses[end], (2, 2), (2, 2), (0, 0), pool)
        else:
            sums = Layout.contiguous(layout.images, layout.channels, height, width)
            library.copy(sums, address, layout, addresses[end], activation, slope, pool)

    return [step]


def sparse_linear(program: Program, linear: Linear) -> list[Step]:
    """A linear layer in the library."""
    rows = program.graph.values[linear.inputs[0]].shape[0]
    packed = program.library.linear(linear.weight, linear.bias, rows, linear.activation, linear.slope)
    program.packed_bytes += packed.info.bytes
    program.need_workspace(packed.info.workspace)
    run, pool, addresses = packed.run, program.pool, program.addresses
    begin = program.plan.places[linear.inputs[0]].storage
    end = program.plan.places[linear.out].storage

    def step(_: Environment) -> None:
        run(addresses[begin], addresses[end], program.workspace, pool)

    return [step]


def torch_linear(program: Program, linear: Linear) -> list[Step]:
    """A linear layer in torch."""
    weight, bias, name, out = linear.weight, linear.bias, linear.inputs[0], linear.out
    loose = program.plan.storages.root(out) in program.plan.storages.loose

    def step(env: Environment) -> None:
        result = activate_(F.linear(env[name], weight, bias), linear.activation, linear.slope)
        if loose:
            env[out] = result
        else:
            env[out].copy_(result)

    return [step]


def plain_step(program: Program, node: Node) -> list[Step]:
    """An operation without weights, in the library or in place."""
    library, pool, addresses = program.library, program.pool, program.addresses
    if isinstance(node, Pointwise):
        op, name, out, arguments = node.op, node.inputs[0], node.out, node.arguments

        def in_place(env: Environment) -> None:
            env[out] = op(env[name], *arguments)

        return [in_place]
    if isinstance(node, Concat):
        return _copied_parts(program, node)
    source, target = program.image(node.inputs[0]), program.image(node.out)
    begin, end, layout, result = source.storage, target.storage, source.layout, target.layout
    if isinstance(node, Pad):
        if node.out not in program.plan.storages.copied_pads:
            return []
        return [_copy(program, layout, begin, inner(result, node), end)]
    if isinstance(node, Activate):
        return [_copy(program, layout, begin, result, end, node.activation, node.slope)]
    if isinstance(node, MaxPool):
        windows = (node.kernel, node.stride, node.padding)

        def maximum(_: Environment) -> None:
            library.max_pool(layout, addresses[begin], result, addresses[end], *windows, pool)

        return [maximum]
    if isinstance(node, Upsample):

        def enlarge(_: Environment) -> None:
            library.upsample(layout, addresses[begin], result, addresses[end], pool)

        return [enlarge]
    if isinstance(node, Add):
        other = program.image(node.inputs[1])
        second, other_layout = other.storage, other.layout
        activation, slope = node.activation, node.slope

        def add(_: Environment) -> None:
            library.add(
                layout,
                addresses[begin],
                other_layout,
                addresses[second],
                result,
                addresses[end],
                activation,
                slope,
                pool,
            )

        return [add]
    raise RuntimeRefusedError(f"the sparse runtime has no step for {type(node).__name__}")


def _copied_parts(program: Program, node: Concat) -> list[Step]:
    whole = program.image(node.out)
    steps, channel = [], 0
    for place, name in enumerate(node.inputs):
        part = program.image(name)
        if (node.out, place) in program.plan.storages.copied:
            lay = whole.layout
            target = Layout(
                lay.images,
                part.layout.channels,
                lay.height,
                lay.width,
                lay.origin + channel * lay.plane,
                lay.image,
                lay.plane,
                lay.row,
                lay.above,
                lay.left,
            )
            steps.append(_copy(program, part.layout, part.storage, target, whole.storage))
        channel += part.layout.channels
    return steps


def _copy(
    program: Program,
    layout: Layout,
    begin: int,
    result: Layout,
    end: int,
    activation: Activation = Activation.NONE,
    slope: float = 0.0,
) -> Step:
    copy, pool, addresses = program.library.copy, program.pool, program.addresses

    def step(_: Environment) -> None:
        copy(layout, addresses[begin], result, addresses[end], activation, slope, pool)

    return step


def opaque_call(node: Opaque) -> Callable[[Environment], Any]:
    """An operation of torch, which takes its values from the environment."""
    op, args, kwargs = _REPLACED.get(node.op, node.op), node.args, node.kwargs
    if any(_has_refs(item) for item in kwargs.values()):
        return lambda env: op(*_resolve(args, env), **{key: _resolve(kwargs[key], env) for key in kwargs})
    first, rest = (args[0] if args else None), args[1:]
    if isinstance(first, Ref) and not any(_has_refs(item) for item in rest):
        name = first.name
        return lambda env: op(env[name], *rest, **kwargs)
    return lambda env: op(*_resolve(args, env), **kwargs)


def opaque_step(node: Opaque) -> Step:
    """Run an operation of torch and keep its result in the environment."""
    call, out = opaque_call(node), node.out

    def step(env: Environment) -> None:
        env[out] = call(env)

    return step


def _has_refs(item: Any) -> bool:
    if isinstance(item, (list, tuple)):
        return any(_has_refs(part) for part in item)
    return isinstance(item, Ref)


def _resolve(item: Any, env: Environment) -> Any:
    if isinstance(item, Ref):
        return env[item.name]
    if isinstance(item, (list, tuple)):
        return [_resolve(part, env) for part in item]
    return item

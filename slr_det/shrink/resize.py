"""Layers of other widths: cut down by a list of positions, or brought to the shapes of a state dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from slr_det.shrink.plan import Plan


@torch.no_grad()
def zero_dead(network: nn.Module, plan: Plan) -> None:
    """Silence what a plan removes, in place: filters, biases, and of batch norms the scale, shift and mean.

    A filter of zeros before a batch norm still emits a constant, shift - scale * mean / std: the outputs change here,
    and nowhere else.
    """
    for name, positions in plan.outputs.items():
        module = network.get_submodule(name)
        index = torch.tensor(positions)
        if isinstance(module, nn.PReLU):
            continue  # it maps zero to zero
        transposed = isinstance(module, _ConvNd) and module.transposed and module.groups == 1
        for key, tensor in {**dict(module.named_parameters()), "running_mean": _mean_of(module)}.items():
            if tensor is not None:
                tensor.index_fill_(1 if transposed and key == "weight" else 0, index.to(tensor.device), 0.0)


@torch.no_grad()
def remove(network: nn.Module, plan: Plan) -> None:
    """Cut what a plan removes out of the layers, in place; parameters become smaller ones of the same names."""
    for name in {**plan.outputs, **plan.inputs}:
        module = network.get_submodule(name)
        outputs, inputs = plan.outputs.get(name, ()), plan.inputs.get(name, ())
        out_dim, in_dim = (1, 0) if isinstance(module, _ConvNd) and module.transposed else (0, 1)
        if isinstance(module, _ConvNd) and module.groups > 1:
            out_dim = 0
        state = dict(module.state_dict())
        for key, tensor in state.items():
            if tensor.dim() == 0:
                continue
            cut = _without(tensor, outputs, out_dim if tensor.dim() > 1 else 0)
            state[key] = _without(cut, inputs, in_dim) if tensor.dim() > 1 else cut
        _take(module, state)


def resize_to(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Bring convolutions, linear layers, batch norms and PReLUs to the shapes of a state dict, in place.

    For a shrunk network whose architecture is built again by name. A layer only ever becomes narrower, kernels stay
    as they are; what does not fit is left alone, for the reader of the weights to complain about. The values of
    resized parameters are those of the state dict.
    """
    for name, module in network.named_modules():
        own = {f"{name}.{key}" if name else key: key for key in module.state_dict()}
        found = {key: state[full] for full, key in own.items() if full in state}
        current = module.state_dict()
        if isinstance(module, _ConvNd | nn.Linear | _BatchNorm | nn.PReLU) and _narrower(current, found):
            _take(
                module, {**current, **{key: tensor.to(current[key].dtype) for key, tensor in found.items()}}
            )


def _narrower(current: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> bool:
    """Whether tensors differ from a module's in shape, and only by having fewer filters or input channels."""
    changed = False
    for key, tensor in found.items():
        was, now = current[key].shape, tensor.shape
        if len(was) != len(now) or was[2:] != now[2:]:
            return False
        if any(not 0 < after <= before for after, before in zip(now, was, strict=True)):
            return False
        changed |= was != now
    return changed


def _mean_of(module: nn.Module) -> Tensor | None:
    return module.running_mean if isinstance(module, _BatchNorm) else None


def _without(tensor: Tensor, positions: Sequence[int], dim: int) -> Tensor:
    if not positions:
        return tensor
    kept = torch.ones(tensor.shape[dim], dtype=torch.bool)
    kept[list(positions)] = False
    return tensor.index_select(dim, kept.nonzero().flatten().to(tensor.device)).contiguous()


def _take(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a module tensors of other shapes, and the numbers of channels that go with them."""
    for key, tensor in state.items():
        if key in module._parameters:
            before = module.get_parameter(key)
            setattr(module, key, nn.Parameter(tensor.detach().clone(), requires_grad=before.requires_grad))
        else:
            setattr(module, key, tensor.detach().clone())
    weight = state.get("weight")
    if isinstance(module, _BatchNorm):
        found = weight if weight is not None else state.get("running_mean")
        if found is not None:
            module.num_features = len(found)
    elif weight is None:
        return
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _ConvNd):
        if 1 < module.groups == module.in_channels == module.out_channels:
            module.groups = module.in_channels = module.out_channels = len(weight)
        else:
            first, second = weight.shape[:2]
            outputs, inputs = (second, first) if module.transposed else (first, second)
            module.out_channels = outputs * (module.groups if module.transposed else 1)
            module.in_channels = inputs * (1 if module.transposed else module.groups)

"""What happens to the zeros: hard pruning, masked retraining, batch-norm recalibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slr_det.errors import ConfigError, DataError, nearest
from slr_det.groups import ParamGroup


@torch.no_grad()
def supports(groups: Sequence[ParamGroup], named: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The masks that hard pruning uses: the support of the projection of each group's weights.

    Args:
        groups: The groups.
        named: Other tensors with the same names and shapes, such as an averaged copy of the model; None for the
            groups' own weights.

    Returns:
        Bool masks by parameter name, True where a weight stays.

    Raises:
        ConfigError: ``named`` lacks a parameter, or has one of another shape.
    """
    masks: dict[str, Tensor] = {}
    for group in groups:
        tensors = group.tensors
        if named is not None:
            tensors = [_look_up(named, name, tensor.shape) for name, tensor in group.params]
        masks.update(zip(group.names, group.projection.support(tensors, group.keep), strict=True))
    return masks


@torch.no_grad()
def hard_prune(groups: Sequence[ParamGroup]) -> dict[str, Tensor]:
    """W <- projection of W, in place: exact zeros (+0.0) outside the masks, everything else unchanged.

    Returns:
        Bool masks by parameter name, True where a weight stays.
    """
    masks = supports(groups)
    for group in groups:
        for name, tensor in group.params:
            tensor.detach().masked_fill_(~masks[name], 0.0)
    return masks


class MaskKeeper:
    """Keeps pruned weights at zero while a model trains on (masked retraining).

    Momentum, weight decay and averaging move a weight whatever its gradient is, so masking gradients is not
    enough: call :meth:`apply` after every optimizer step, on the model and on every averaged copy.

    Args:
        masks: Bool masks by parameter name, True where a weight stays. A mask on another device than the weight it
            is applied to is moved there once.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = dict(masks)

    @torch.no_grad()
    def apply(self, *named: Mapping[str, Tensor]) -> None:
        """Set every weight outside its mask to +0.0, in place; a product with the mask could be -0.0, which is stored.

        Args:
            named: Tensors by parameter name, for example ``dict(model.named_parameters())``; each mapping must hold
                every masked name and may hold more.

        Raises:
            ConfigError: A masked parameter is missing, or has another shape than its mask.
        """
        for tensors in named:
            for name, mask in self.masks.items():
                tensor = _look_up(tensors, name, mask.shape)
                if mask.device != tensor.device:
                    mask = self.masks[name] = mask.to(tensor.device)
                tensor.masked_fill_(~mask, 0.0)

    @torch.no_grad()
    def revived(self, named: Mapping[str, Tensor]) -> dict[str, int]:
        """How many weights outside the masks are not zero, by parameter name; empty when all is well."""
        counts = {
            name: int(
                torch.count_nonzero(
                    _look_up(named, name, mask.shape).masked_fill(mask.to(named[name].device), 0)
                )
            )
            for name, mask in self.masks.items()
        }
        return {name: count for name, count in counts.items() if count}


def _look_up(named: Mapping[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    if name not in named:
        raise ConfigError(
            f"a mask is for parameter '{name}', which these tensors do not have{nearest(name, named)}"
        )
    tensor = named[name].detach()
    if tensor.shape != shape:
        raise ConfigError(
            f"parameter '{name}' has shape {list(tensor.shape)}, expected {list(shape)} as its mask or group has"
        )
    return tensor


@torch.no_grad()
def recalibrate_batchnorm(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], Any] | None = None
) -> int:
    """Replace the running statistics of every batch norm by averages over batches: forward passes only.

    Pruning changes the distribution of activations; the stored means and variances are then those of another
    model. No weight changes. Dropout and everything but batch norm stays in evaluation mode; the training mode
    of every module and the momentum are restored.

    Args:
        model: Any module.
        batches: Batches, on the model's device.
        forward: How to run the model on a batch; ``model(batch)`` by default.

    Returns:
        The number of batches seen, 0 if the model has no batch norm with running statistics.

    Raises:
        DataError: There are no batches; the statistics are then unchanged.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return 0
    training = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    seen = 0
    try:
        model.eval()
        for batch in batches:
            if seen == 0:
                for norm in norms:
                    norm.reset_running_stats()
                    norm.momentum = None  # a cumulative average: every batch counts the same
                    norm.training = True
            model(batch) if forward is None else forward(model, batch)
            seen += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in training.items():
            module.training = mode
    if seen == 0:
        raise DataError("batch-norm recalibration got no batches; pass at least one batch of training images")
    return seen

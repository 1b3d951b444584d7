"""Small networks for the tests of export, with batch norms that do something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from slr_det.export import Exportable, Tensors


def lively(module: nn.Module) -> nn.Module:
    """Batch norms with statistics, scales and shifts of their own, in evaluation mode."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 2.0)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return module.eval()


def small(keep: float = 1.0) -> nn.Module:
    """A network of two convolutions and a linear layer, of whose weights a share is nonzero."""
    net = nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 36, 8),
    )
    for parameter in net.parameters():
        if parameter.dim() > 1:
            kept = torch.rand_like(parameter) < keep
            kept.view(-1)[0] = True
            parameter.data *= kept
    return lively(net)


def exportable(module: nn.Module, shape: tuple[int, ...] = (2, 6, 6), **changes: Any) -> Exportable:
    """A module with random samples of a shape; its metric is the mean of its answers."""
    train = torch.randn(16, *shape, generator=torch.Generator().manual_seed(1))
    val = torch.randn(6, *shape, generator=torch.Generator().manual_seed(2))

    def samples(split: str, count: int) -> Iterator[Tensors]:
        for sample in (train if split == "train" else val)[:count]:
            yield (sample.unsqueeze(0),)

    def evaluate(network: Callable[..., Tensors]) -> dict[str, float]:
        return {"mean": float(network(val)[0].mean())}

    given: dict[str, Any] = {"metadata": {"task": "test"}, **changes}
    return Exportable(module, ("x",), ("y",), samples, evaluate, **given)


def example(shape: tuple[int, ...] = (2, 6, 6), batch: int = 1) -> Tensors:
    """A random input."""
    found: Tensor = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(3))
    return (found,)

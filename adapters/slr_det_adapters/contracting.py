"""What every checkout has to do, written once: train with the penalty, be resumed, be evaluated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slr_det.adapter import Adapter, EngineSpec, EvalJob, TrainJob
from slr_det.groups import GroupSpec, build_groups
from slr_det.masks import supports
from slr_det.projections import Projection
from slr_det.upstream.project import ContractError

_KEEP = 0.5
#: The share of the weights to be pruned that has to move towards zero under a penalty that outweighs the loss; without
#: a penalty it is half of them.
_MOST = 0.9


def same_network(theirs: nn.Module, ours: nn.Module) -> str:
    """Names, shapes and order of the weights are the same, and each loads the other's state strictly.

    Returns the number of parameters. Raises ContractError with the first difference.
    """
    a, b = _shapes(theirs), _shapes(ours)
    for name in (*a, *b):
        if a.get(name) != b.get(name):
            raise ContractError(
                f"'{name}' has shape {_said(a.get(name))} upstream and {_said(b.get(name))} in slr_det"
            )
    if list(a) != list(b):
        first = next(x for x, y in zip(a, b, strict=True) if x != y)
        raise ContractError(f"the weights are in another order upstream, from '{first}' on")
    with torch.no_grad():
        for tensor in ours.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) if tensor.is_floating_point() else torch.ones_like(tensor))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    same_weights(theirs.state_dict(), ours.state_dict(), "loaded upstream")
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return f"{sum(p.numel() for p in theirs.parameters()):,} parameters"


def same_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Raise ContractError where a weight is not the expected one."""
    for name, tensor in expected.items():
        if name not in found:
            raise ContractError(f"'{name}' is missing, {where}")
        if not torch.equal(found[name].float(), tensor.float()):
            raise ContractError(f"'{name}' is another, {where}")


def trains(
    adapter: Adapter, start: Path, data: Path, folder: Path, args: Mapping[str, Any], rho: float
) -> str:
    """One epoch by upstream's own loop, under a penalty that outweighs the loss, and what is left of it.

    The weights to be pruned move towards zero; the iteration is recorded with the loss of upstream; the checkpoint is
    there, holds the same weights, and is resumed without training again.

    Args:
        adapter: The adapter.
        start: A checkpoint.
        data: As :meth:`~slr_det.adapter.Adapter.prepare_data` returned it.
        folder: For the phase.
        args: The trainer's arguments.
        rho: Weight of the penalty, below 1 over the learning rate.

    Raises:
        ContractError: Something of this is not so.
    """
    layers = adapter.inspect(str(start)).layers
    names = tuple(layer.name for layer in layers if layer.role == "body" and len(layer.shape) > 1)
    groups = (GroupSpec("body", names, _KEEP, Projection.parse("unstructured")),)
    job = TrainJob(
        str(start),
        str(data),
        str(folder),
        1,
        args,
        engine=EngineSpec("penalty", 1, groups, {"rho": rho}),
        device="cpu",
    )
    before = adapter.averaged(str(start))
    history = adapter.train(job, resume=False)
    if len(history) != 1 or not math.isfinite(history[0].get("objective") or math.nan):
        raise ContractError(
            f"an epoch under the penalty left {len(history)} records, expected one with a loss"
        )
    last = adapter.last(job.folder)
    if not Path(last).is_file():
        raise ContractError(f"the epoch left no checkpoint at {Path(last).name}")
    after = adapter.averaged(last)
    share = _share(before, after, supports(build_groups(before, groups)))
    if share < _MOST:
        raise ContractError(
            f"{share:.0%} of the weights to be pruned moved towards zero, expected nearly all: the penalty does not "
            "reach the optimizer"
        )
    if adapter.train(job, resume=True) != history:
        raise ContractError("a finished epoch was trained again when it was resumed")
    return f"{share:.1%} of the weights to be pruned moved towards zero"


def evaluates(adapter: Adapter, job: EvalJob, metrics: Iterable[str]) -> str:
    """Upstream's own evaluation gives every one of ``metrics``, in [0, 1]."""
    found = adapter.evaluate(job)
    for name in metrics:
        value = found.get(name)
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ContractError(f"{name} is {value!r}, expected a number in [0, 1]")
    return ", ".join(f"{name} {found[name]:.3f}" for name in metrics)


def _share(before: Mapping[str, Tensor], after: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> float:
    moved = total = 0
    for name, support in kept.items():
        pruned = ~support
        towards = (after[name] - before[name]) * before[name].sign() < 0
        moved += int(towards[pruned].sum())
        total += int(pruned.sum())
    return moved / total


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _said(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))

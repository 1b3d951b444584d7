"""Whether the checkpoint that a run resumes from is of this run, and the masks that are in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.runner import Runner
from torch import Tensor

from slr_det.engine import Engine
from slr_det.errors import CheckpointError
from slr_det.masks import MaskKeeper
from slr_det_adapters.mmengine.plan import Plan

ANEW = "start a new run from its weights (load_from=..., resume=False) in a work_dir of its own"


def where_of(runner: Runner, by_epoch: bool) -> str:
    """What to call the checkpoint: mmengine does not tell hooks its path."""
    return f"the checkpoint of epoch {runner.epoch}" if by_epoch else f"the checkpoint of step {runner.iter}"


def require_same_place(runner: Runner, by_epoch: bool, where: str) -> None:
    """Raise CheckpointError where the loop cannot go on at the step that the checkpoint was written at."""
    if runner.iter > runner.max_iters:
        raise CheckpointError(
            f"{where}: is of a longer run: {runner.iter} steps are done, and this run has {runner.max_iters}; resume "
            f"with the same data, batch size and number of epochs, or {ANEW}"
        )
    if by_epoch and runner.iter * runner.max_epochs != runner.epoch * runner.max_iters:
        raise CheckpointError(
            f"{where}: was written after {runner.iter} steps, which is not the end of epoch {runner.epoch} with these "
            "data and this batch size; resume with the same ones, from a checkpoint that was written by epoch"
        )


def require_same_kind(
    state: Mapping[str, Any], engine: Engine | None, masks: MaskKeeper | None, where: str
) -> None:
    """Raise CheckpointError where one run has a method (or zeros held) and the other has not."""
    there, here = _kind(state["engine"], state["masks"]), _kind(engine, masks)
    if there != here:
        raise CheckpointError(f"{where}: is of a run {there}, and this is one {here}; {ANEW}")


def require_same_iteration(engine: Engine, plan: Plan, step: int, where: str) -> None:
    """Raise CheckpointError where another number of iterations had ended at this step."""
    if engine.iteration != plan.ended(step):
        raise CheckpointError(
            f"{where}: its method has ended {engine.iteration} iterations after {step} steps, where this run ends "
            f"{plan.ended(step)}; resume with the same data, batch size and number of epochs"
        )


def load_masks(saved: Mapping[str, Tensor], named: Mapping[str, Tensor], where: str) -> MaskKeeper:
    """The masks of the run that is resumed: what has become zero by chance since its start is not pruned."""
    for name, mask in saved.items():
        if name not in named or named[name].shape != mask.shape:
            raise CheckpointError(
                f"{where}: holds a mask for '{name}', which does not fit this model; {ANEW}"
            )
    return MaskKeeper({name: mask.to(named[name].device) for name, mask in saved.items()})


def _kind(engine: object, masks: object) -> str:
    if engine is not None:
        return "under a method"
    return "with zeros held" if masks is not None else "without a method"

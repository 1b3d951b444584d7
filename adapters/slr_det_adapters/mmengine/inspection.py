"""What SLRHook reads off a Runner, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from slr_det.adapter import EngineSpec
from slr_det.engine import Engine
from slr_det.errors import CheckpointError, ConfigError, NumericsError
from slr_det_adapters.mmengine.schedule import ScheduleHook


def unwrapped(model: Any) -> nn.Module:
    """The model inside a wrapper for several processes."""
    inner: nn.Module = model.module if is_model_wrapper(model) else model
    return inner


def averaged_copies(runner: Runner) -> list[dict[str, Tensor]]:
    """The parameters of every averaged model that an EMA hook of the runner keeps."""
    return [
        dict(hook.ema_model.module.named_parameters()) for hook in runner.hooks if isinstance(hook, EMAHook)
    ]


def resumes_from(runner: Runner) -> Path | None:
    """The local file that the runner is about to resume training from, if it is."""
    # Both are private, and what mmengine's own hooks go by; there is no public way to ask.
    if not runner._resume or not isinstance(runner.optim_wrapper, OptimWrapper | OptimWrapperDict):
        return None
    if runner._load_from is not None:
        return None if "://" in str(runner._load_from) else Path(runner._load_from)
    pointer = Path(runner.work_dir) / "last_checkpoint"
    if not pointer.is_file():
        return None
    name = pointer.read_text(encoding="utf-8").strip()
    if not name:
        raise CheckpointError(
            f"{pointer}: is empty (the process was killed while it was written); name the checkpoint with "
            "load_from=..., and use SafeCheckpointHook"
        )
    return None if "://" in name else Path(name)


def require_supported(runner: Runner, own: Hook) -> None:
    """Raise ConfigError with everything about the runner that the hook cannot work with."""
    problems = []
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        names = ", ".join(wrapper.keys())
        problems.append(
            f"the run has {len(wrapper)} optimizers ({names}); SLRHook needs one optimizer over the whole model"
        )
    elif not isinstance(wrapper, OptimWrapper):
        problems.append(
            f"optim_wrapper is a {type(wrapper).__name__}, expected an OptimWrapper or a subclass of it"
        )
    if is_model_wrapper(runner.model) and not isinstance(runner.model, DistributedDataParallel):
        problems.append(
            f"the model is wrapped in {type(runner.model).__name__}; SLRHook needs whole weights on every process, "
            "as MMDistributedDataParallel has them"
        )
    hooks = list(runner.hooks)
    place = hooks.index(own)
    if sum(isinstance(hook, type(own)) for hook in hooks) > 1:
        problems.append("the runner has more than one SLRHook; leave one")
    for index, hook in enumerate(hooks):
        if isinstance(hook, EMAHook) and index > place:
            problems.append(
                f"{type(hook).__name__} runs after SLRHook and would bring pruned weights back; leave out priority of "
                "both, or give SLRHook a larger number"
            )
        if isinstance(hook, CheckpointHook) and index < place:
            problems.append(
                f"{type(hook).__name__} runs before SLRHook and would save half of a step; leave out priority of "
                "both, or give SLRHook a smaller number"
            )
    if problems:
        raise ConfigError(problems)


def require_base_model(model: nn.Module) -> None:
    """Raise ConfigError where the loss of a model cannot be asked for outside a training step."""
    if not isinstance(model, BaseModel):
        raise ConfigError(
            "hyper.objective is 'fixed', which needs a model derived from mmengine's BaseModel, and this is a "
            f"{type(model).__name__}; use objective='running'"
        )


def require_trained(spec: EngineSpec, named: Mapping[str, Tensor], optim_wrapper: OptimWrapper) -> None:
    """Raise ConfigError for pruned parameters that the optimizer does not train."""
    held = {id(p) for group in optim_wrapper.optimizer.param_groups for p in group["params"]}
    missing = [
        name
        for group in spec.groups
        for name in group.params
        if name in named and (id(named[name]) not in held or not named[name].requires_grad)
    ]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(
            f"parameter '{missing[0]}'{more} would be pruned, but is frozen or not among the optimizer's; leave it out "
            "of the groups (exclude=...), or train it"
        )


def zeros_of(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks of the weights that are not zero, for the trained weights of more than one dimension that have zeros."""
    return {
        name: parameter.detach() != 0
        for name, parameter in named.items()
        if parameter.requires_grad and parameter.ndim > 1 and bool((parameter == 0).any())
    }


def require_finite(named: Mapping[str, Tensor], when: str) -> None:
    """Raise NumericsError where a tensor holds a NaN or an infinity."""
    for name, tensor in named.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NumericsError(
                f"parameter '{name}' holds a NaN or an infinity {when}; lower the learning rate or rho, or train in "
                "full precision, and resume from the last checkpoint"
            )


def require_finite_loss(mean: float | None, when: str) -> None:
    """Raise NumericsError where the mean training loss is a NaN or an infinity."""
    if mean is not None and not math.isfinite(mean):
        raise NumericsError(
            f"the training loss is {mean} {when}; lower the learning rate, or train in full precision, and resume "
            "from the last checkpoint"
        )


def sampler_seed(loader: DataLoader[Any]) -> int | None:
    """The seed of the loader's sampler, where it has one of its own, as mmengine's samplers do."""
    sampler = _seeded_sampler(loader)
    return None if sampler is None else int(sampler.seed)


def set_sampler_seed(loader: DataLoader[Any], seed: int | None) -> None:
    """Make the sampler go on in the order of the run that is resumed.

    Without a seed in the configuration mmengine draws one, and builds the loader before it reads the old one back.
    """
    sampler = _seeded_sampler(loader)
    if sampler is not None and seed is not None:
        sampler.seed = seed


def _seeded_sampler(loader: DataLoader[Any]) -> Any:
    samplers: Iterable[Any] = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    return next((sampler for sampler in samplers if isinstance(getattr(sampler, "seed", None), int)), None)


def fit_rho(runner: Runner, engine: Engine, named: Mapping[str, Tensor], loss_scale: float) -> None:
    """Set rho to what ``hyper.closing`` asks for; under another optimizer than SGD it stays as it is."""
    pace = _pace(runner, engine, named, loss_scale)
    if pace is not None:
        engine.fit_rho(*pace)


def too_short(runner: Runner, engine: Engine, named: Mapping[str, Tensor], loss_scale: float) -> str | None:
    """One sentence where W has no time to reach Z in this run; only SGD has a closed form for that."""
    pace = _pace(runner, engine, named, loss_scale)
    return None if pace is None else engine.check(*pace)


def _pace(
    runner: Runner, engine: Engine, named: Mapping[str, Tensor], loss_scale: float
) -> tuple[float, float, float, int] | None:
    """Mean learning rate, momentum, loss scale and steps per iteration of a run with SGD; None for others."""
    optimizer = runner.optim_wrapper.optimizer
    if not isinstance(optimizer, torch.optim.SGD):
        return None
    first = id(named[engine.groups[0].names[0]])
    group = next(g for g in optimizer.param_groups if any(id(p) == first for p in g["params"]))
    lr = float(group.get("initial_lr", group["lr"]))
    for hook in runner.hooks:
        if isinstance(hook, ScheduleHook):
            lr = hook.mean_lr(optimizer.param_groups.index(group))
    accumulated = getattr(runner.optim_wrapper, "_accumulative_counts", 1)
    steps = max(runner.max_iters // (engine.iterations * accumulated), 1)
    return lr, float(group["momentum"]), loss_scale, steps


def describe_sparsity(named: Mapping[str, Tensor]) -> str:
    """Nonzero weights and compression rate over every parameter."""
    total = sum(tensor.numel() for tensor in named.values())
    kept = sum(int(torch.count_nonzero(tensor)) for tensor in named.values())
    return f"{kept:,} of {total:,} parameters are not zero: compression {total / max(kept, 1):.3f}x over the model"

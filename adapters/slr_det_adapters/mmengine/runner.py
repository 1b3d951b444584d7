"""A quiet Runner for the project's own pipelines: one function that the adapters share."""

from __future__ import annotations

import itertools
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from slr_det.errors import ConfigError
from slr_det_adapters.mmengine.checkpoint_hook import SafeCheckpointHook
from slr_det_adapters.mmengine.checkpoints import last_checkpoint
from slr_det_adapters.mmengine.hook import SLRHook
from slr_det_adapters.mmengine.precision import optim_wrapper_for
from slr_det_adapters.mmengine.progress import ProgressHook

LOG_FILE = "train.log"
Net = TypeVar("Net", bound=nn.Module)
_numbers = itertools.count()


def build_runner(
    model: nn.Module,
    *,
    work_dir: str | Path,
    epochs: int,
    train_dataloader: DataLoader[Any] | Mapping[str, Any],
    optim_wrapper: OptimWrapper | Mapping[str, Any],
    hooks: Sequence[Hook] = (),
    val_dataloader: DataLoader[Any] | Mapping[str, Any] | None = None,
    val_evaluator: Any = None,
    val_interval: int = 1,
    seed: int = 0,
    device: str = "",
    amp: str = "",
    resume: bool = False,
    keep_checkpoints: int = 1,
    title: str = "train",
    metric: str = "",
    verbose: bool = False,
    launcher: str = "none",
    default_scope: str = "mmengine",
) -> Runner:
    """Build a Runner that trains quietly and resumes bit for bit; ``runner.train()`` runs it.

    It prints a progress bar, warnings of slr_det and errors; everything else goes to ``work_dir/train.log``. Beside
    that it writes checkpoints, ``last_checkpoint`` and what its hooks write. Any number of these runners can live in
    a process one after the other.

    Args:
        model: A model with ``train_step``, such as a ``mmengine.model.BaseModel``; moved to the device.
        work_dir: Where the run keeps its files.
        epochs: Passes over the training set.
        train_dataloader: A loader, or mmengine's configuration of one.
        optim_wrapper: ``dict(optimizer=..., clip_grad=..., accumulative_counts=...)``, where ``optimizer`` is an
            optimizer or mmengine's configuration of one; or an OptimWrapper, without ``amp``.
        hooks: Hooks of the run, such as SLRHook and ScheduleHook. Without an SLRHook training is plain, with the
            same checkpoints.
        val_dataloader: Loader for validation during training, or its configuration; None for no validation.
        val_evaluator: An Evaluator, metrics or their configuration, for ``val_dataloader``.
        val_interval: Epochs between validations; the last epoch is always validated.
        seed: Seed of everything random.
        device: ``cpu``, the number of a GPU, a name that torch knows, or empty: the first GPU where there is one.
        amp: Empty for float32, ``bf16`` (any device) or ``fp16`` (GPUs, with loss scaling).
        resume: Go on from the last checkpoint in ``work_dir``, where there is one.
        keep_checkpoints: How many of the last checkpoints to keep; -1 for all.
        title: What the progress bar calls the run.
        metric: The validation metric that the bar shows; the first one where it is empty.
        verbose: Show mmengine's own log instead of the bar.
        launcher: ``none``, or ``pytorch`` under torchrun.
        default_scope: mmengine's scope of registries, for configurations of other packages.

    Raises:
        ConfigError: A device that is not there, or a precision that it does not have.
        CheckpointError: ``resume`` and a ``last_checkpoint`` that names a file which is not there.
    """
    place = find_device(device, launcher)
    start = last_checkpoint(work_dir) if resume else None
    named: dict[str, Any] = {"param_scheduler": None, "sampler_seed": {"type": "DistSamplerSeedHook"}}
    if not verbose:
        named |= {"runtime_info": None, "timer": None, "logger": None}
    named["checkpoint"] = SafeCheckpointHook(
        interval=1, max_keep_ckpts=keep_checkpoints, save_param_scheduler=False
    )
    custom = list(hooks)
    if not any(isinstance(hook, SLRHook) for hook in custom):
        custom.append(SLRHook(method=None))
    if not verbose:
        custom.append(ProgressHook(title, metric))
    validate = val_dataloader is not None
    return QuietRunner(
        device=place,
        verbose=verbose,
        model=model,
        work_dir=str(work_dir),
        train_dataloader=train_dataloader,
        val_dataloader=val_dataloader,
        val_evaluator=val_evaluator if validate else None,
        val_cfg={} if validate else None,
        train_cfg={"by_epoch": True, "max_epochs": epochs, "val_interval": val_interval},
        optim_wrapper=optim_wrapper_for(optim_wrapper, amp, place),
        default_hooks=named,
        custom_hooks=custom,
        load_from=None if start is None else str(start),
        resume=start is not None,
        launcher=launcher,
        env_cfg={
            "mp_cfg": {"mp_start_method": mp.get_start_method()},
            "dist_cfg": {"backend": "nccl" if place.type == "cuda" else "gloo"},
        },
        visualizer=Visualizer.get_instance("slr_det"),
        default_scope=default_scope,
        randomness={"seed": seed},
        # Loggers, message hubs and scopes are found by this name: each runner gets its own.
        experiment_name=f"slr_det-{next(_numbers)}",
    )


def find_device(device: str, launcher: str = "none") -> torch.device:
    """The device a user means: empty for the first GPU where there is one, ``cpu``, ``0``, ``cuda:1``.

    Raises:
        ConfigError: No such device here.
    """
    if not device:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(f"cuda:{device}" if device.isdecimal() else device)
    except RuntimeError as error:
        raise ConfigError(
            f"device is '{device}', expected cpu or the number of one GPU; for several GPUs start the command with "
            "torchrun"
        ) from error
    if place.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or (place.index or 0) >= count:
            raise ConfigError(
                f"device is '{device}', and this machine has {count} GPUs; use device=cpu or another"
            )
    return place


def placed(net: Net, device: str, channels_last: bool) -> Net:
    """A network in evaluation mode on the first device that is named, as :func:`find_device` reads it."""
    net.to(find_device(device.split(",")[0].strip()))
    if channels_last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net.eval()


class _Warnings(logging.Handler):
    """Prints slr_det's own warnings in one line each, above an open progress bar, on the first rank."""

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "slr_det") and is_main_process():
            tqdm.write(f"warning: {record.getMessage()}", file=sys.stderr)


class QuietRunner(Runner):
    """A Runner on the device it is told to use, without mmengine's survey of the machine.

    Args:
        device: Where the model is; mmengine itself would take a GPU wherever there is one.
        verbose: Whether mmengine's log goes to standard output, too.
        arguments: Those of Runner.
    """

    def __init__(self, *, device: torch.device, verbose: bool, **arguments: Any) -> None:
        self._device = device
        self._verbose = verbose
        super().__init__(**arguments)

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        if self._device.type == "cuda" and self._launcher == "none":
            torch.cuda.set_device(self._device)
        if self._distributed and self._device.type == "cpu" and not dist.is_initialized():
            dist.init_process_group(env_cfg["dist_cfg"]["backend"])  # mmengine's own way needs a GPU
        super().setup_env(env_cfg)
        # It names a folder for each start of a run; the files of a run are to lie in its work_dir.
        self._timestamp = ""

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        """Leave out the survey: it starts compilers and imports torchvision, and takes seconds."""

    def dump_config(self) -> None:
        """There is no configuration file to copy."""

    def build_logger(
        self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any
    ) -> MMLogger:
        logger: MMLogger = super().build_logger(log_level, str(Path(self.work_dir) / LOG_FILE), **kwargs)
        if not self._verbose:
            for handler in logger.handlers:
                if not isinstance(handler, logging.FileHandler):
                    handler.setLevel(logging.ERROR)
            logger.addHandler(_Warnings())
        return logger

    def _init_model_weights(self) -> None:
        """Leave the weights as they were given: mmengine calls init_weights of every part, and timm's have one."""

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        if self._distributed and self._device.type == "cpu":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # mmengine's call of torch, not the user's
                wrapped: nn.Module = MMDistributedDataParallel(
                    module=model.to("cpu"), broadcast_buffers=False
                )
            return wrapped
        if self._distributed:
            found: nn.Module = super().wrap_model(model_wrapper_cfg, model)
            return found
        plain: nn.Module = revert_sync_batchnorm(model.to(self._device))
        return plain

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        super().resume(filename, *args, **{"map_location": str(self._device), **kwargs})

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        return super().load_checkpoint(filename, *args, **{"strict": True, "revise_keys": [], **kwargs})

    def train(self) -> nn.Module:
        """Train, and leave neither an open progress bar nor an open log file behind, whatever happens."""
        try:
            trained: nn.Module = super().train()
            return trained
        finally:
            for hook in self.hooks:
                if isinstance(hook, ProgressHook):
                    hook.close()
            for handler in self.logger.handlers:
                handler.close()

"""One training phase: OpenPCDet's own ``train_model``, with the engine at the places where it hands things out.

- ``model_func`` gives the loss: the penalty is added to it.
- ``train_sampler.set_epoch`` opens an epoch: every generator is seeded by (seed, epoch), so that an epoch depends on
  nothing but the checkpoint that it starts from.
- the optimizer inside its ``OptimWrapper`` steps: the zeros are put back after it.
- ``save_checkpoint`` ends an epoch: the iteration ends, and one file takes weights, optimizer and engine, as a whole.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from slr_det.adapter import TrainJob
from slr_det.engine import Engine
from slr_det.errors import CheckpointError, ConfigError, NumericsError
from slr_det.masks import MaskKeeper
from slr_det_adapters.openpcdet import building, checkpoints, configs, kitti
from slr_det_adapters.openpcdet.arguments import Arguments
from slr_det_adapters.openpcdet.inject import Checkout
from slr_det_adapters.openpcdet.objective import HeldBatches
from slr_det_adapters.randomness import WEIGHTS, reseed, seed_of
from slr_det_adapters.refusals import refuse_other_length

_MODULE = "train_utils.train_utils"
_PATTERN = "checkpoint_epoch_*.pth"
#: OpenPCDet deletes before it writes: of two, one is left when the disk fills up.
_KEPT = 2
_NEVER = 10**9  # seconds; a checkpoint within an epoch would hold half an iteration


def last(folder: str | Path) -> Path:
    """The newest checkpoint of a phase, or the name of the first one where there is none."""
    place = Path(folder) / "ckpt"
    found = sorted(place.glob(_PATTERN), key=lambda path: int(path.stem.rpartition("_")[2]))
    return found[-1] if found else place / _PATTERN.replace("*", "1")


def train(job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
    """Run or continue a phase to its end; returns the engine's history."""
    arguments = Arguments.read(job.args)
    device = building.device_of(job.device)
    saved: tuple[dict[str, Any], dict[str, Any]] | None = None
    newest = last(job.folder)
    if resume and newest.is_file():
        saved = content, card = checkpoints.read(str(newest))
        refuse_other_length(newest, card["epochs"], job.epochs)
        if content["epoch"] >= job.epochs:
            return _history(card)
    upstream = arguments.upstream or (configs.is_config(job.model) and configs.around(job.model)) or ""
    with building.opened(upstream, device) as checkout:
        phase = Phase(job, arguments, checkout, device)
        phase.run(saved)
    return [] if phase.engine is None else phase.engine.history


class Phase:
    """One training phase in this process."""

    def __init__(self, job: TrainJob, arguments: Arguments, checkout: Checkout, device: torch.device) -> None:
        self.job = job
        self.checkout = checkout
        self.engine: Engine | None = None
        self.masks: MaskKeeper | None = None
        self.folder = Path(job.folder)
        start: Mapping[str, Tensor] | None = None
        if configs.is_config(job.model):
            config = configs.read(job.model, checkout)
            if job.weights:
                start = checkpoints.read_any(job.weights)["model_state"]
        else:
            content, card = checkpoints.read(job.model)
            config, start = card["config"], content["model_state"]
        self.config = configs.with_arguments(config, arguments)
        self.ready = configs.live(self.config, checkout)
        reseed(seed_of(job.seed, WEIGHTS))
        self.logger = building.logger_of(self.folder, job.verbose)
        self.batches = building.loader(
            self.ready, Path(job.data), checkout, training=True, workers=arguments.workers, logger=self.logger
        )
        self._require_steps()
        self.model = building.network(self.config, checkout, device)
        if start is not None:
            checkpoints.load_into(self.model, start, job.weights or job.model)
        self.named = dict(self.model.named_parameters())
        self._bar: tqdm[Any] | None = None
        self._loss = torch.zeros((), device=device)
        self._held: HeldBatches | None = None

    def run(self, saved: tuple[dict[str, Any], dict[str, Any]] | None) -> None:
        """Train from the start, or from a checkpoint of this phase."""
        job, ready = self.job, self.ready
        place = self.folder / "ckpt"
        place.mkdir(parents=True, exist_ok=True)
        for left_over in place.glob(".*.tmp"):  # of a process that was killed
            left_over.unlink()
        if saved is None:
            for other in place.glob(_PATTERN):  # of an earlier run in this folder that shall not be continued
                other.unlink()
        if job.engine is not None:
            self.engine = job.engine.build(self.named)
        if job.keep_zeros:
            self.masks = MaskKeeper(
                {
                    name: p.detach() != 0
                    for name, p in self.named.items()
                    if p.ndim > 1 and bool((p == 0).any())
                }
            )
        seam = self.checkout.seam
        optimizer = seam("train_utils.optimization", "build_optimizer")(self.model, ready.OPTIMIZATION)
        epoch, steps = self._restore(saved, optimizer)
        self._keep_zeros()
        self.model.train()
        schedule, warmup = self.checkout.call(
            "train_utils.optimization",
            "build_scheduler",
            optimizer=optimizer,
            total_iters_each_epoch=len(self.batches),
            total_epochs=job.epochs,
            last_epoch=-1,
            optim_cfg=ready.OPTIMIZATION,
        )
        # An OptimWrapper is no optimizer of torch, but holds one.
        inner = optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer.opt
        hook = inner.register_step_post_hook(lambda *_: self._keep_zeros())
        if self.engine is not None and epoch == 0:
            self.engine.start(self._fixed_objective)
        try:
            with self._seams(epoch):
                self.checkout.call(
                    _MODULE,
                    "train_model",
                    model=self.model,
                    optimizer=optimizer,
                    train_loader=self.batches,
                    model_func=self._with_penalty(seam("pcdet.models", "model_fn_decorator")()),
                    lr_scheduler=schedule,
                    optim_cfg=ready.OPTIMIZATION,
                    start_epoch=epoch,
                    total_epochs=job.epochs,
                    start_iter=steps,
                    rank=0,
                    tb_log=None,
                    ckpt_save_dir=place,
                    train_sampler=SimpleNamespace(set_epoch=self._begin_epoch),
                    lr_warmup_scheduler=warmup,
                    ckpt_save_interval=1,
                    max_ckpt_save_num=_KEPT,
                    logger=self.logger,
                    logger_iter_interval=50,
                    ckpt_save_time_interval=_NEVER,
                    use_logger_to_record=True,
                    show_gpu_stat=False,
                    use_amp=bool(ready.OPTIMIZATION.get("USE_AMP", False)) and self._loss.is_cuda,
                    cfg=ready,
                )
        finally:
            hook.remove()

    # -- start and resume ---------------------------------------------------------------------------------

    def _require_steps(self) -> None:
        """Refuse a cycle whose rise is shorter than a step, which OpenPCDet would divide by."""
        optimization = self.ready.OPTIMIZATION
        if optimization.OPTIMIZER in ("adam", "sgd"):
            # Its loop hands every schedule two numbers, and torch's LambdaLR takes one.
            raise ConfigError(
                f"OPTIMIZATION.OPTIMIZER is '{optimization.OPTIMIZER}', whose schedule OpenPCDet's training loop "
                "cannot step; use adam_onecycle"
            )
        steps = len(self.batches) * self.job.epochs
        if optimization.OPTIMIZER == "adam_onecycle" and int(steps * optimization.PCT_START) < 1:
            raise ConfigError(
                f"{steps} steps are too few for the learning rate's cycle (OPTIMIZATION.PCT_START is "
                f"{optimization.PCT_START}); raise epochs, or lower batch"
            )

    def _restore(
        self, saved: tuple[dict[str, Any], dict[str, Any]] | None, optimizer: Any
    ) -> tuple[int, int]:
        """Take over a checkpoint of this phase; returns how many epochs and steps are done."""
        if saved is None:
            return 0, 0
        content, card = saved
        self.model.load_state_dict(content["model_state"])
        optimizer.load_state_dict(content["optimizer_state"])
        if self.engine is not None:
            if card["engine"] is None:
                raise CheckpointError(
                    f"{last(self.folder)}: was trained without a method and cannot be resumed under "
                    f"{self.engine.method}; start a new run"
                )
            self.engine.load_state_dict(card["engine"])
        if self.masks is not None and card["masks"] is not None:
            self.masks = MaskKeeper(card["masks"])
        return int(content["epoch"]), int(content["it"])

    # -- while an epoch trains ----------------------------------------------------------------------------

    def _with_penalty(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """OpenPCDet's ``model_func`` with the penalty in its loss, which is a mean over the frames of the batch."""

        def model_func(model: nn.Module, batch: dict[str, Any]) -> Any:
            result = inner(model, batch)
            frames = int(batch["batch_size"])
            self._loss += result.loss.detach()
            self._show(result.loss.detach())
            if self.engine is None:
                return result
            self.engine.observe(result.loss.detach(), frames)
            return result._replace(loss=result.loss + self.engine.penalty())

        return model_func

    def _begin_epoch(self, epoch: int) -> None:
        self._loss.zero_()
        self._epoch = epoch
        kitti.restart_samplers(self.batches.dataset, self.checkout)
        reseed(seed_of(self.job.seed, epoch))

    def _keep_zeros(self) -> None:
        if self.engine is not None:
            self.engine.after_step()
        if self.masks is not None:
            self.masks.apply(self.named)

    def _end_epoch(self, state: dict[str, Any], filename: str | Path) -> None:
        """In place of OpenPCDet's ``save_checkpoint``: end the iteration, then write everything as one file."""
        epoch = int(state["epoch"])
        if not bool(torch.isfinite(self._loss)) and self.engine is None:
            raise NumericsError(
                f"the training loss is {float(self._loss)} in epoch {epoch}; lower lr; the last good checkpoint is "
                f"{last(self.folder)}"
            )
        if self.engine is not None:
            self.engine.end_iteration(
                self._fixed_objective if self.engine.hyper.objective == "fixed" else None
            )
            self.engine.history[-1]["epoch"] = epoch
            self._keep_zeros()
        card = {
            **checkpoints.card_of(self.model, self.config),
            "epochs": self.job.epochs,
            "phase": self.job.title,
            "engine": None if self.engine is None else self.engine.state_dict(),
            "masks": None if self.masks is None else self.masks.masks,
        }
        checkpoints.write(Path(f"{filename}.pth"), {**state, checkpoints.KEY: card})

    def _fixed_objective(self) -> float:
        if self._held is None:
            self._held = HeldBatches(self.batches, self.job.seed, self.checkout)
        return self._held.mean_loss(self.model)

    # -- what OpenPCDet would do otherwise ----------------------------------------------------------------

    @contextlib.contextmanager
    def _seams(self, done: int) -> Iterator[None]:
        """Put our end of an epoch into its training module, and our progress bar in place of its two."""
        module = sys.modules[_MODULE]
        for name in ("save_checkpoint", "tqdm"):
            self.checkout.seam(_MODULE, name)
        before = module.save_checkpoint, module.tqdm  # type: ignore[attr-defined]
        module.save_checkpoint = self._end_epoch  # type: ignore[attr-defined]
        if not self.job.verbose:
            module.tqdm = SimpleNamespace(tqdm=_no_bar(tqdm), trange=_no_bar(_range))  # type: ignore[attr-defined]
        self._bar = tqdm(
            total=(self.job.epochs - done) * len(self.batches),
            desc=self.job.title,
            unit="batch",
            dynamic_ncols=True,
            mininterval=1.0 if sys.stderr.isatty() else 15.0,
            disable=self.job.verbose,
        )
        try:
            yield
        finally:
            self._bar.close()
            module.save_checkpoint, module.tqdm = before  # type: ignore[attr-defined]

    _epoch = 0

    def _show(self, loss: Tensor) -> None:
        if self._bar is not None:
            if self._bar.n % 8 == 0 and not self._bar.disable:
                self._bar.set_postfix_str(
                    f"epoch {self._epoch + 1}/{self.job.epochs}, loss {float(loss):.3g}"
                )
            self._bar.update()


def _history(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    engine = card["engine"]
    return [] if engine is None else [dict(record) for record in engine["history"]]


def _range(*args: int, **options: Any) -> Any:
    return tqdm(range(*args), **options)


def _no_bar(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **options: make(*args, **{**options, "disable": True})

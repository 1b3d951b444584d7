"""The ultralytics trainers with the engine inside, put there through methods that are meant to be overridden.

Beyond the penalty and the masks, two things differ from the plain trainer, both so that a resumed run ends in
the same weights, bit for bit, as one that was never stopped:

- every epoch starts from random generators seeded by (seed, epoch, rank) and from a fresh data iterator, so
  that an epoch depends on nothing but the state it starts from;
- an epoch always ends with an optimizer step: gradients are not carried into the next epoch, where the
  multipliers are others.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.rtdetr.train import RTDETRTrainer
from ultralytics.models.yolo.detect.train import DetectionTrainer
from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import unwrap_model

from slr_det.adapter import TrainJob
from slr_det.engine import Engine
from slr_det.errors import CheckpointError, ConfigError, NumericsError, StorageError
from slr_det.files import atomic_open
from slr_det.masks import MaskKeeper
from slr_det_adapters.ultralytics.criterion import PenalisedCriterion
from slr_det_adapters.ultralytics.offline import load_ultralytics
from slr_det_adapters.ultralytics.processes import begin_process, in_process, in_processes
from slr_det_adapters.ultralytics.shrinking import is_undescribed

JOB_VARIABLE = "SLR_DET_TRAIN_JOB"
STATE_KEY = "slr_det"
STATE_VERSION = 1
_NEVER = 1 << 31  # an accumulation count that no epoch reaches: "do not step after this batch"
_FIXED_BATCHES = 4


class _SLRTrainer(BaseTrainer):
    """What the engine needs of a detection trainer. Reads its job from the file that JOB_VARIABLE names.

    The environment reaches the processes that train on several GPUs; arguments of ours
    would not pass the trainer's argument check.
    """

    engine: Engine | None = None
    masks: MaskKeeper | None = None
    # The trainer's own, which has no type information.
    wdir: Path
    last: Path
    best: Path
    accumulate: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        load_ultralytics()  # a process of several comes here without passing the adapter
        self.job = TrainJob.from_dict(json.loads(Path(os.environ[JOB_VARIABLE]).read_text(encoding="utf-8")))
        begin_process(self.job.verbose)
        self._bar: tqdm[Any] | None = None
        self._in_epoch = False
        self._batch_index = -1
        self._last_step = -1
        self._nominal_accumulate = 1
        self._fixed_batches: list[dict[str, Any]] | None = None
        super().__init__(*args, **kwargs)

    def train(self) -> None:
        """Train; on several GPUs in a process each, which end together whatever ends one of them."""
        if self.ddp:
            in_processes(self)
        else:
            in_process(super().train)

    # -- start and resume ---------------------------------------------------------------------------------

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """Build the model as the trainer does, but take a shrunk one that no description builds as it is.

        Raises ConfigError where that one is for another number of classes than the data.
        """
        if weights is None or not is_undescribed(weights):
            return super().get_model(cfg=cfg, weights=weights, verbose=verbose)
        classes = int(weights.model[-1].nc)
        if classes != self.data["nc"]:
            raise ConfigError(
                f"model={self.job.model} is a shrunk model of {classes} classes, which cannot be built for the "
                f"{self.data['nc']} of data={self.job.data}; train the model on that data first, then shrink it"
            )
        return deepcopy(weights).float()

    def resume_training(self, ckpt: Any) -> None:
        """Build engine and masks on the model's initial weights, then let the trainer restore a checkpoint."""
        named = self._named(self.model)
        if self.job.engine is not None:
            self.engine = self.job.engine.build(named)
            pace = self._pace()
            if pace is not None:
                self.engine.fit_rho(*pace)
        if self.job.keep_zeros:
            self.masks = MaskKeeper(
                {
                    name: p.detach() != 0
                    for name, p in named.items()
                    if p.requires_grad and p.ndim > 1 and bool((p == 0).any())
                }
            )
        super().resume_training(ckpt)
        self._keep_zeros()

    def _load_checkpoint_state(self, ckpt: Any) -> None:
        super()._load_checkpoint_state(ckpt)
        state = ckpt.get(STATE_KEY)
        if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
            raise CheckpointError(
                f"{self.last}: holds no slr_det training state of version {STATE_VERSION}; it was written by another "
                "program or version and cannot be resumed here; start a new run from it with model=..."
            )
        # The trainer's own copies of these are rounded to half precision.
        unwrap_model(self.model).load_state_dict(state["model"])
        self.ema.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.engine is not None:
            self.engine.load_state_dict(state["engine"])
        if self.masks is not None:
            self.masks = MaskKeeper({name: mask.to(self.device) for name, mask in state["masks"].items()})
        self._criterion_state = state["criterion"]

    def _on_train_start(self) -> None:
        if RANK in {-1, 0}:
            for left_over in [
                *self.wdir.glob(".saving-*"),
                *self.wdir.glob(".*.tmp"),
            ]:  # of a process that was killed
                shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
            self._bar = tqdm(
                total=(self.epochs - self.start_epoch) * len(self.train_loader),
                desc=self.job.title,
                unit="batch",
                dynamic_ncols=True,
                mininterval=1.0 if sys.stderr.isatty() else 15.0,
                disable=self.job.verbose,
            )
        model = unwrap_model(self.model)
        criterion = getattr(model, "criterion", None) or model.init_criterion()
        vars(criterion).update(getattr(self, "_criterion_state", {}))
        if self.engine is not None:
            criterion = PenalisedCriterion(criterion, self.engine)
        model.criterion = criterion
        if self.engine is not None:
            if self.start_epoch == 0:
                self.engine.start(self._fixed_objective)
            self._warn_if_too_short()

    def _pace(self) -> tuple[float, float, float, int] | None:
        """Mean learning rate, momentum, loss scale and steps per iteration of a run with SGD; None for others."""
        group = self.optimizer.param_groups[0]
        if "momentum" not in group or type(self.optimizer).__name__ != "SGD":
            return None
        epochs = range(self.epochs)
        lr = group["initial_lr"] * sum(self.lf(epoch) for epoch in epochs) / len(epochs)
        images = len(self.train_loader.dataset)
        steps = max(math.ceil(len(self.train_loader) / max(self.accumulate, 1)), 1)
        return lr, self.args.momentum, images / steps, steps

    def _warn_if_too_short(self) -> None:
        """Say before the first step that this run cannot close W - Z; only SGD has a closed form for that."""
        assert self.engine is not None
        pace = self._pace()
        if pace is None:
            return
        self._warning = self.engine.check(*pace)
        if self._warning and RANK in {-1, 0} and self.start_epoch == 0:
            tqdm.write(f"warning: {self._warning}", file=sys.stderr)

    # -- one epoch is one iteration -----------------------------------------------------------------------

    def run_callbacks(self, event: str) -> None:
        """Run what this class does at the event, then the registered callbacks."""
        action = getattr(self, f"_{event}", None)
        if action is not None:
            action()
        super().run_callbacks(event)

    def _on_train_epoch_start(self) -> None:
        self._in_epoch = True
        self._batch_index = self._last_step = -1
        self._reseed(self.epoch)
        self.train_loader.generator.manual_seed(self._seed_of(self.epoch))
        forget_cached_images(self.train_loader.dataset)
        self.train_loader.reset()

    def _on_train_batch_start(self) -> None:
        self._batch_index += 1

    def preprocess_batch(self, batch: Any) -> Any:
        """Prepare a batch, and say through ``accumulate`` whether an optimizer step follows it."""
        batch = super().preprocess_batch(batch)
        if self._in_epoch:
            if self.accumulate not in (0, _NEVER):
                self._nominal_accumulate = self.accumulate  # the trainer has just set it: start, or warm-up
            due = self._batch_index - self._last_step >= self._nominal_accumulate
            last = self._batch_index == len(self.train_loader) - 1
            self.accumulate = 0 if due or last else _NEVER
        return batch

    def optimizer_step(self) -> None:
        """Step, then put the zeros back into the model and its average."""
        super().optimizer_step()
        self._last_step = self._batch_index
        self._keep_zeros()

    def _on_train_batch_end(self) -> None:
        if self._bar is not None:
            self._bar.update()
            if self._batch_index % 8 == 0 and self._bar.total:
                self._bar.set_postfix_str(
                    f"epoch {self.epoch + 1}/{self.epochs}, loss {self._mean_loss():.3g}{self._metric}"
                )

    _metric = ""
    _warning: str | None = None

    def _on_train_epoch_end(self) -> None:
        self._in_epoch = False
        if self.loss is not None and not bool(torch.isfinite(self.loss)):
            raise NumericsError(
                f"the training loss is {float(self.loss)} in epoch {self.epoch + 1}; lower lr0 or rho, or turn "
                f"amp off; the last good checkpoint is {self.last}"
            )
        if self.engine is not None:
            self.engine.end_iteration(
                self._fixed_objective if self.engine.hyper.objective == "fixed" else None
            )
            self.engine.history[-1]["epoch"] = self.epoch + 1
            if self._warning and self.epoch == 0:
                self.engine.history[-1]["warning"] = self._warning
            self._keep_zeros()

    def validate(self) -> Any:
        """Validate the averaged model as it would be after hard pruning."""
        with self._hard_pruned_average():
            metrics, fitness = super().validate()
        if metrics is not None:
            found = {
                "map50": float(metrics.get("metrics/mAP50(B)", float("nan"))),
                "map": float(metrics.get("metrics/mAP50-95(B)", float("nan"))),
            }
            self._metric = f", mAP50 {found['map50']:.3f}" + (
                " hard-pruned" if self.engine is not None else ""
            )
            if self.engine is not None:
                self.engine.history[-1]["metric"] = found
        return metrics, fitness

    @contextlib.contextmanager
    def _hard_pruned_average(self) -> Iterator[None]:
        if self.engine is None:
            yield
            return
        named = self._named(self.ema.ema)
        supports = self.engine.supports(named)
        kept = {name: named[name].detach().clone() for name in supports}
        with torch.no_grad():
            for name, support in supports.items():
                named[name].mul_(support)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, values in kept.items():
                    named[name].copy_(values)

    # -- checkpoints --------------------------------------------------------------------------------------

    def save_model(self) -> bool:
        """Write the trainer's checkpoint with the exact state of the run inside it, as a whole or not at all."""
        final = self.wdir, self.last, self.best
        self.wdir.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".saving-", dir=self.wdir))
        try:
            self.wdir, self.last, self.best = scratch, scratch / "last.pt", scratch / "best.pt"
            super().save_model()
            written = sorted(scratch.glob("*.pt"))
        except OSError as error:
            raise StorageError(
                f"{final[1]}: cannot be written ({error.strerror or error}); free some space; the previous "
                "checkpoint is untouched"
            ) from error
        finally:
            self.wdir, self.last, self.best = final
            if sys.exc_info()[0] is not None:
                shutil.rmtree(scratch, ignore_errors=True)
        try:
            for path in written:
                if path.name == "last.pt":
                    # These are the bytes that this process wrote a moment ago, not a stranger's pickle.
                    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
                    with atomic_open(self.last) as file:
                        torch.save({**checkpoint, STATE_KEY: self._state()}, file)
                else:
                    path.replace(self.wdir / path.name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return True

    def _state(self) -> dict[str, Any]:
        model = unwrap_model(self.model)
        criterion = (
            model.criterion.inner if isinstance(model.criterion, PenalisedCriterion) else model.criterion
        )
        counters = {k: v for k, v in vars(criterion).items() if type(v) in (int, float)}
        return {
            "version": STATE_VERSION,
            "model": model.state_dict(),
            "ema": self.ema.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "engine": None if self.engine is None else self.engine.state_dict(),
            "masks": None if self.masks is None else self.masks.masks,
            "criterion": counters,
        }

    def final_eval(self) -> None:
        """Leave the checkpoints as they are: the pipeline prunes, exports and evaluates them itself."""
        if self._bar is not None:
            self._bar.close()

    # -- small parts --------------------------------------------------------------------------------------

    def _keep_zeros(self) -> None:
        averaged = self._named(self.ema.ema)
        if self.engine is not None:
            self.engine.after_step(averaged)
        if self.masks is not None:
            self.masks.apply(self._named(self.model))
            self.masks.apply(averaged)

    def _fixed_objective(self) -> float:
        """Mean loss per image on a few training batches that are drawn once and held for the run."""
        model = unwrap_model(self.model)
        if self._fixed_batches is None:
            self._fixed_batches = self._draw_fixed_batches()
        criterion, training = model.criterion, model.training
        paused = isinstance(criterion, PenalisedCriterion)
        total = images = 0.0
        model.eval()
        try:
            if paused:
                criterion.paused = True
            with torch.no_grad():
                for held in self._fixed_batches:
                    batch = super().preprocess_batch(
                        {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in held.items()}
                    )
                    loss, _ = model.loss(batch, model(batch["img"]))
                    count = len(batch["img"])
                    # YOLO gives a vector multiplied by the number of images, RT-DETR a mean.
                    total += float(loss.sum()) * (count if loss.ndim == 0 else 1)
                    images += count
        finally:
            if paused:
                criterion.paused = False
            model.train(training)
        return total / images

    def _draw_fixed_batches(self) -> list[dict[str, Any]]:
        dataset = self.train_loader.dataset
        keep = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self._reseed(-1)
        size = self.train_loader.batch_size
        order = np.random.permutation(len(dataset))[: _FIXED_BATCHES * size]
        try:
            return [
                dataset.collate_fn([dataset[int(i)] for i in order[at : at + size]])
                for at in range(0, len(order), size)
            ]
        finally:
            random.setstate(keep[0])
            np.random.set_state(keep[1])
            torch.set_rng_state(keep[2])

    def _mean_loss(self) -> float:
        items = self.tloss
        if items is None:
            return float("nan")
        values = items.values() if isinstance(items, dict) else items.reshape(-1)
        return float(sum(float(value) for value in values))

    def _seed_of(self, epoch: int) -> int:
        sequence = np.random.SeedSequence([self.args.seed, epoch + 1, RANK + 1])
        return int(sequence.generate_state(1)[0])

    def _reseed(self, epoch: int) -> None:
        seed = self._seed_of(epoch)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    @staticmethod
    def _named(model: Any) -> dict[str, torch.Tensor]:
        return dict(unwrap_model(model).named_parameters())


def forget_cached_images(dataset: Any) -> None:
    """Empty the buffer of recent images that mosaic draws its partners from: it is state that no checkpoint holds."""
    buffer = getattr(dataset, "buffer", None)
    if not buffer or getattr(dataset, "cache", None) == "ram":
        return
    for index in buffer:
        dataset.ims[index] = None
        dataset.im_hw0[index] = None
        dataset.im_hw[index] = None
    buffer.clear()


class SLRDetectionTrainer(_SLRTrainer, DetectionTrainer):
    """YOLO detection models (v3 to the current series) under an engine."""


class SLRRTDETRTrainer(_SLRTrainer, RTDETRTrainer):
    """RT-DETR models under an engine."""

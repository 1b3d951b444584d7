"""One training phase: upstream's own ``train``, epoch by epoch, with the engine where it hands things out.

- its dictionary of losses has one more entry, the penalty.
- an epoch is one call: before it every generator is seeded by (seed, epoch), so that an epoch depends on nothing but
  the checkpoint that it starts from; after it the iteration ends, and one file takes weights, optimizer and engine.
- its optimizer steps: the zeros are put back after it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from slr_det.adapter import TrainJob
from slr_det.engine import Engine
from slr_det.errors import CheckpointError, NumericsError
from slr_det.masks import MaskKeeper
from slr_det.models.parsingnet import load
from slr_det.models.weights import read_state_dict
from slr_det_adapters.hidden import Checkout, installed
from slr_det_adapters.randomness import HELD_BATCHES, WEIGHTS, reseed, seed_of, untouched_generators
from slr_det_adapters.refusals import refuse_other_length
from slr_det_adapters.ufld import building, checkpoints, configs
from slr_det_adapters.ufld.arguments import Arguments
from slr_det_adapters.ufld.checkpoints import Checkpoint
from slr_det_adapters.ufld.losses import Losses

#: Weights that torchvision publishes for its ResNets, and upstream starts from.
PRETRAINED = "pretrained"
_MODULE, _FACTORY = "train", "utils.factory"
_FIXED_BATCHES = 4


def last(folder: str | Path) -> Path:
    """The newest checkpoint of a phase, or the name of the first one where there is none."""
    found = sorted(Path(folder).glob("ep*.pth"), key=_epoch_of)
    return found[-1] if found else _file(Path(folder), 0)


def _file(folder: Path, epoch: int) -> Path:
    """Upstream's name for the checkpoint that an epoch, counted from 0, ends in."""
    return folder / f"ep{epoch:03d}.pth"


def _epoch_of(path: Path) -> int:
    number = path.stem.removeprefix("ep")
    return int(number) if number.isdecimal() else -1


def train(job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
    """Run or continue a phase to its end; returns the engine's history."""
    arguments = Arguments.read(job.args)
    device = building.device_of(job.device)
    saved: Checkpoint | None = None
    newest = last(job.folder)
    if resume and newest.is_file():
        saved = checkpoints.read(str(newest))
        refuse_other_length(newest, saved.card.get("epochs"), job.epochs)
        if saved.card["epoch"] >= job.epochs:
            return _history(saved.card)
    around = configs.around(job.model) if configs.is_config(job.model) else None
    with building.opened(arguments.upstream or around or "", device) as checkout:
        phase = Phase(job, arguments, checkout, device)
        phase.run(saved)
    return [] if phase.engine is None else phase.engine.history


class Phase:
    """One training phase in this process."""

    def __init__(self, job: TrainJob, arguments: Arguments, checkout: Checkout, device: torch.device) -> None:
        self.job = job
        self.checkout = checkout
        self.device = device
        self.folder = Path(job.folder)
        self.engine: Engine | None = None
        self.masks: MaskKeeper | None = None
        start = checkpoints.read(job.model) if checkpoints.is_checkpoint(job.model) else None
        self.config = configs.for_phase(
            job.model,
            arguments,
            checkout,
            given=None if start is None else start.network,
            own=None if start is None else start.card.get("config"),
        )
        reseed(seed_of(job.seed, WEIGHTS))
        self.batches = building.train_loader(self.config, Path(job.data), checkout, arguments.workers)
        self.model = self._network(start)
        self.named = dict(self.model.named_parameters())
        self._bar: tqdm[Any] | None = None
        self._held: list[Any] | None = None
        self._epoch = 0

    def run(self, saved: Checkpoint | None) -> None:
        """Train from the start, or from a checkpoint of this phase."""
        job, seam = self.job, self.checkout.seam
        self._clear(saved)
        if job.engine is not None:
            self.engine = job.engine.build(self.named)
        if job.keep_zeros:
            pruned = {
                n: p.detach() != 0 for n, p in self.named.items() if p.ndim > 1 and bool((p == 0).any())
            }
            self.masks = MaskKeeper(pruned)
        config = configs.live(self.config, self.checkout, epoch=job.epochs, data_root=job.data)
        optimizer = seam(_FACTORY, "get_optimizer")(self.model, config)
        # Before the optimizer's state is read: it takes the learning rate that it finds for the top of its schedule.
        scheduler = seam(_FACTORY, "get_scheduler")(optimizer, config, len(self.batches))
        done = self._restore(saved, optimizer)
        self._keep_zeros()
        self.losses = Losses(seam(_FACTORY, "get_loss_dict")(config), self.engine, self.device)
        if self.engine is not None and done == 0:
            self.engine.start(self._fixed_objective)
        step = seam(_MODULE, "train")
        metrics = seam(_FACTORY, "get_metric_dict")(config)
        hook = optimizer.register_step_post_hook(lambda *_: self._keep_zeros())
        try:
            with self._seams(done), self._logger() as logger:
                for epoch in range(done, job.epochs):
                    self._epoch = epoch
                    self.losses.seen.zero_()
                    reseed(seed_of(job.seed, epoch))
                    step(
                        self.model,
                        self.batches,
                        self.losses.entries,
                        optimizer,
                        scheduler,
                        logger,
                        epoch,
                        metrics,
                        config.use_aux,
                    )
                    self._end_epoch(epoch, optimizer)
        finally:
            hook.remove()

    # -- start and resume ---------------------------------------------------------------------------------

    def _network(self, start: Checkpoint | None) -> nn.Module:
        job = self.job
        wanted = configs.network(self.config)
        model = building.network(
            wanted,
            self.checkout,
            self.device,
            aux=wanted.aux,
            pretrained=start is None and job.weights == PRETRAINED,
        )
        if start is not None:
            load(model, start.state, start.path)
        elif job.weights not in ("", PRETRAINED):
            load(model, read_state_dict(job.weights), job.weights)
        return model

    def _clear(self, saved: Checkpoint | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for left_over in self.folder.glob(".ep*.tmp"):  # of a process that was killed
            left_over.unlink()
        if saved is None:
            for other in self.folder.glob("ep*.pth"):  # of an earlier run here that shall not be continued
                other.unlink()

    def _restore(self, saved: Checkpoint | None, optimizer: torch.optim.Optimizer) -> int:
        """Take over a checkpoint of this phase; returns how many epochs are done."""
        if saved is None:
            return 0
        self.model.load_state_dict(saved.state)
        optimizer.load_state_dict(saved.optimizer or {})
        if self.engine is not None:
            if saved.card["engine"] is None:
                raise CheckpointError(
                    f"{saved.path}: was trained without a method and cannot be resumed under {self.engine.method}; "
                    "start a new run"
                )
            self.engine.load_state_dict(saved.card["engine"])
        if self.masks is not None and saved.card["masks"] is not None:
            self.masks = MaskKeeper(saved.card["masks"])
        return int(saved.card["epoch"])

    # -- while an epoch trains ----------------------------------------------------------------------------

    def _keep_zeros(self) -> None:
        if self.engine is not None:
            self.engine.after_step()
        if self.masks is not None:
            self.masks.apply(self.named)

    def _end_epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        """End the iteration, then write everything as one file, under the name that upstream would give it."""
        if not bool(torch.isfinite(self.losses.seen)) and self.engine is None:
            raise NumericsError(
                f"the training loss is {float(self.losses.seen)} in epoch {epoch + 1}; lower lr; the last good "
                f"checkpoint is {last(self.folder)}"
            )
        if self.engine is not None:
            fixed = self.engine.hyper.objective == "fixed"
            self.engine.end_iteration(self._fixed_objective if fixed else None)
            self.engine.history[-1]["epoch"] = epoch + 1
            self._keep_zeros()
        before = list(self.folder.glob("ep*.pth"))
        checkpoints.write(
            _file(self.folder, epoch),
            {
                "model": self.model.state_dict(),
                "optimizer": optimizer.state_dict(),
                checkpoints.KEY: checkpoints.card(
                    config=self.config,
                    epochs=self.job.epochs,
                    epoch=epoch + 1,
                    phase=self.job.title,
                    engine=None if self.engine is None else self.engine.state_dict(),
                    masks=None if self.masks is None else self.masks.masks,
                ),
            },
        )
        for older in before:
            if older != _file(self.folder, epoch):
                older.unlink()

    # -- the fixed objective ------------------------------------------------------------------------------

    def _fixed_objective(self) -> float:
        """Mean loss per image on a few training batches that are drawn once and held for the run."""
        if self._held is None:
            with untouched_generators():
                reseed(seed_of(self.job.seed, HELD_BATCHES))
                self._held = [batch for _, batch in zip(range(_FIXED_BATCHES), self.batches, strict=False)]
        look = self.checkout.seam(_MODULE, "inference")
        training = {module: module.training for module in self.model.modules()}
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()  # statistics are neither taken from these batches nor changed by them
        total = frames = 0.0
        try:
            with torch.no_grad():
                for batch in self._held:
                    results: dict[str, Tensor] = look(self.model, batch, self.config["use_aux"])
                    total += float(self.losses.of(results)) * len(batch[0])
                    frames += len(batch[0])
        finally:
            for module, mode in training.items():
                module.training = mode
        return total / frames

    # -- what upstream would do otherwise -----------------------------------------------------------------

    @contextlib.contextmanager
    def _seams(self, done: int) -> Iterator[None]:
        """Give ``train`` the loader, which it takes from its main program, and our progress bar for its own."""
        self.checkout.seam(_MODULE, "dist_tqdm")
        self._bar = tqdm(
            total=(self.job.epochs - done) * len(self.batches),
            desc=self.job.title,
            unit="batch",
            dynamic_ncols=True,
            mininterval=1.0 if sys.stderr.isatty() else 15.0,
            disable=self.job.verbose,
        )
        names: dict[str, Any] = {"train_loader": self.batches}
        if not self.job.verbose:
            names["dist_tqdm"] = lambda batches: _Batches(batches, self)
        try:
            with self.checkout.replaced(_MODULE, **names):
                yield
        finally:
            self._bar.close()

    @contextlib.contextmanager
    def _logger(self) -> Iterator[Any]:
        """Upstream's writer: scalars for TensorBoard in the phase's folder, where that is installed."""
        make = self.checkout.seam("utils.dist_utils", "DistSummaryWriter")
        writer = make(str(self.folder / "log")) if installed("tensorboard") else make()
        try:
            yield writer
        finally:
            writer.close()

    def advance(self, loss: str) -> None:
        """Count a step; ``loss`` is the text that upstream shows."""
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"epoch {self._epoch + 1}/{self.job.epochs}, loss {loss}", refresh=False
            )
            self._bar.update()


class _Batches:
    """Stands in for upstream's progress bar over its loader."""

    def __init__(self, batches: Any, phase: Phase) -> None:
        self._batches = batches
        self._phase = phase

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)

    def set_postfix(self, loss: str, **_: Any) -> None:
        """What upstream calls at the end of every step."""
        self._phase.advance(loss)


def _history(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    engine = card["engine"]
    return [] if engine is None else [dict(record) for record in engine["history"]]

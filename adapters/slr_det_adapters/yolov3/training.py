"""One training phase: upstream's own ``train``, with the engine where it takes its parts by name.

- its loss has the penalty added (:mod:`slr_det_adapters.yolov3.criterion`).
- an epoch starts from generators that depend on (seed, epoch) alone, and from a fresh iterator over the data; when it
  ends, the iteration ends.
- after every step of its optimizer the zeros are put back, and after every update of its average those there.
- what it saves has the exact state of the run beside it, and is written as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import sys
from argparse import Namespace
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from slr_det.adapter import TrainJob
from slr_det.engine import Engine
from slr_det.errors import CheckpointError, NumericsError
from slr_det.masks import MaskKeeper
from slr_det_adapters.hidden import Checkout
from slr_det_adapters.randomness import reseed, seed_of
from slr_det_adapters.refusals import refuse_other_length
from slr_det_adapters.yolov3 import building, checkpoints
from slr_det_adapters.yolov3.arguments import Arguments
from slr_det_adapters.yolov3.checkpoints import Checkpoint
from slr_det_adapters.yolov3.criterion import PenalisedLoss
from slr_det_adapters.yolov3.objective import HeldBatches
from slr_det_adapters.yolov3.pace import LEAST_WARMUP, NOMINAL_BATCH, learning_rates
from slr_det_adapters.yolov3.steps import Batches, Torch

_MODULE = "train"


def last(folder: str | Path) -> Path:
    """Where upstream's ``train`` saves after every epoch."""
    return Path(folder) / "weights" / "last.pt"


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
            return _history(saved)
    if checkpoints.is_checkpoint(job.model):
        checkpoints.read(job.model)  # upstream would run whatever code is in it
    upstream = arguments.upstream or building.around(job.model) or ""
    with building.opened(upstream, device, job.data, verbose=job.verbose) as checkout:
        phase = Phase(job, arguments, checkout, device, saved)
        phase.run()
    return [] if phase.engine is None else phase.engine.history


class Phase:
    """One training phase in this process.

    Attributes:
        engine: The method's engine, from the moment that upstream's training starts.
        optimizer: Upstream's.
        average: Upstream's averaged model.
        epoch: The epoch under way, counted from 0.
    """

    def __init__(
        self,
        job: TrainJob,
        arguments: Arguments,
        checkout: Checkout,
        device: torch.device,
        saved: Checkpoint | None,
    ) -> None:
        self.job = job
        self.arguments = arguments
        self.checkout = checkout
        self.device = device
        self.saved = saved
        self.folder = Path(job.folder)
        self.engine: Engine | None = None
        self.masks: MaskKeeper | None = None
        self.epoch = -1 if saved is None else int(saved.card["epoch"]) - 1
        self.hyp = building.hyperparameters(arguments, checkout)
        self.loaders: list[Any] = []
        self.model: nn.Module
        self.optimizer: torch.optim.Optimizer
        self.average: Any
        self.loss: PenalisedLoss
        self._scaler: Any = None
        self._held: HeldBatches | None = None
        self._batches: Batches | None = None
        self._last_step = -1 if saved is None else int(saved.card["last_step"])
        self._bar: tqdm[Any] | None = None
        self._metric = ""
        self._warning: str | None = None

    def run(self) -> None:
        """Train from the start, or from the checkpoint of this phase."""
        self._clear()
        events = self.checkout.seam("utils.callbacks", "Callbacks")()
        for event, action in {
            "on_train_start": self._on_train_start,
            "on_train_epoch_start": self._on_train_epoch_start,
            "on_train_batch_end": self._on_train_batch_end,
            "on_train_epoch_end": self._on_train_epoch_end,
        }.items():
            events.register_action(event, callback=action)
        options = self._options()
        try:
            with self._seams():
                self.checkout.seam(_MODULE, "train")(self.hyp, options, self.device, events)
        except AssertionError as error:
            raise building.refused_by_upstream(error) from error
        except RuntimeError as error:
            if "Error loading data" not in str(error):
                raise
            raise building.refused_by_upstream(error) from error
        finally:
            if self._bar is not None:
                self._bar.close()

    # -- what upstream is given ---------------------------------------------------------------------------

    def _options(self) -> Namespace:
        job = self.job
        given = checkpoints.is_checkpoint(job.model)
        if given:
            self.hyp.pop("anchors", None)  # the model has its own
        architecture = "" if given else str(building.architecture(job.model, self.checkout))
        # New anchors mean something else to a head that is trained already.
        fit = self.arguments.autoanchor and job.engine is None and not job.keep_zeros
        return building.options(
            self.arguments,
            self.checkout,
            weights=str(last(self.folder)) if self.saved is not None else job.model if given else "",
            cfg="" if self.saved is not None else architecture,
            resume=self.saved is not None,
            data=job.data,
            epochs=job.epochs,
            seed=job.seed,
            hyp=self.hyp,
            noautoanchor=not fit,
            device=str(self.device),
            save_dir=str(self.folder),
            project=str(self.folder.parent),
            name=self.folder.name,
            exist_ok=True,
        )

    @contextlib.contextmanager
    def _seams(self) -> Iterator[None]:
        """Let the names that upstream's ``train`` takes its parts by mean the same parts, watched."""
        seam = self.checkout.seam
        optimizer, average, loader, loss = (
            seam(_MODULE, name)
            for name in ("smart_optimizer", "ModelEMA", "create_dataloader", "ComputeLoss")
        )
        self._show, self._validator = seam(_MODULE, "TQDM"), seam(_MODULE, "validate")
        for name in ("strip_optimizer", "check_amp"):
            seam(_MODULE, name)

        def make_optimizer(model: nn.Module, *args: Any) -> Any:
            self.model, self.optimizer = model, optimizer(model, *args)
            self.optimizer.register_step_post_hook(lambda *_: self._keep_zeros())
            return self.optimizer

        def make_average(model: nn.Module) -> Any:
            self.average = average(model)
            update = self.average.update

            def update_and_keep(trained: nn.Module) -> None:
                update(trained)
                self._keep_zeros()
                assert self._batches is not None
                self._last_step = self._batches.place

            self.average.update = update_and_keep
            return self.average

        def make_loader(*args: Any, **kwargs: Any) -> Any:
            made = loader(*args, **kwargs)
            self.loaders.append(made[0])
            return made

        def make_loss(model: nn.Module) -> PenalisedLoss:
            return self._begin(loss(model))

        with self.checkout.replaced(
            _MODULE,
            smart_optimizer=make_optimizer,
            ModelEMA=make_average,
            create_dataloader=make_loader,
            ComputeLoss=make_loss,
            TQDM=self._watch,
            validate=SimpleNamespace(run=self._validate),
            strip_optimizer=lambda *_, **__: None,  # the pipeline prunes and exports what was saved
            check_amp=lambda _: (
                self.arguments.amp and self.device.type == "cuda"
            ),  # its own would fetch a model
            torch=Torch(self._save, self._make_scaler),
        ):
            yield

    def _make_scaler(self, *args: Any, **kwargs: Any) -> Any:
        self._scaler = torch.amp.GradScaler(*args, **kwargs)
        return self._scaler

    # -- start and resume ---------------------------------------------------------------------------------

    def _clear(self) -> None:
        weights = last(self.folder).parent
        weights.mkdir(parents=True, exist_ok=True)
        for left_over in weights.glob(".*.tmp"):  # of a process that was killed
            left_over.unlink()
        if self.saved is None:  # an earlier run here shall not be continued
            for other in (*weights.glob("*.pt"), self.folder / "results.csv"):
                other.unlink(missing_ok=True)

    def _begin(self, upstream: Any) -> PenalisedLoss:
        """Everything is there and nothing is trained yet: build engine and masks, and take over what was saved."""
        job, named = self.job, dict(self.model.named_parameters())
        if job.engine is not None:
            self.engine = job.engine.build(named)
            pace = self._pace()
            if pace is not None:
                self.engine.fit_rho(*pace)
        if job.keep_zeros:
            self.masks = MaskKeeper(
                {n: p.detach() != 0 for n, p in named.items() if p.ndim > 1 and bool((p == 0).any())}
            )
        if self.saved is not None:
            self._restore(self.saved)
        self._keep_zeros()
        self.loss = PenalisedLoss(upstream, self.engine, self.device)
        self._held = HeldBatches(self.loaders[0], job.seed, upstream=self.loss, device=self.device)
        return self.loss

    def _restore(self, saved: Checkpoint) -> None:
        card = saved.card
        # Upstream's own copies of these are rounded to half precision.
        self.model.load_state_dict(card["model"])
        self.average.ema.load_state_dict(card["ema"])
        self._scaler.load_state_dict(card["scaler"])
        if self.engine is not None:
            if card["engine"] is None:
                raise CheckpointError(
                    f"{saved.path}: was trained without a method and cannot be resumed under {self.engine.method}; "
                    "start a new run"
                )
            self.engine.load_state_dict(card["engine"])
        if self.masks is not None and card["masks"] is not None:
            self.masks = MaskKeeper({name: mask.to(self.device) for name, mask in card["masks"].items()})

    def _pace(self) -> tuple[float, float, float, int] | None:
        """Mean learning rate, momentum, loss scale and steps per iteration of a run with SGD; None for others."""
        if self.arguments.optimizer != "SGD":
            return None
        hyp, epochs, loader = self.hyp, self.job.epochs, self.loaders[0]
        batches = len(loader)
        rates = learning_rates(
            epochs,
            batches,
            last=hyp["lrf"],
            cosine=self.arguments.cos_lr,
            warmup=max(round(hyp["warmup_epochs"] * batches), LEAST_WARMUP),
        )
        steps = max(batches // max(round(NOMINAL_BATCH / self.arguments.batch), 1), 1)
        return hyp["lr0"] * float(rates.mean()), hyp["momentum"], len(loader.dataset) / steps, steps

    # -- while upstream trains ----------------------------------------------------------------------------

    def _on_train_start(self) -> None:
        done = self.epoch + 1
        self._bar = tqdm(
            total=(self.job.epochs - done) * len(self.loaders[0]),
            desc=self.job.title,
            unit="batch",
            dynamic_ncols=True,
            mininterval=1.0 if sys.stderr.isatty() else 15.0,
            disable=self.job.verbose,
        )
        if self.engine is None or done:
            return
        self.engine.start(self._mean_held_loss)
        pace = self._pace()
        self._warning = None if pace is None else self.engine.check(*pace)
        if self._warning:
            tqdm.write(f"warning: {self._warning}", file=sys.stderr)

    def _on_train_epoch_start(self) -> None:
        self.epoch += 1
        self.loss.seen.zero_()
        reseed(seed_of(self.job.seed, self.epoch))
        loader = self.loaders[0]
        loader.generator.manual_seed(seed_of(self.job.seed, self.epoch))
        loader.iterator = torch.utils.data.DataLoader.__iter__(loader)

    def _watch(self, batches: Any, total: int) -> Batches:
        """In place of upstream's progress bar over an epoch."""
        shown = self._show(batches, total=total) if self.job.verbose else batches
        self._batches = Batches(shown, first=total * self.epoch, last_step=self._last_step)
        return self._batches

    def _on_train_batch_end(self, *_: Any) -> None:
        if self._bar is not None:
            said = "" if self._batches is None else self._batches.said
            self._bar.set_postfix_str(
                f"epoch {self.epoch + 1}/{self.job.epochs}{said}{self._metric}", refresh=False
            )
            self._bar.update()

    def _keep_zeros(self) -> None:
        averaged = dict(self.average.ema.named_parameters())
        if self.engine is not None:
            self.engine.after_step(averaged)
        if self.masks is not None:
            self.masks.apply(dict(self.model.named_parameters()), averaged)

    # -- between epochs -----------------------------------------------------------------------------------

    def _on_train_epoch_end(self, epoch: int) -> None:
        if not bool(torch.isfinite(self.loss.seen)) and self.engine is None:
            raise NumericsError(
                f"the training loss is {float(self.loss.seen)} in epoch {epoch + 1}; lower lr0, or turn amp off; the "
                f"last good checkpoint is {last(self.folder)}"
            )
        if self.engine is None:
            return
        self.engine.end_iteration(self._mean_held_loss if self.engine.hyper.objective == "fixed" else None)
        self.engine.history[-1]["epoch"] = epoch + 1
        if self._warning and epoch == 0:
            self.engine.history[-1]["warning"] = self._warning
        self._keep_zeros()

    def _mean_held_loss(self) -> float:
        assert self._held is not None
        return self._held.mean_loss(self.model)

    def _validate(self, data: Any, **given: Any) -> Any:
        """Upstream's validation of the averaged model as it would be after hard pruning.

        It gets a copy: in mixed precision it rounds the weights of what it is given.
        """
        if not self.arguments.val:
            return (0.0,) * 7, torch.zeros(int(data["nc"])).numpy(), (0.0,) * 3
        copy = deepcopy(given.pop("model"))
        if self.engine is not None:
            named = dict(copy.named_parameters())
            with torch.no_grad():
                for name, support in self.engine.supports(named).items():
                    named[name].masked_fill_(~support, 0.0)
        result = self._validator.run(data, model=copy, **given)
        found = {"map50": float(result[0][2]), "map": float(result[0][3])}
        self._metric = f", mAP50 {found['map50']:.3f}" + (" hard-pruned" if self.engine is not None else "")
        if self.engine is not None:
            self.engine.history[-1]["metric"] = found
        return result

    def _save(self, content: dict[str, Any], path: Path) -> None:
        """In place of ``torch.save``: the same checkpoint with the state of the run; only the last one is kept."""
        if Path(path).name != last(self.folder).name:
            return
        state = checkpoints.card(
            phase=self.job.title,
            epochs=self.job.epochs,
            epoch=int(content["epoch"]) + 1,
            last_step=self._last_step,
            model=self.model.state_dict(),
            ema=self.average.ema.state_dict(),
            scaler=self._scaler.state_dict(),
            engine=None if self.engine is None else self.engine.state_dict(),
            masks=None if self.masks is None else self.masks.masks,
        )
        fitness = float(np.asarray(content["best_fitness"]).reshape(-1)[0])
        checkpoints.write(last(self.folder), {**content, "best_fitness": fitness, checkpoints.KEY: state})


def _history(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    engine = checkpoint.card["engine"]
    return [] if engine is None else [dict(record) for record in engine["history"]]

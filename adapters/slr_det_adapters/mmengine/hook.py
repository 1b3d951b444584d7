"""SLRHook: a pruning method inside any Runner of mmengine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor

from slr_det.engine import Engine
from slr_det.errors import ConfigError
from slr_det.masks import MaskKeeper
from slr_det.objective import RunningMean
from slr_det_adapters.mmengine import checkpoints, inspection, resume
from slr_det_adapters.mmengine.agreement import agreed_digest
from slr_det_adapters.mmengine.arguments import choose, read_arguments
from slr_det_adapters.mmengine.checkpoint_hook import BACKEND
from slr_det_adapters.mmengine.history import HistoryFile, scalars
from slr_det_adapters.mmengine.loss import wrap_update
from slr_det_adapters.mmengine.objective import HeldBatches
from slr_det_adapters.mmengine.plan import plan_of
from slr_det_adapters.mmengine.steps import SeededBatches, restart_loader
from slr_det_adapters.mmengine.view import PrunedView
from slr_det_adapters.randomness import reseed, seed_of


@HOOKS.register_module()
class SLRHook(Hook):
    """Trains the model of a Runner under a pruning method, or with its zeros held.

    Everything that a run needs beyond the Runner's own configuration is in the hook: the penalty joins the loss at
    the loss's scale, masks hold on the model and on EMA copies, checkpoints resume bit for bit and open with plain
    ``torch.load``, validation shows the model as it would be after hard pruning, and the end is a pruned file.

    Args:
        method: Name of a registered method: slr, admm, penalty, gradual, oneshot, none; or None for plain training
            that is resumed the same way.
        engine: Groups that are decided already, as ``EngineSpec.to_dict()`` gives them; excludes ``method``,
            ``hyper`` and everything that selects.
        compression: All weights / nonzero weights of the whole model to reach, e.g. 3.33 or "3.33x".
        keep: Share of the selected weights that stays, in (0, 1]; instead of ``compression``.
        projection: Kind of sparsity, anything that ``Projection.parse`` reads, e.g. "2:4" or "filter".
        allocation: How the budget is split: uniform, erk, global, layerwise (with ``ratios``) or sensitivity.
        ratios: Keep ratios by parameter name or glob.
        sensitivity: File of a sensitivity scan.
        include: Globs of parameter names; where given, other layers stay dense.
        exclude: Globs of parameters that stay dense. Frozen parameters always do.
        dense_first: Leave the first convolution or linear layer dense.
        heads: Globs of the layers that write the result; they stay dense.
        hyper: Hyperparameters that differ from the defaults: fields of :class:`slr_det.engine.Hyper`.
        iterations_per_epoch: Iterations of the method in each epoch, evenly spaced; the last ends with the epoch.
        iterations: Iterations over the whole run, for loops without epochs.
        keep_zeros: Masked retraining instead of a method: weights that are zero at the start stay zero.
        prune_at_end: After training, hard-prune model and EMA copies and write ``pruned.pth`` (``retrained.pth``
            with ``keep_zeros``): meta and state_dict alone.
        validate_pruned: Validate the model as it would be after hard pruning.
        reseed: Seed every generator by (seed, epoch, rank) at each epoch's start (by batch in loops without epochs),
            so that a resumed run is the same run.
        loss_scale: What the model multiplies its mean loss by, for models that do; the penalty follows.
        fixed_batches: Batches held for ``hyper=dict(objective='fixed')``.

    Raises:
        ConfigError: With everything that is wrong with the arguments; before training, with what the model, the loop
            or the other hooks rule out.
    """

    # After the averaging (50) and the schedules (70), before checkpoints are written (90).
    priority = 80

    def __init__(self, **arguments: Any) -> None:
        self.arguments = read_arguments(arguments)
        self.engine: Engine | None = None
        self.masks: MaskKeeper | None = None
        self._named: dict[str, Tensor] = {}
        self._copies: list[dict[str, Tensor]] = []
        self._saved: Any = None
        self._view = PrunedView()
        self._undo: Callable[[], None] | None = None
        self._objective: Callable[[], float] | None = None
        self._warning: str | None = None
        self._publishing = False

    @property
    def history(self) -> list[dict[str, Any]]:
        """One record per ended iteration, with ``step`` and ``epoch`` (where the loop has epochs) added."""
        return [] if self.engine is None else self.engine.history

    # -- start and resume ---------------------------------------------------------------------------------

    def before_run(self, runner: Runner) -> None:
        """Refuse a checkpoint that cannot be resumed, before mmengine fails on it."""
        path = inspection.resumes_from(runner)
        if path is not None:
            checkpoints.require_state(checkpoints.read_checkpoint(path), str(path))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep our part of the checkpoint for :meth:`before_train`; give mmengine its own part back."""
        if isinstance(checkpoint.get("message_hub"), Mapping):
            checkpoint["message_hub"] = checkpoints.revive(checkpoint["message_hub"])
        self._saved = checkpoint.pop(checkpoints.STATE_KEY, None)

    def before_train(self, runner: Runner) -> None:
        """Build the engine on the weights training starts from, or take over what a checkpoint holds."""
        inspection.require_supported(runner, self)
        if self._undo is not None:
            self._undo()
        self._model = inspection.unwrapped(runner.model)
        self._named = dict(self._model.named_parameters())
        self._copies = inspection.averaged_copies(runner)
        self._by_epoch = not isinstance(runner.train_loop, IterBasedTrainLoop)
        self._file = HistoryFile(Path(runner.work_dir))
        self._plan = plan_of(runner.max_iters, runner.max_epochs if self._by_epoch else None, self.arguments)
        self._mean = RunningMean(next(iter(self._named.values())).device, None)
        if self.arguments.keep_zeros:
            self.masks = MaskKeeper(inspection.zeros_of(self._named))
        elif self.arguments.method is not None:
            spec, allocation = choose(self.arguments, self._model, len(self._plan.ends))
            inspection.require_trained(spec, self._named, runner.optim_wrapper)
            self.engine = spec.build(self._named)
            inspection.fit_rho(runner, self.engine, self._named, self.arguments.loss_scale)
            if allocation is not None:
                runner.logger.info(allocation.table())
        if runner.iter > 0:
            self._take_over(runner)
        elif self.masks is not None and not self.masks.masks:
            raise ConfigError(
                "keep_zeros is set, but no weight of the model is zero; load a pruned checkpoint with load_from=..., "
                "or remove keep_zeros"
            )
        self._saved = None
        self._step = runner.iter
        self._after_step()
        self._keep_zeros_of_copies()
        if self.engine is not None:
            self._prepare_engine(runner, self.engine)
        self._undo = wrap_update(
            runner.optim_wrapper,
            self._observe,
            self._penalty if self.engine is not None else None,
            self._after_step,
        )
        if self.arguments.reseed and not self._by_epoch:
            loop = runner.train_loop
            loop.dataloader_iterator = SeededBatches(loop.dataloader_iterator, runner.seed, runner.rank)

    def _take_over(self, runner: Runner) -> None:
        where = resume.where_of(runner, self._by_epoch)
        state = checkpoints.require_state({checkpoints.STATE_KEY: self._saved}, where)
        resume.require_same_place(runner, self._by_epoch, where)
        resume.require_same_kind(state, self.engine, self.masks, where)
        if self.engine is not None:
            self.engine.load_state_dict(state["engine"])
            resume.require_same_iteration(self.engine, self._plan, runner.iter, where)
            self._file.complete(self.engine.history)
        if self.masks is not None:
            self.masks = resume.load_masks(state["masks"], self._named, where)
        inspection.set_sampler_seed(runner.train_dataloader, state["sampler_seed"])

    def _prepare_engine(self, runner: Runner, engine: Engine) -> None:
        if engine.hyper.objective == "fixed":
            inspection.require_base_model(self._model)
            held = HeldBatches(
                runner.train_dataloader, self.arguments.fixed_batches, runner.seed, runner.rank
            )
            self._objective = lambda: held.loss(self._model, runner.optim_wrapper) / self.arguments.loss_scale
            if runner.iter == 0:
                engine.start(self._objective)
        self._warning = inspection.too_short(runner, engine, self._named, self.arguments.loss_scale)
        if self._warning and runner.iter == 0:
            runner.logger.warning(self._warning, extra={"slr_det": True})

    # -- while it trains ----------------------------------------------------------------------------------

    def before_train_epoch(self, runner: Runner) -> None:
        """Make the epoch depend on nothing but the state it starts from."""
        if self.arguments.reseed and self._by_epoch:
            seed = seed_of(runner.seed, runner.epoch, runner.rank)
            restart_loader(runner.train_dataloader, seed)
            reseed(seed)
        self._begin_window(runner, runner.iter)

    def _begin_window(self, runner: Runner, step: int) -> None:
        # Gradients that were accumulated under old multipliers are not applied under new ones, nor carried over an
        # epoch's end, where a checkpoint would lose them. This is mmengine's own way to close an incomplete window.
        done, length = self._plan.window(step)
        runner.optim_wrapper.initialize_count_status(runner.model, done, length)

    def _observe(self, loss: Tensor) -> None:
        mean = loss.detach() / self.arguments.loss_scale
        if self.engine is not None:
            self.engine.observe(mean)
        else:
            self._mean.add(mean, 1.0)

    def _penalty(self) -> Tensor:
        assert self.engine is not None
        return self.engine.penalty(self.arguments.loss_scale)

    def _after_step(self) -> None:
        if self.engine is not None:
            self.engine.after_step()
        if self.masks is not None:
            self.masks.apply(self._named)

    def _keep_zeros_of_copies(self) -> None:
        if self.engine is not None and self.engine.state.masks:
            MaskKeeper(self.engine.state.masks).apply(*self._copies)
        if self.masks is not None:
            self.masks.apply(*self._copies)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Put the zeros back into averaged copies, and end an iteration of the method where one ends."""
        self._keep_zeros_of_copies()
        self._step = step = runner.iter + 1
        if not self._plan.is_end(step):
            return
        if self.engine is None:
            inspection.require_finite(self._named, f"after step {step}")
            inspection.require_finite_loss(self._mean.mean(), f"after step {step}")
            self._mean.reset()
        else:
            record = self.engine.end_iteration(self._objective)
            record["step"] = step
            if self._by_epoch:
                record["epoch"] = runner.epoch + 1
            if self._warning and record["iteration"] == 1:
                record["warning"] = self._warning
            self._keep_zeros_of_copies()
            self._file.write(self.history)
        self._begin_window(runner, step)

    # -- validation ---------------------------------------------------------------------------------------

    def before_val(self, runner: Runner) -> None:
        """Show the model, and its averaged copies, as hard pruning would leave them.

        Before the EMA hook exchanges the two (before_val_epoch), so that its exchange nests in ours.
        """
        if self.engine is not None and self._undo is not None and self.arguments.validate_pruned:
            self._view.show(self.engine, [self._named, *self._copies])

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Give the weights back, before a checkpoint hook writes the best ones, and note the score."""
        self._view.restore()
        if self._undo is not None and self.history and metrics:
            self.history[-1]["metric"] = scalars(metrics)
            self._file.write(self.history)

    # -- checkpoints and the end --------------------------------------------------------------------------

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add our state, and turn the rest into what ``torch.load`` opens without running code."""
        inspection.require_finite(
            {
                name: checkpoint["state_dict"][name]
                for name in self._named
                if name in checkpoint["state_dict"]
            },
            f"after step {self._step}",
        )
        if self._publishing:
            for key in checkpoint.keys() - {"meta", "state_dict"}:
                del checkpoint[key]
        elif "optimizer" in checkpoint:  # else it is no checkpoint to resume from, such as a best_*.pth
            checkpoint[checkpoints.STATE_KEY] = {
                "version": checkpoints.STATE_VERSION,
                "engine": None if self.engine is None else self.engine.state_dict(),
                "masks": None if self.masks is None else dict(self.masks.masks),
                "sampler_seed": inspection.sampler_seed(runner.train_dataloader),
            }
        checkpoints.make_loadable(checkpoint)

    def after_train(self, runner: Runner) -> None:
        """Undo what was wrapped; hard-prune and write the pruned model."""
        if self._undo is not None:
            self._undo()
            self._undo = None
        engine = self.engine
        masks = self._kept()
        if masks is not None and runner.distributed:
            runner.logger.info("masks of all %d ranks: sha256 %s", runner.world_size, agreed_digest(masks))
        if engine is not None and engine.iteration < engine.iterations:
            runner.logger.warning(
                f"training stopped after {engine.iteration} of the method's {engine.iterations} iterations (early "
                "stopping?); the pruned model will be worse than it could be",
                extra={"slr_det": True},
            )
        if not self.arguments.prune_at_end or (engine is None and self.masks is None):
            return
        if engine is not None:
            with torch.no_grad():
                for named in self._copies:
                    for name, support in engine.supports(named).items():
                        named[name].mul_(support)
            engine.hard_prune()
        self._publish(runner, "retrained.pth" if engine is None else "pruned.pth")

    def _kept(self) -> Mapping[str, Tensor] | None:
        """What hard pruning would keep, or masked retraining has kept; None where nothing is pruned."""
        if self.engine is not None:
            return self.engine.supports(self._named)
        return None if self.masks is None else self.masks.masks

    def _publish(self, runner: Runner, name: str) -> None:
        self._publishing = True
        try:
            runner.save_checkpoint(
                runner.work_dir,
                name,
                save_optimizer=False,
                save_param_scheduler=False,
                meta={"epoch": runner.epoch, "iter": runner.iter},
                backend_args={"backend": BACKEND},
            )
        finally:
            self._publishing = False
        runner.logger.info(
            f"{name}: {inspection.describe_sparsity(self._copies[0] if self._copies else self._named)}"
        )

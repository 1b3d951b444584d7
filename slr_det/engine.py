"""The engine: the state of one run of a pruning method, and the only object that changes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from slr_det import lagrangian, masks, methods, passes, statefile
from slr_det.closing import rho_for, too_short
from slr_det.errors import CheckpointError, ConfigError, NumericsError
from slr_det.groups import ParamGroup
from slr_det.methods import Hyper, MethodState
from slr_det.methods.parts import free_survivors, require_finite_tensors, require_finite_weights, weights_of
from slr_det.methods.schedules import rho_at
from slr_det.objective import RunningMean

__all__ = ["Engine", "Hyper"]


class Engine:
    """Runs one pruning method over the weights of a model, inside any training loop.

    One iteration is any number of optimizer steps (an epoch by default)::

        for epoch in range(epochs):
            for batch in loader:
                loss = task_loss(model, batch)
                engine.observe(loss)
                (loss + engine.penalty()).backward()
                optimizer.step(); optimizer.zero_grad()
                engine.after_step()
            engine.end_iteration()
        engine.hard_prune()

    The engine holds Z and Lam (together twice the pruned weights) on the weights' device and never re-parametrises
    the model. Methods that prune from the start (oneshot) set the pruned weights to zero on construction.

    Args:
        groups: From :func:`slr_det.groups.build_groups`.
        method: A registered method: slr, admm, penalty, gradual, oneshot, none.
        iterations: How many iterations the run will have, at least 1.
        hyper: Hyperparameters; defaults if None.
        distributed: Whether to average the objective over the ranks of torch.distributed; None means if it is
            initialised. Every rank must then build the same engine and make the same calls.

    Attributes:
        history: One record per ended iteration, see :func:`slr_det.methods.record`, and ``seconds``, the time its end
            took. Callers may add keys of JSON types.

    Raises:
        ConfigError: Unknown method, no groups, or fewer than one iteration.
    """

    def __init__(
        self,
        groups: Sequence[ParamGroup],
        method: str = "slr",
        *,
        iterations: int,
        hyper: Hyper | None = None,
        distributed: bool | None = None,
    ) -> None:
        if not groups:
            raise ConfigError("the engine has no parameter groups; select at least one parameter to prune")
        if iterations < 1:
            raise ConfigError(f"iterations is {iterations}, expected at least 1")
        self.groups = list(groups)
        self.iterations = iterations
        self.hyper = hyper or Hyper()
        self.history: list[dict[str, Any]] = []
        self._method = methods.get(method)
        self._named = {name: tensor for group in self.groups for name, tensor in group.params}
        self._state = self._method.init(self.groups, self.hyper, iterations)
        self._penalty = lagrangian.PenaltyTerm(list(self._named.values()))
        self._kept: masks.MaskKeeper | None = None
        self._device = next(iter(self._named.values())).device
        self._objective = RunningMean(self._device, distributed)
        self.after_step()

    @property
    def method(self) -> str:
        """Name of the method."""
        return self._method.name

    @property
    def state(self) -> MethodState:
        """Z, multipliers, masks and scalars after the last ended iteration; live tensors, not copies."""
        return self._state

    @property
    def iteration(self) -> int:
        """How many iterations have ended."""
        return self._state.iteration

    # -- while an iteration trains ------------------------------------------------------------------------

    def start(self, objective: Callable[[], float]) -> None:
        """Evaluate f(W^0) before the first step, so that condition (6) can be tested at k = 1.

        Only with ``objective: fixed``; without this call (6) counts as satisfied at k = 1.

        Args:
            objective: Returns the mean task loss on the batches held for the run.
        """
        if self.hyper.objective == "fixed" and self.iteration == 0 and "objective" in self._state.scalars:
            value = self._objective.over_ranks(float(objective()))
            self._require_finite_objective(value)
            self._state.scalars["objective"] = value

    def penalty(self, scale: float | Tensor = 1.0) -> Tensor:
        """The term scale * (<Lam, W - Z> + rho/2 ||W - Z||^2), to be added to the loss (equation 4).

        Args:
            scale: What the trainer multiplies its mean loss by, for example the batch size.

        Returns:
            Differentiable 0-dim float32 tensor on the weights' device; a constant zero for methods without a penalty
            and after hard pruning. No host synchronisation on an accelerator.
        """
        if not self._penalised:
            return torch.zeros((), dtype=torch.float32, device=self._device)
        z = [self._state.z[name] for name in self._named]
        return self._penalty(z, self._multipliers(), self._rho) * scale

    def observe(self, loss: Tensor, weight: float = 1.0) -> None:
        """Add a batch to the running objective f(W^k), on the device and without a synchronisation.

        Args:
            loss: Mean task loss per sample of the batch, without the penalty; one element.
            weight: How much the batch counts, for example its number of samples.
        """
        self._objective.add(loss, weight)

    def attach(self, optimizer: torch.optim.Optimizer, scale: float = 1.0) -> RemovableHandle:
        """Add the penalty's gradient before every step of ``optimizer``, for trainers whose loss is out of reach.

        The difference to :meth:`penalty` in the loss: the gradient is added after clipping and unscaling.

        Args:
            optimizer: The optimizer of the groups' weights (of all or some of them).
            scale: What the trainer multiplies its mean loss by, summed over accumulated batches.

        Returns:
            A handle whose ``remove()`` detaches the engine again.

        Raises:
            ConfigError: The optimizer holds none of the weights. At a step: it carries ``grad_scale``, that is, it
                unscales gradients inside a fused step, where this gradient would be divided by the scale too.
        """
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        names = [name for name, tensor in self._named.items() if id(tensor) in held]
        if not names:
            raise ConfigError(
                "the optimizer holds none of the pruned parameters; attach the engine to the one that trains them"
            )

        def add_gradient(opt: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            if getattr(opt, "grad_scale", None) is not None:
                raise ConfigError(
                    "the optimizer unscales gradients inside its fused step (grad_scale), after this hook; call "
                    "scaler.unscale_(optimizer) before the step, set fused=False, or add engine.penalty() to the loss"
                )
            if not self._penalised:
                return
            for name in names:
                tensor = self._named[name]
                lam = [self._state.multipliers[name]] if self._state.multipliers else []
                if tensor.grad is None:
                    tensor.grad = torch.zeros_like(tensor)
                z = [self._state.z[name]]
                passes.add_gradient([tensor.grad], [tensor.detach()], z, lam, self._rho, scale)

        return optimizer.register_step_pre_hook(add_gradient)

    def after_step(self, *others: Mapping[str, Tensor]) -> None:
        """Enforce the masks, if there are any, on the weights and on other copies of them.

        Call it after every optimizer step, and with the averaged copy's tensors after that was updated.

        Args:
            others: Tensors by parameter name, such as ``dict(ema.named_parameters())``.
        """
        if self._state.z and self._kept is None:
            weights = [tensor.detach() for tensor in self._named.values()]
            free_survivors(self.hyper, weights, [self._state.z[name] for name in self._named])
        if self._state.masks:
            masks.MaskKeeper(self._state.masks).apply(self._named, *others)
        if self._kept is not None:
            self._kept.apply(self._named, *others)

    # -- between iterations -------------------------------------------------------------------------------

    def end_iteration(self, objective: Callable[[], float] | None = None) -> dict[str, Any]:
        """End the iteration: update Z, multipliers, step size or masks, as the method has it.

        Args:
            objective: Evaluates f(W^k) on the batches held for the run; called with ``objective: fixed`` only.

        Returns:
            The record that was appended to the history.

        Raises:
            NumericsError: A weight, a multiplier or the training loss is NaN or infinite. The state is unchanged.
            ConfigError: The method needs an objective and there is none.
        """
        began = time.perf_counter()
        if self.hyper.objective == "fixed":
            value = None if objective is None else self._objective.over_ranks(float(objective()))
        else:
            value = self._objective.mean()
        self._require_finite_objective(value)
        self._state, record = self._method.end_iteration(self.groups, self.hyper, self._state, value)
        self._objective.reset()
        self.after_step()
        record["seconds"] = time.perf_counter() - began
        self.history.append(record)
        return record

    def supports(self, named: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The masks hard pruning would use now: the support of the projection of W itself.

        Args:
            named: Other tensors with the same names and shapes (an averaged copy); None for the model's own.

        Returns:
            Bool masks by parameter name, True where a weight stays.
        """
        return masks.supports(self.groups, named)

    def hard_prune(self) -> dict[str, Tensor]:
        """W <- projection of W, in place. From now on the penalty is zero and :meth:`after_step` keeps the zeros.

        Returns:
            Bool masks by parameter name, True where a weight stays.

        Raises:
            NumericsError: A weight is NaN or infinite; nothing has been pruned then.
        """
        require_finite_weights(weights_of(self.groups), self._state)
        found = masks.hard_prune(self.groups)
        self._kept = masks.MaskKeeper(found)
        return found

    def fit_rho(
        self, lr: float, momentum: float = 0.0, loss_scale: float = 1.0, steps_per_iteration: int = 1
    ) -> float | None:
        """Set rho so that the run closes W - Z by ``hyper.closing``; before the first step, and before a resume.

        The arguments are those of :meth:`check`. The same ones give the same rho, which a resumed state must have.

        Returns:
            The new rho; None where ``closing`` is 0 or the method has no penalty, and rho is what it was.

        Raises:
            ConfigError: An iteration has ended already, or no rho moves the weights.
        """
        if not self.hyper.closing or not self._method.uses_penalty:
            return None
        if self.iteration:
            raise ConfigError("rho can be fitted to a run before its first iteration only")
        rho = rho_for(self.hyper.closing, self.iterations * steps_per_iteration, lr, momentum, loss_scale)
        if rho is None:
            raise ConfigError(
                f"closing is {self.hyper.closing:g}, but at a learning rate of {lr:g} no rho closes W - Z"
            )
        self.hyper = replace(self.hyper, rho=rho)
        self._state = self._method.init(self.groups, self.hyper, self.iterations)
        return rho

    def check(
        self, lr: float, momentum: float = 0.0, loss_scale: float = 1.0, steps_per_iteration: int = 1
    ) -> str | None:
        """Warn if the run is too short for W to reach Z, so that hard pruning would be a shock.

        SGD closes W - Z at a rate of lr * rho * loss_scale / (1 - momentum) per step; over the run that must add up
        to well above 1.

        Args:
            lr: Mean learning rate of the run.
            momentum: Momentum of the optimizer.
            loss_scale: What the trainer multiplies its mean loss by, per optimizer step.
            steps_per_iteration: Optimizer steps in one iteration.

        Returns:
            One sentence that says what to raise, and to what; None if all is well or the method has no penalty.
        """
        if not self._method.uses_penalty:
            return None
        mean = (
            sum(rho_at(self.hyper, k, self.iterations) for k in range(1, self.iterations + 1))
            / self.iterations
        )
        return too_short(self.iterations, steps_per_iteration, lr, mean, momentum, loss_scale)

    # -- saving -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: tensors (live, not copies), numbers, strings, lists and dicts.

        May be taken in the middle of an iteration; with torch.distributed take it at an iteration's end, since the
        running objective is each rank's own until then.
        """
        return {
            "version": statefile.ENGINE_VERSION,
            "run": self._identity(),
            "state": self._state._asdict(),
            "kept": None if self._kept is None else dict(self._kept.masks),
            "history": [dict(record) for record in self.history],
            "loss_sum": self._objective.sum.clone(),
            "loss_weight": self._objective.weight,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state saved by an engine of the same method, hyperparameters and groups.

        Raises:
            CheckpointError: It is of another run (the first difference is named) or not complete. Nothing has been
                changed then.
        """
        saved = statefile.require_engine_state(state, self._identity(), self._state, self._named)
        for key in ("z", "multipliers"):
            for name, tensor in getattr(self._state, key).items():
                tensor.copy_(saved[key][name])
        self._state = self._state._replace(
            iteration=saved["iteration"], masks=self._placed(saved["masks"]), scalars=dict(saved["scalars"])
        )
        self._kept = None if state["kept"] is None else masks.MaskKeeper(self._placed(state["kept"]))
        self.history = [dict(record) for record in state["history"]]
        self._objective.sum.copy_(state["loss_sum"])
        self._objective.weight = float(state["loss_weight"])

    def save(self, path: str | Path) -> Path:
        """Write the state to a file, whole or not at all; StorageError if it cannot be written."""
        return statefile.save_state(path, self.state_dict(), kind="engine")

    def load(self, path: str | Path) -> None:
        """Read a state written by :meth:`save`; CheckpointError (with the path) if it is damaged or of another run."""
        state = statefile.load_state(path, kind="engine")
        try:
            self.load_state_dict(state)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error

    # -- inside -------------------------------------------------------------------------------------------

    @property
    def _penalised(self) -> bool:
        return self._method.uses_penalty and self._kept is None

    @property
    def _rho(self) -> float:
        """Rho of the iteration under way; a method without a schedule for it says nothing."""
        rho = self._state.scalars.get("rho")
        return self.hyper.rho if rho is None else rho

    def _multipliers(self) -> list[Tensor]:
        multipliers = self._state.multipliers
        return [multipliers[name] for name in self._named] if multipliers else []

    def _identity(self) -> dict[str, Any]:
        """What must agree between a saved state and the run that takes it over."""
        return {
            "method": self.method,
            "hyper": self.hyper.to_dict(),
            "iterations": self.iterations,
            "groups": statefile.describe_groups(self.groups),
        }

    def _placed(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: mask.to(self._named[name].device) for name, mask in found.items()}

    def _require_finite_objective(self, value: float | None) -> None:
        if value is not None and not math.isfinite(value):
            # A bad weight makes the loss bad too: name the weight then.
            require_finite_tensors(weights_of(self.groups), self._state)
            raise NumericsError(
                f"the training loss is {value} in iteration {self.iteration + 1}; lower the learning rate or rho, or "
                "train in full precision, and resume from the last checkpoint"
            )

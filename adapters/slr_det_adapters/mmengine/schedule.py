"""A learning rate that is a pure function of the step, so that a resumed run needs no state for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from slr_det.errors import ConfigError, nearest

SCHEDULES = ("constant", "cosine", "step", "onecycle")
_RISE = 0.4  # share of the cycle that goes up
_FROM = 0.1  # where it starts, as a fraction of the learning rate


@HOOKS.register_module()
class ScheduleHook(Hook):
    """Sets the learning rate before every step (batch): the optimizer's own, times a factor.

    With t the step, counted over the whole schedule from 0, and T its length:

    - ``constant``: 1
    - ``cosine``: final + (1 - final) (1 + cos(pi t / T)) / 2
    - ``step``: gamma to the power of the number of milestones m with m T <= t
    - ``onecycle``: along half a cosine from 0.1 to 1 over the first 40 % of T, then along another to final (Smith 2018;
      the learning rate of OpenPCDet's adam_onecycle)

    and during the first ``warmup`` steps of the schedule additionally times (t + 1) / (warmup + 1).

    Args:
        schedule: ``constant``, ``cosine``, ``step`` or ``onecycle``.
        final: Where the cosine and the cycle end, as a fraction of the learning rate.
        milestones: Fractions of the schedule, for ``step``.
        gamma: Factor at each milestone.
        warmup: Steps of linear warm-up.
        start: Step of the schedule at which this run begins, for a phase that is a part of a longer schedule.
        total: Steps of the whole schedule; None: this run ends it.
        part: Instead of ``start`` and ``total``: the fractions (from, to) of the schedule that this run covers.

    Raises:
        ConfigError: With every argument that is out of range.
    """

    priority = "ABOVE_NORMAL"

    def __init__(
        self,
        schedule: str = "cosine",
        *,
        final: float = 0.0,
        milestones: Sequence[float] = (0.5, 0.75),
        gamma: float = 0.1,
        warmup: float = 0,
        start: float = 0,
        total: float | None = None,
        part: Sequence[float] | None = None,
    ) -> None:
        problems = []
        if schedule not in SCHEDULES:
            problems.append(
                f"schedule is '{schedule}'{nearest(str(schedule), SCHEDULES)}, expected {', '.join(SCHEDULES)}"
            )
        if not 0.0 <= final <= 1.0:
            problems.append(f"final is {final!r}, expected a fraction in [0, 1]")
        if any(not 0.0 < milestone < 1.0 for milestone in milestones):
            problems.append(f"milestones are {list(milestones)}, expected fractions between 0 and 1")
        problems += [
            f"{name} is {value!r}, expected at least 0"
            for name, value in (("gamma", gamma), ("warmup", warmup), ("start", start))
            if value < 0
        ]
        if part is not None and (start or total is not None):
            problems.append("part and start or total are both given; remove one")
        if part is not None and not (len(part) == 2 and 0.0 <= part[0] < part[1] <= 1.0):
            problems.append(f"part is {list(part)}, expected (from, to) with 0 <= from < to <= 1")
        if problems:
            raise ConfigError(problems)
        self.schedule = schedule
        self.final = final
        self.milestones = tuple(milestones)
        self.gamma = gamma
        self.warmup = warmup
        self.start = start
        self.total = total
        self.part = None if part is None else (float(part[0]), float(part[1]))
        self._lrs: list[float] = []
        self._steps = 0

    def factor(self, step: float) -> float:
        """What the learning rate is multiplied by at a step of this run, from 0."""
        if self.part is None:
            begin, total = float(self.start), float(self.total or self.start + self._steps)
        else:
            total = self._steps / (self.part[1] - self.part[0])
            begin = self.part[0] * total
        at = begin + step
        progress = min(at / max(total, 1e-9), 1.0)
        value = 1.0
        if self.schedule == "cosine":
            value = _along_cosine(1.0, self.final, progress)
        elif self.schedule == "onecycle":
            rising = progress < _RISE
            value = (
                _along_cosine(_FROM, 1.0, progress / _RISE)
                if rising
                else _along_cosine(1.0, self.final, (progress - _RISE) / (1.0 - _RISE))
            )
        elif self.schedule == "step":
            value = self.gamma ** sum(progress >= milestone for milestone in self.milestones)
        return value * (at + 1.0) / (self.warmup + 1.0) if at < self.warmup else value

    def mean_lr(self, group: int = 0) -> float:
        """Mean learning rate of a parameter group over this run; after ``before_run``."""
        probes = min(self._steps, 1000)
        return self._lrs[group] * sum(self.factor(i * self._steps / probes) for i in range(probes)) / probes

    def before_run(self, runner: Runner) -> None:
        """Note the configured learning rates: a checkpoint that is loaded later holds those of its last step."""
        if isinstance(runner.optim_wrapper, dict) or runner.optim_wrapper is None:
            return
        self._lrs = [float(group["lr"]) for group in runner.optim_wrapper.optimizer.param_groups]
        self._steps = int(runner.max_iters)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the learning rate of the step."""
        factor = self.factor(runner.iter)
        for group, lr in zip(runner.optim_wrapper.optimizer.param_groups, self._lrs, strict=True):
            group["lr"] = lr * factor


def _along_cosine(begin: float, end: float, progress: float) -> float:
    """From ``begin`` to ``end`` along half a cosine."""
    return end + (begin - end) * 0.5 * (1.0 + math.cos(math.pi * progress))

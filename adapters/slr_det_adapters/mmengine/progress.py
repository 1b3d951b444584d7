"""A progress bar with the time that is left."""

from __future__ import annotations

import sys
import time
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor
from tqdm import tqdm

from slr_det_adapters.mmengine.history import scalars


@HOOKS.register_module()
class ProgressHook(Hook):
    """One bar over the batches of training, on standard error, by the first rank.

    Args:
        title: What the phase is called.
        metric: Name of the validation metric to show; the first one where it is empty.
    """

    priority = "LOW"

    def __init__(self, title: str = "train", metric: str = "") -> None:
        self.title = title
        self.metric = metric
        self._bar: tqdm[Any] | None = None
        self._score = ""
        self._shown = 0.0

    def before_train_epoch(self, runner: Runner) -> None:
        """Open the bar, below what other hooks had to say; what a resumed run has done already counts as done."""
        if self._bar is not None or not is_main_process():
            return
        self._interval = 0.5 if sys.stderr.isatty() else 15.0
        self._bar = tqdm(
            total=runner.max_iters,
            initial=runner.iter,
            desc=self.title,
            unit="batch",
            dynamic_ncols=True,
            mininterval=self._interval,
        )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Move the bar; the loss is fetched from the device only when it is shown."""
        if self._bar is None:
            return
        now = time.monotonic()
        if now - self._shown >= self._interval or runner.iter + 1 == runner.max_iters:
            self._shown = now
            self._bar.set_postfix_str(f"{self._place(runner)}{_loss(outputs)}{self._score}", refresh=False)
        self._bar.update()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Remember the score for the next time the bar is drawn."""
        found = scalars(metrics or {})
        name = self.metric or next(iter(found), "")
        if name in found:
            self._score = f", {name} {found[name]:.4g}"

    def close(self) -> None:
        """Leave the bar where it is; safe to call at any time."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def after_train(self, runner: Runner) -> None:
        """Close the bar."""
        self.close()

    def _place(self, runner: Runner) -> str:
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            return f"step {runner.iter + 1}/{runner.max_iters}"
        return f"epoch {runner.epoch + 1}/{runner.max_epochs}"


def _loss(outputs: dict[str, Any] | None) -> str:
    loss = (outputs or {}).get("loss")
    if (isinstance(loss, Tensor) and loss.numel() == 1) or isinstance(loss, int | float):
        return f", loss {float(loss.detach() if isinstance(loss, Tensor) else loss):.3g}"
    return ""

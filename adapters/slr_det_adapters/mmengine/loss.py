"""Where the penalty joins the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmengine.optim import OptimWrapper
from torch import Tensor

# Why OptimWrapper.update_params, and why on the instance:
#
# - It is the one place that every model's train_step hands its loss to, wrapped in DistributedDataParallel or not,
#   and the last before the loss is divided by the accumulation count and multiplied by the gradient scaler. So the
#   penalty is divided, scaled and clipped as the loss is, whichever wrapper the configuration names.
# - A wrapper class of our own would have to be named in the configuration, once for each precision, and would
#   exclude the wrappers of other packages.
# - The model's parse_losses also makes the numbers in the log, and is overridden by models.
# - Adding the gradient in the optimizer's step hook comes after clipping and after the scaler.


def wrap_update(
    optim_wrapper: OptimWrapper,
    observe: Callable[[Tensor], None],
    penalty: Callable[[], Tensor] | None,
    after_step: Callable[[], None],
) -> Callable[[], None]:
    """Let ``optim_wrapper`` minimise the loss plus a penalty, until the returned function is called.

    Args:
        optim_wrapper: The wrapper of the run's one optimizer.
        observe: Called with each loss as the model gives it.
        penalty: The term to add, or None.
        after_step: Called after each backward pass, whether the optimizer stepped or gradients were accumulated.
    """
    update = optim_wrapper.update_params
    own = vars(optim_wrapper).get("update_params")

    def update_params(loss: Tensor, *args: Any, **kwargs: Any) -> None:
        observe(loss)
        update(loss if penalty is None else loss + penalty(), *args, **kwargs)
        after_step()

    def undo() -> None:
        if own is None:
            del optim_wrapper.update_params
        else:
            optim_wrapper.update_params = own

    optim_wrapper.update_params = update_params
    return undo

"""Where the iterations of a method end within a training loop."""

from __future__ import annotations

from bisect import bisect_right

from slr_det.errors import ConfigError
from slr_det_adapters.mmengine.arguments import Arguments


class Plan:
    """The steps of a run at which something ends, counted from 1 over the whole run.

    Args:
        total: Steps (batches) of the run.
        iterations: Iterations of the method, spread evenly over the steps; the last ends with the last step.
        epoch: Steps of an epoch, or None for a loop without epochs.

    Raises:
        ConfigError: There are more iterations than steps.
    """

    def __init__(self, total: int, iterations: int, epoch: int | None) -> None:
        if iterations > total:
            raise ConfigError(
                f"{iterations} iterations do not fit into {total} steps; lower iterations_per_epoch or iterations, "
                "or train longer"
            )
        # Rounded half up in whole numbers, so that the ends of an epoch's last iteration are exact.
        self.ends = [(2 * i * total + iterations) // (2 * iterations) for i in range(1, iterations + 1)]
        stops = {*self.ends, *(range(epoch, total + 1, epoch) if epoch else ())}
        self._stops = [0, *sorted(stops)]
        self._ends = frozenset(self.ends)

    def is_end(self, step: int) -> bool:
        """Whether an iteration ends with this step."""
        return step in self._ends

    def ended(self, step: int) -> int:
        """How many iterations have ended once this many steps are done."""
        return bisect_right(self.ends, step)

    def window(self, step: int) -> tuple[int, int]:
        """After this many steps: how many of them belong to the current window, and how long that is.

        Gradients are accumulated within a window only: it ends with every iteration and every epoch.
        """
        at = min(bisect_right(self._stops, step), len(self._stops) - 1)
        begin, end = self._stops[at - 1], self._stops[at]
        return step - begin, end - begin


def plan_of(steps: int, epochs: int | None, arguments: Arguments) -> Plan:
    """The plan of a loop of so many steps; ``epochs`` is None for a loop without epochs.

    Raises:
        ConfigError: The arguments do not say how many iterations there are, the epochs are of unequal length, or
            there are more iterations than steps.
    """
    if epochs is not None and steps % epochs:
        raise ConfigError(
            f"the training loop has {steps} steps in {epochs} epochs of unequal length; use EpochBasedTrainLoop or "
            "IterBasedTrainLoop"
        )
    if arguments.iterations is not None:
        iterations = arguments.iterations
    elif epochs is not None:
        iterations = epochs * arguments.iterations_per_epoch
    elif arguments.engine is not None:
        iterations = int(arguments.engine["iterations"])
    elif arguments.keep_zeros or arguments.method is None:
        iterations = 1
    else:
        raise ConfigError(
            "the training loop has no epochs (IterBasedTrainLoop); say how many iterations the method has over the "
            f"{steps} steps: iterations=N"
        )
    return Plan(steps, iterations, None if epochs is None else steps // epochs)

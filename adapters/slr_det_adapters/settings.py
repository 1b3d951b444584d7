"""The arguments that every trainer on mmengine's Runner takes: names, defaults, ranges."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from slr_det.errors import ConfigError, nearest

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("cosine", "constant", "step", "onecycle")
AMP = ("", "bf16", "fp16")

#: A test of a value, and how an error says what was expected.
Rule = tuple[Callable[[Any], bool], str]

AT_LEAST_1: Rule = (lambda value: value >= 1, "at least 1")
AT_LEAST_0: Rule = (lambda value: value >= 0, "at least 0")
BELOW_1: Rule = (lambda value: 0 <= value < 1, "a number in [0, 1)")
ABOVE_0: Rule = (lambda value: value > 0, "a number above 0")


@dataclass(frozen=True)
class TrainerSettings:
    """How a model is trained; the arguments of a trainer of its own are added by a subclass.

    Attributes:
        lr: Learning rate at the top of the schedule.
        batch: Samples per optimizer step, over all processes.
        optimizer: ``sgd``, ``adam``, ``adamw`` or ``rmsprop``.
        momentum: Momentum of SGD and RMSprop.
        nesterov: Nesterov's momentum (SGD).
        weight_decay: Weight decay.
        schedule: ``cosine`` down to ``min_lr``, ``constant``, ``step`` (a tenth at 1/2 and at 3/4), or ``onecycle``
            (up from a tenth over the first 40 %, then down to ``min_lr``).
        min_lr: Where the cosine and the cycle end, as a fraction of ``lr``.
        warmup_epochs: Epochs of linear warm-up.
        clip: Largest gradient norm; 0 for no clipping.
        accumulate: Batches whose gradients are summed up before a step.
        ema: Decay of an averaged copy of the weights, which is then what is evaluated; 0 for none.
        amp: Mixed precision in training and evaluation: ``bf16``, ``fp16`` (a GPU) or empty.
        workers: Processes that read and augment samples.
        processes: Training processes on the CPU (gloo); GPUs are chosen by ``device=0,1``.
        threads: CPU threads per process; 0 leaves torch's choice.
        val_every: Score the hard-pruned model every that many epochs of training; 0 for never.
    """

    lr: float = 0.02
    batch: int = 64
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    min_lr: float = 0.0
    warmup_epochs: float = 0.0
    clip: float = 0.0
    accumulate: int = 1
    ema: float = 0.0
    amp: str = ""
    workers: int = 0
    processes: int = 1
    threads: int = 0
    val_every: int = 1

    #: The values that a text may have, by argument.
    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        "amp": AMP,
    }
    #: The range that a number must be in, by argument.
    RULES: ClassVar[Mapping[str, Rule]] = {
        "lr": ABOVE_0,
        **dict.fromkeys(("batch", "accumulate", "processes"), AT_LEAST_1),
        **dict.fromkeys(("momentum", "ema"), BELOW_1),
        "min_lr": (lambda value: 0 <= value <= 1, "a fraction of lr, in [0, 1]"),
        **dict.fromkeys(
            ("weight_decay", "warmup_epochs", "clip", "workers", "threads", "val_every"), AT_LEAST_0
        ),
    }

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """Check what a user gave; ConfigError with every problem at once."""
        known = {field.name: field.default for field in fields(cls)}
        problems: list[str] = []
        values: dict[str, Any] = {}
        for key, value in given.items():
            if key not in known:
                problems.append(f"the trainer has no argument '{key}'{nearest(key, known)}")
                continue
            default = known[key]
            choices = cls.CHOICES.get(key)
            rule = cls.RULES.get(key)
            if choices is not None:
                value = "" if value in (None, False) else str(value)
            if not _fits(value, default):
                problems.append(f"{key} is {value!r}, expected {_KINDS[type(default)]}")
            elif choices is not None and value not in choices:
                names = ", ".join(name or "nothing" for name in choices)
                problems.append(f"{key} is {value!r}, expected one of {names}{nearest(value, choices)}")
            elif rule is not None and not rule[0](value):
                problems.append(f"{key} is {value!r}, expected {rule[1]}")
            else:
                values[key] = float(value) if isinstance(default, float) else value
        if problems:
            raise ConfigError(problems)
        return cls(**values)

    def optim_wrapper(self) -> dict[str, Any]:
        """mmengine's configuration of the optimizer, with accumulation and clipping."""
        kinds = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}
        optimizer: dict[str, Any] = {
            "type": kinds[self.optimizer],
            "lr": self.lr,
            "weight_decay": self.weight_decay,
        }
        if self.optimizer in ("sgd", "rmsprop"):
            optimizer["momentum"] = self.momentum
        if self.optimizer == "sgd":
            optimizer["nesterov"] = self.nesterov and self.momentum > 0
        wrapper: dict[str, Any] = {"optimizer": optimizer, "accumulative_counts": self.accumulate}
        if self.clip:
            wrapper["clip_grad"] = {"max_norm": self.clip}
        return wrapper


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, type(default))

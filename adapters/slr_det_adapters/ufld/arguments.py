"""The arguments of this trainer: what differs from the user's own configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from slr_det.errors import ConfigError, nearest
from slr_det.models.parsingnet import DEPTHS

#: Settings of upstream's configuration that have an argument, or a setting of the run, of their own.
ELSEWHERE = {
    "dataset": "it is always Tusimple",
    "data_root": "give data=DIR",
    "epoch": "give epochs=N (dense_epochs, retrain.epochs)",
    "batch_size": "give batch=N",
    "learning_rate": "give lr=X",
    "note": "give name=...",
    "log_path": "give project=DIR",
    "finetune": "give weights=FILE",
    "resume": "give --resume RUN",
    "test_model": "give model=FILE to eval",
    "test_work_dir": "predictions are scored at once",
}
_LANES = 4  # lanes that a label of TuSimple has at most


@dataclass(frozen=True)
class Arguments:
    """How a model is trained and evaluated. Zero and empty mean what the configuration says.

    Attributes:
        upstream: The checkout; $SLR_DET_UFLD or third_party/Ultra-Fast-Lane-Detection where empty.
        cfg: Upstream's configuration file, absolute, or relative to the current folder or to the checkout; where
            empty ``model``, if that is one, else configs/tusimple.py.
        batch: Images per optimizer step.
        lr: Learning rate at the top of the schedule.
        workers: Processes that read and augment images.
        set: Settings of the configuration by name, such as ``{use_aux: false, sim_loss_w: 0.5}``.
        recalibration_frames: Training images that batch-norm statistics are re-estimated on.
    """

    upstream: str = ""
    cfg: str = ""
    batch: int = 0
    lr: float = 0.0
    workers: int = 4
    set: Mapping[str, Any] = field(default_factory=dict)
    recalibration_frames: int = 2048

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Arguments:
        """Check what a user gave; ConfigError with every problem at once."""
        known = [entry.name for entry in fields(cls)]
        problems: list[str] = []
        values: dict[str, Any] = {}
        for key, value in given.items():
            if key not in known:
                problems.append(f"the trainer has no argument '{key}'{nearest(key, known)}")
                continue
            if key == "set":
                values[key] = _settings(value, problems)
                continue
            wanted = _ARGUMENTS[key]
            if not wanted.fits(value):
                problems.append(f"{key} is {value!r}, expected {wanted.says}")
            values[key] = value
        if problems:
            raise ConfigError(problems)
        return cls(**values)


@dataclass(frozen=True)
class Kind:
    """What a value has to be.

    Attributes:
        says: For messages.
        fits: Whether a value is one.
    """

    says: str
    fits: Callable[[Any], bool]


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _one_of(*names: Any) -> Kind:
    return Kind(f"one of {', '.join(map(str, names))}", lambda value: value in names)


def _whole(least: int) -> Kind:
    return Kind(f"a whole number of at least {least}", lambda value: _is_whole(value, least))


_NUMBER = Kind("a number of at least 0", _is_number)
_PATH = Kind("a path", lambda value: isinstance(value, str))
_ARGUMENTS = {
    "upstream": _PATH,
    "cfg": _PATH,
    "batch": _whole(0),
    "lr": _NUMBER,
    "workers": _whole(0),
    "recalibration_frames": _whole(1),
}
#: What may be set, and to what; also what a configuration file has to have, but for ``steps``.
SETTINGS = {
    "optimizer": _one_of("SGD", "Adam"),
    "weight_decay": _NUMBER,
    "momentum": _NUMBER,
    "scheduler": _one_of("multi", "cos"),
    "steps": Kind(
        "a list of epochs",
        lambda value: isinstance(value, list) and all(_is_whole(item, 0) for item in value),
    ),
    "gamma": _NUMBER,
    "warmup": _one_of("linear", None),
    "warmup_iters": Kind(
        "a number of steps, or nothing for an epoch", lambda value: value is None or _is_whole(value, 0)
    ),
    "backbone": _one_of(*DEPTHS),
    "griding_num": _whole(2),
    "use_aux": Kind("true or false", lambda value: isinstance(value, bool)),
    "sim_loss_w": _NUMBER,
    "shp_loss_w": _NUMBER,
    "num_lanes": _whole(_LANES),
}


def _settings(value: Any, problems: list[str]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        problems.append(f"set is {value!r}, expected settings by name, such as {{use_aux: false}}")
        return {}
    found = {}
    for name, item in value.items():
        if name == "backbone" and _is_whole(item, 0):
            item = str(item)  # YAML reads 18 as a number
        if name in ELSEWHERE:
            problems.append(f"set: {name} cannot be set here: {ELSEWHERE[name]}")
        elif name not in SETTINGS:
            problems.append(f"set: the configuration has no '{name}'{nearest(str(name), SETTINGS)}")
        elif not SETTINGS[name].fits(item):
            problems.append(f"set: {name} is {item!r}, expected {SETTINGS[name].says}")
        found[str(name)] = item
    return found

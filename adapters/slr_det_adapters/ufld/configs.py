"""Upstream's configuration: a Python file of settings, with those of the run and the model in their places."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slr_det.errors import ConfigError, SlrDetError, nearest
from slr_det.models.parsingnet import DEPTHS, PRESETS, ParsingNetConfig
from slr_det_adapters.hidden import Checkout
from slr_det_adapters.ufld.arguments import SETTINGS, Arguments

DEFAULT = "configs/tusimple.py"
DATASET = "Tusimple"
#: Networks that may be named instead of a configuration file.
NETWORKS = {name: config for name, config in PRESETS.items() if config.fits_upstream}


def is_config(model: str) -> bool:
    """Whether a model word names a configuration file."""
    return model.endswith(".py")


def around(model: str) -> Path | None:
    """The checkout that a configuration lies in, if it lies in one."""
    for folder in Path(model).expanduser().absolute().parents:
        if (folder / "train.py").is_file() and (folder / "model" / "model.py").is_file():
            return folder
    return None


def named(model: str) -> ParsingNetConfig:
    """The network of a name; ConfigError for an unknown one."""
    if model not in NETWORKS:
        raise ConfigError(
            f"model={model}: no such network{nearest(model, NETWORKS)}, expected parsingnet with one of "
            f"{', '.join(DEPTHS)} behind it, a configuration such as {DEFAULT}, or a checkpoint (.pth, .pt)"
        )
    return NETWORKS[model]


def read(path: str, checkout: Checkout) -> dict[str, Any]:
    """The settings of a configuration file as plain data, by upstream's own reader.

    Args:
        path: Absolute, or relative to the current folder or to the checkout.
        checkout: Upstream, in use.

    Raises:
        ConfigError: It is missing, cannot be executed, lacks a setting, or is for another data set.
    """
    file = _found(path, checkout)
    reader = checkout.seam("utils.config", "Config")
    places = list(sys.path)
    try:
        config: dict[str, Any] = dict(reader.fromfile(str(file))._cfg_dict.to_dict())
    except SlrDetError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{file}: cannot be read as a configuration ({reason:.160})") from error
    finally:
        sys.path[:] = places
    problems = [
        f"{file}: {name} is {config[name]!r}, expected {kind.says}"
        if name in config
        else f"{file}: has no '{name}', expected the settings of {DEFAULT}"
        for name, kind in SETTINGS.items()
        if (name in config or name != "steps") and not (name in config and kind.fits(config[name]))
    ]
    if config.get("dataset") != DATASET:
        problems.append(
            f"{file}: dataset is {config.get('dataset')!r}, expected '{DATASET}', such as in {DEFAULT}"
        )
    if problems:
        raise ConfigError(problems)
    return config


def network(config: Mapping[str, Any]) -> ParsingNetConfig:
    """The network that a configuration trains."""
    return ParsingNetConfig(
        str(config["backbone"]),
        int(config["griding_num"]),
        lanes=int(config["num_lanes"]),
        aux=bool(config["use_aux"]),
        similarity_weight=float(config["sim_loss_w"]),
        shape_weight=float(config["shp_loss_w"]),
    )


def for_phase(
    model: str,
    arguments: Arguments,
    checkout: Checkout,
    *,
    given: ParsingNetConfig | None,
    own: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The settings of a phase as plain data.

    Args:
        model: The model word.
        arguments: What the user set.
        checkout: Upstream, in use.
        given: The network of the checkpoint that ``model`` is; None where it is none.
        own: The settings that the checkpoint was trained with, which apply unless ``cfg`` is given.

    Raises:
        ConfigError: As :func:`read`, or ``set`` asks for another network than the model is.
    """
    if own is not None and not arguments.cfg:
        config = dict(own)
    else:
        config = read(arguments.cfg or (model if is_config(model) else DEFAULT), checkout)
    config |= arguments.set
    fixed: dict[str, Any] = {}
    if given is not None:
        fixed = {"backbone": given.backbone, "griding_num": given.griding, "num_lanes": given.lanes}
    elif not is_config(model):
        fixed = {"backbone": named(model).backbone}
    problems = [
        f"set: {name} is {arguments.set[name]!r}, but model={model} has {value!r}; leave it out"
        for name, value in fixed.items()
        if name in arguments.set and arguments.set[name] != value
    ]
    config |= fixed
    if config["scheduler"] == "multi" and not config.get("steps"):
        problems.append(
            "scheduler is 'multi', which needs steps: a list of epochs, such as set={steps: [50, 75]}"
        )
    if problems:
        raise ConfigError(problems)
    if arguments.batch:
        config["batch_size"] = arguments.batch
    if arguments.lr:
        config["learning_rate"] = arguments.lr
    return config


def live(config: Mapping[str, Any], checkout: Checkout, **more: Any) -> Any:
    """The configuration in the form in which upstream uses it."""
    return checkout.seam("utils.config", "Config")({**config, **more})


def _found(path: str, checkout: Checkout) -> Path:
    relative = Path(path).expanduser()
    for candidate in (relative, checkout.root / relative):
        if candidate.is_file():
            return candidate
    near = [f"configs/{other.name}" for other in (checkout.root / "configs").glob("*.py")]
    raise ConfigError(
        f"{path}: no such configuration, neither here nor in {checkout.root}{nearest(path, near)}"
    )

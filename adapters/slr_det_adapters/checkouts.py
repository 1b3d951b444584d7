"""Where an upstream checkout is, and on which device a trainer that runs in one process works."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from slr_det.errors import ConfigError


def checkout_path(named: str, variable: str, default: str) -> Path:
    """The checkout that is named, or that of an environment variable, or ``default`` in this folder or in our own."""
    named = named or os.environ.get(variable, "")
    if named:
        return Path(named).expanduser()
    here = Path(default)
    return here if here.is_dir() else Path(__file__).resolve().parents[2] / default


def device_of(word: str, upstream: str) -> torch.device:
    """The device that a user named: empty for the GPU where there is one, ``cpu``, or the number of a GPU.

    Raises:
        ConfigError: Several devices, which the adapter of ``upstream`` does not drive, or one that is not there.
    """
    if word == "cpu" or (not word and not torch.cuda.is_available()):
        return torch.device("cpu")
    number = word.removeprefix("cuda").removeprefix(":") or "0"
    if "," in number:
        raise ConfigError(
            f"device is '{word}', but this adapter drives {upstream} in one process; name one GPU, such as device=0"
        )
    if not number.isdecimal():
        raise ConfigError(f"device is '{word}', expected cpu or the number of a GPU, such as device=0")
    if not torch.cuda.is_available() or int(number) >= torch.cuda.device_count():
        raise ConfigError(
            f"device is '{word}', but torch sees {torch.cuda.device_count()} GPUs here; use device=cpu"
        )
    return torch.device("cuda", int(number))

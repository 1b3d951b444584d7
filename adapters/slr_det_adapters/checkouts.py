"""Where an upstream checkout is, and on which device a trainer that runs in one process works."""

from __future__ import annotations

import os
from collections.abc import Sequence
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


def require_checkout(root: Path, parts: Sequence[str], *, title: str, give: str, holds: str) -> None:
    """Refuse a folder that is empty, as a submodule that was not fetched is, or that lacks a part of the project.

    Args:
        root: The folder.
        parts: Files that a checkout has.
        title: The project's.
        give: How to have or to name one.
        holds: What to look for in the right folder.

    Raises:
        ConfigError: One line.
    """
    if not root.is_dir() or not any(root.iterdir()):
        raise ConfigError(f"{root}: nothing is there, expected a checkout of {title}; {give}")
    for part in parts:
        if not (root / part).is_file():
            raise ConfigError(
                f"upstream={root}: is no checkout of {title} ({part} is missing); give the folder that holds {holds}"
            )


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

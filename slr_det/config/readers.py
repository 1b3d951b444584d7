"""Readers of single values: from what YAML holds to what the configuration stores, or a sentence on what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from slr_det.allocation import Ratios, parse_rate, read_ratios
from slr_det.allocation.declared import read_groups
from slr_det.allocation.ratios import to_number
from slr_det.errors import CheckpointError, ConfigError, nearest
from slr_det.projections import Projection
from slr_det.sensitivity import SensitivityTable

PRETRAINED = "pretrained"
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".safetensors")

Reader = Callable[[Any], Any]
"""Takes a value, returns it converted, or raises :class:`Wrong` (what was expected) or ConfigError (sentences)."""


class Wrong(ValueError):
    """The value is not what was expected.

    Args:
        problem: Continues ``KEY is VALUE, ...``.
        part: The part of the value that is wrong, where it is not all of it.
    """

    def __init__(self, problem: str, part: Any = None) -> None:
        super().__init__(problem)
        self.part = part


def shown(value: Any) -> str:
    """A value for a message, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def text(value: Any) -> str:
    """Text; null is the empty text, and a whole number (``device: 0``) is its digits."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Wrong("expected text; put it in quotes")


def device(value: Any) -> str:
    """A device in the trainer's notation; a list of GPU numbers is joined by commas."""
    return ",".join(text(item) for item in value) if isinstance(value, list) else text(value)


def model(value: Any) -> str:
    """A model as its trainer names it; what is called like a checkpoint file has to exist."""
    path = text(value)
    if path.endswith(CHECKPOINT_SUFFIXES) and not Path(path).is_file():
        raise Wrong("expected an existing file; give the path of a local checkpoint (nothing is downloaded)")
    return path


def weights(value: Any) -> str:
    """Weights for an architecture: nothing, a local file, or the word that asks for the published ones."""
    path = text(value)
    if path and path != PRETRAINED and not Path(path).is_file():
        hint = nearest(path, [PRETRAINED])
        raise Wrong(
            f"expected an existing file, or '{PRETRAINED}' for the weights that the trainer publishes{hint}"
        )
    return path


def flag(value: Any) -> bool:
    """True or false."""
    if isinstance(value, bool):
        return value
    raise Wrong("expected true or false")


def whole(low: int) -> Reader:
    """A whole number of at least ``low``."""

    def read(value: Any) -> int:
        number = to_number(value)
        if number is None or not math.isfinite(number) or number != int(number) or number < low:
            raise Wrong(f"expected a whole number of at least {low}")
        return int(number)

    return read


def number(value: Any) -> float:
    """A finite number."""
    found = to_number(value)
    if found is None or not math.isfinite(found):
        raise Wrong("expected a number")
    return found


def positive(value: Any) -> float:
    """A finite number above 0."""
    found = to_number(value)
    if found is None or not math.isfinite(found) or found <= 0.0:
        raise Wrong("expected a number above 0")
    return found


def share(value: Any) -> float:
    """A part of a whole."""
    found = to_number(value)
    if found is None or not 0.0 <= found <= 1.0:
        raise Wrong("expected a share in [0, 1]")
    return found


def ratio(value: Any) -> float:
    """A keep ratio."""
    found = to_number(value)
    if found is None or not 0.0 < found <= 1.0:
        raise Wrong("expected a keep ratio in (0, 1]")
    return found


def rate(value: Any) -> float:
    """A compression rate, ``3.33`` or ``3.33x``."""
    try:
        return parse_rate(value)
    except ConfigError:
        raise Wrong("expected a rate of at least 1 such as 3.33x") from None


def optional(reader: Reader) -> Reader:
    """``reader``, or None for null."""
    return lambda value: None if value is None else reader(value)


def choice(valid: Collection[str]) -> Reader:
    """One of some names."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in valid:
            raise Wrong(f"expected one of {', '.join(valid)}{nearest(str(value), valid)}", value)
        return value

    return read


def listed(value: Any) -> list[Any]:
    """A list; text is split at commas."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, Sequence):
        return list(value)
    raise Wrong("expected a list")


def choices(valid: Collection[str]) -> Reader:
    """One or more different names, as a list or with commas."""
    one = choice(valid)

    def read(value: Any) -> tuple[str, ...]:
        found = tuple(one(item) for item in listed(value))
        if not found:
            raise Wrong(f"expected at least one of {', '.join(valid)}")
        if len(set(found)) < len(found):
            raise Wrong("expected each name once")
        return found

    return read


def globs(value: Any) -> tuple[str, ...]:
    """Parameter names or globs, as a list or with commas."""
    found = listed(value)
    if not all(isinstance(item, str) for item in found):
        raise Wrong("expected parameter names or globs")
    return tuple(found)


def ratios_between_0_and_1(value: Any) -> tuple[float, ...]:
    """Different keep ratios, largest first."""
    found = sorted({ratio(item) for item in listed(value)}, reverse=True)
    if not found:
        raise Wrong("expected at least one keep ratio in (0, 1]")
    return tuple(found)


def projection(value: Any) -> str | dict[str, Any]:
    """A projection, kept as it was written once it is known to be one."""
    Projection.parse(value)
    return dict(value) if isinstance(value, Mapping) else str(value)


def layer_ratios(value: Any) -> Ratios:
    """Per-layer ratios: the path of a YAML file, or a mapping with ``keep:`` or ``prune_ratios:``."""
    if not isinstance(value, str | Path | Mapping):
        raise Wrong("expected the path of a YAML file, or a mapping with 'keep:' or 'prune_ratios:'")
    return read_ratios(value, origin="prune.ratios")


def sensitivity_file(value: Any) -> str:
    """The file of a sensitivity scan, which has to be readable."""
    path = text(value)
    if path:
        try:
            SensitivityTable.load(path)
        except CheckpointError as error:
            raise ConfigError(str(error)) from error
    return path


def groups(value: Any) -> tuple[dict[str, Any], ...]:
    """Declared groups; their globs are matched when the model is known."""
    found = listed(value)
    if not all(isinstance(item, Mapping) for item in found):
        raise Wrong("expected a list of mappings with name, params, keep, projection and coupled")
    _, problems = read_groups(found, Projection("filter"))  # the one default that takes every option
    if problems:
        raise ConfigError(problems)
    return tuple(dict(item) for item in found)


def anything(value: Any) -> Any:
    """Any value; the trainer checks its own arguments."""
    return value

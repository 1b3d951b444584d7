"""The ``paper`` section of a configuration: published numbers, per method, phase and metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slr_det import methods
from slr_det.config.readers import Wrong, number, shown
from slr_det.errors import nearest

PHASES = ("hard_prune", "retrain")
"""Phases of a method that papers print numbers for; a number without a phase is one after hard pruning."""

_SCORES = "expected a number, or numbers by metric such as {easy: 80.7, hard: 60.7}"
_METHOD = "expected a number, or one for each phase such as {hard_prune: 68.0, retrain: 79.9}"


def read_published(value: Any, key: str, problems: list[str]) -> Any:
    """The ``paper`` section, or one of its entries, with every number converted.

    ``dense`` is a number or a mapping from metrics to numbers. A method is a number, its score after hard pruning, or a
    mapping with ``hard_prune`` and ``retrain``, each of which is like ``dense``. Text under any other name is a note.

    Args:
        value: What was given.
        key: The dotted key it was given for: ``paper``, or one such as ``paper.slr``.
        problems: Where a sentence is added for everything that is wrong; each begins with a key.
    """
    if key != "paper":
        return _entry(value, key, problems)
    if value is None:
        return None
    if not isinstance(value, Mapping):
        problems.append(f"paper is {shown(value)}, expected a section with keys of its own")
        return None
    return {str(name): _entry(item, f"paper.{name}", problems) for name, item in value.items()}


def _entry(value: Any, key: str, problems: list[str]) -> Any:
    name = key.removeprefix("paper.")
    if name in ("metric", "source"):
        if not isinstance(value, str) or not value:
            example = "a metric and its scale such as 'AP50 x100'" if name == "metric" else "text"
            problems.append(f"{key} is {shown(value)}, expected {example}")
        return value
    if name == "dense":
        return _scores(value, key, problems)
    if "." in name:
        outer, _, inner = name.partition(".")
        problems.append(f"unknown key '{key}'; write paper.{outer}={{{inner}: {value}}}")
        return value
    if isinstance(value, str) and name not in methods.names():
        return value
    if isinstance(value, Mapping):
        return _phases(value, key, problems)
    return _number(value, key, _METHOD, problems)


def _phases(value: Mapping[Any, Any], key: str, problems: list[str]) -> dict[str, Any]:
    if not value:
        problems.append(f"{key} is empty, {_METHOD}")
    for phase in map(str, value):
        if phase not in PHASES:
            problems.append(
                f"{key}.{phase} is not a known key, expected {' or '.join(PHASES)}{nearest(phase, PHASES)}"
            )
    return {
        str(phase): _scores(scores, f"{key}.{phase}", problems)
        for phase, scores in value.items()
        if phase in PHASES
    }


def _scores(value: Any, key: str, problems: list[str]) -> Any:
    if not isinstance(value, Mapping):
        return _number(value, key, _SCORES, problems)
    if not value:
        problems.append(f"{key} is empty, {_SCORES}")
    return {
        str(metric): _number(item, f"{key}.{metric}", "expected a number", problems)
        for metric, item in value.items()
    }


def _number(value: Any, key: str, expected: str, problems: list[str]) -> float | None:
    """A finite number, or None where none is known."""
    if value is None:
        return None
    try:
        return number(value)
    except Wrong:
        problems.append(f"{key} is {shown(value)}, {expected}")
        return None

"""What can be shown of a run's own files, which no schema vouches for: a stopped run may have left anything in them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def sound_phase(block: Any) -> dict[str, Any] | None:
    """A phase of ``state.json`` with numbers where numbers belong; None where it is no phase that has scores."""
    if not isinstance(block, Mapping) or not isinstance(block.get("metrics"), Mapping):
        return None
    metrics = {str(name): _number(value) for name, value in block["metrics"].items() if name != "per_class"}
    classes = block["metrics"].get("per_class")
    if isinstance(classes, Mapping):
        metrics["per_class"] = {
            str(name): _numbers(scores) for name, scores in classes.items() if isinstance(scores, Mapping)
        }
    spent = {name: _number(block.get(name)) for name in ("epochs", "seconds")}
    return dict(block) | spent | {"metrics": metrics}


def sound_records(records: Any) -> list[Mapping[str, Any]]:
    """The records of iterations among ``records``, with None for what is no number."""
    if not isinstance(records, list):
        return []
    found: list[Mapping[str, Any]] = []
    for record in records:
        if not isinstance(record, Mapping) or _number(record.get("iteration")) is None:
            continue
        metric = record.get("metric")
        found.append(_numbers(record) | {"metric": _numbers(metric) if isinstance(metric, Mapping) else None})
    return found


def _numbers(block: Mapping[Any, Any]) -> dict[str, Any]:
    """Its numbers and truths by name, None in the place of all else."""
    return {str(name): value if isinstance(value, bool) else _number(value) for name, value in block.items()}


def _number(value: Any) -> Any:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if known else None

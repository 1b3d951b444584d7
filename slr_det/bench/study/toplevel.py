"""The top level of a study's file: each key read into what the study stores."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from slr_det.allocation import parse_rate
from slr_det.allocation.ratios import to_number
from slr_det.bench.study.model import PLOTS
from slr_det.errors import ConfigError, nearest
from slr_det.task import Task


class TopLevel:
    """Reads single keys; what is wrong goes to ``problems``, one sentence each."""

    def __init__(self, file: str, content: Mapping[str, Any], problems: list[str]) -> None:
        self.file = file
        self.content = content
        self.problems = problems

    def section(self, key: str) -> dict[str, Any]:
        """A section, empty where it is not given."""
        value = self.content.get(key)
        if value is not None and not isinstance(value, Mapping):
            self._wrong(key, value, "a section with keys of its own")
            return {}
        return {str(inner): item for inner, item in (value or {}).items()}

    def seeds(self) -> tuple[int, ...]:
        """Different whole numbers."""
        found = [to_number(item) for item in self._list("seeds")]
        seeds = tuple(int(n) for n in found if n is not None and n >= 0 and n == int(n))
        if len(seeds) < len(found) or len(set(seeds)) < len(seeds):
            self._wrong("seeds", self.content["seeds"], "different whole numbers, such as [0, 1, 2]")
        return seeds

    def rates(self) -> tuple[float, ...]:
        """Different compression rates."""
        rates = []
        for item in self._list("rates"):
            try:
                rates.append(parse_rate(item))
            except ConfigError as error:
                self.problems += [f"{self.file}: rates: {problem}" for problem in error.problems]
        if len(set(rates)) < len(rates):
            self._wrong("rates", self.content["rates"], "each rate once")
        return tuple(rates)

    def target(self, section: Mapping[str, Any], task: Task) -> tuple[str, float] | None:
        """A metric and the value to reach."""
        if not section:
            return None
        pairs = [(task.metric_aliases.get(name.lower(), name), to_number(v)) for name, v in section.items()]
        name, value = pairs[0]
        if len(pairs) > 1 or value is None or not math.isfinite(value):
            self._wrong("target", dict(section), f"one metric and a number, such as {{{task.metric}: 0.95}}")
            return None
        return name, float(value)

    def labels(self, key: str, known: Collection[str]) -> tuple[str, ...]:
        """Labels of entries."""
        labels = tuple(str(item) for item in self._list(key))
        self.problems += [
            f"{self.file}: {key} names '{label}', which is no entry{nearest(label, known)}"
            for label in labels
            if label not in known
        ]
        return labels

    def plots(self) -> tuple[str, ...]:
        """Names of pictures; all of them where none is given."""
        names = tuple(str(item) for item in self._list("plots"))
        self.problems += [
            f"{self.file}: plots names '{name}', expected some of {', '.join(PLOTS)}{nearest(name, PLOTS)}"
            for name in names
            if name not in PLOTS
        ]
        return names or PLOTS

    def dense(self, default: bool) -> bool:
        """Whether all seeds share one dense model; ``default`` where the file does not say."""
        value = self.content.get("dense")
        if value not in (None, "shared", "per_seed"):
            self._wrong("dense", value, "'shared' (one model for all seeds) or 'per_seed'")
        return default if value is None else value == "shared"

    def _list(self, key: str) -> list[Any]:
        value = self.content.get(key)
        if value is None:
            return []
        return list(value) if isinstance(value, list) else [value]

    def _wrong(self, key: str, value: Any, expected: str) -> None:
        self.problems.append(f"{self.file}: {key} is {value!r}, expected {expected}")

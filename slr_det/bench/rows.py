"""One measurement beside its target: as a row of a table, and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from slr_det import __version__

SCHEMA = "slr_det.bench/1"


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        threads: CPU threads of the multi-threaded measures.
        quick: Smaller sizes and fewer rounds, to see that everything runs; nothing is judged then.
        say: Called with a line of progress.
    """

    threads: int = 2
    quick: bool = False
    say: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        name: What was measured.
        setting: Sizes, ratios, device.
        measured: Median, in ``unit``; None where it could not be measured.
        unit: ``x``, ``s``, ``ms``, ``%``, ``MB`` or ``GB``.
        target: What it should not exceed, in ``unit``; None where nothing was promised.
        spread: First and third quartile over the rounds, in ``unit``; None for a single measurement.
        note: One line: what the number is made of, or why there is none.
        details: The raw numbers.
    """

    name: str
    setting: str
    measured: float | None
    unit: str
    target: float | None = None
    spread: tuple[float, float] | None = None
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def passed(self, quick: bool) -> bool | None:
        """Whether the target was met; None where there is none, nothing was measured, or sizes were quick ones."""
        if quick or self.target is None or self.measured is None:
            return None
        return self.measured <= self.target

    def verdict(self, quick: bool) -> str:
        """Pass, miss, or why neither can be said."""
        if self.measured is None:
            return "not measured"
        passed = self.passed(quick)
        if passed is None:
            return "-" if self.target is None else "not judged"
        return "pass" if passed else "MISS"


def number(value: float | None, unit: str) -> str:
    """A value with its unit, to three significant digits."""
    if value is None:
        return "-"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text}{unit}" if unit in ("x", "%") else f"{text} {unit}"


def table(rows: Sequence[Row], quick: bool) -> str:
    """The rows as aligned text, notes underneath."""
    cells = [("measure", "setting", "target", "measured", "quartiles", "result")]
    for row in rows:
        spread = "-" if row.spread is None else " to ".join(number(v, row.unit) for v in row.spread)
        target = "-" if row.target is None else f"<= {number(row.target, row.unit)}"
        measured = number(row.measured, row.unit)
        cells.append((row.name, row.setting, target, measured, spread, row.verdict(quick)))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    notes = [f"{row.name}, {row.setting}: {row.note}" for row in rows if row.note]
    return "\n".join([*(line.rstrip() for line in lines), *([""] if notes else []), *notes])


def document(rows: Sequence[Row], settings: Settings) -> dict[str, Any]:
    """Everything measured, as JSON types."""
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": settings.quick,
        "threads": settings.threads,
        "machine": machine(),
        "versions": {
            "slr_det": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "rows": [{**asdict(row), "passed": row.passed(settings.quick)} for row in rows],
    }


def machine() -> dict[str, Any]:
    """Processor, cores and GPU."""
    return {
        "system": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }

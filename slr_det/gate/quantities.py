"""Numbers with units, as limits are written: ``0.35``, ``12MB``, ``90s``, ``20x``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from slr_det.errors import ConfigError

BYTES, TIME, COUNT, RATE, SCORE = "bytes", "time", "count", "rate", "score"

#: What each unit multiplies by, per kind of quantity; letters in any case. Bytes and seconds are what is stored.
UNITS: dict[str, dict[str, float]] = {
    BYTES: {
        "b": 1.0,
        **{f"{prefix}b": 1000.0**power for power, prefix in enumerate("kmg", start=1)},
        **{f"{prefix}ib": 1024.0**power for power, prefix in enumerate("kmg", start=1)},
    },
    TIME: {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0},
    COUNT: {"k": 1e3, "m": 1e6, "g": 1e9},
    RATE: {"x": 1.0},
    SCORE: {"%": 0.01},
}
_SPELLED = {
    BYTES: "B, KB, MB, GB, KiB, MiB or GiB",
    TIME: "us, ms, s, min or h",
    COUNT: "K, M or G",
    RATE: "x",
    SCORE: "%",
}
_FORM = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z%]*)", re.ASCII)


@dataclass(frozen=True)
class Quantity:
    """A number as it was written.

    Attributes:
        number: Before the unit.
        unit: In lower case; empty for none.
    """

    number: float
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.number:g}{self.unit}"

    def of(self, kind: str, where: str) -> float:
        """The value in bytes, seconds, or as a plain number; ``where`` opens the message.

        Raises:
            ConfigError: The unit is not one of this kind, or a time has none: 30 could be seconds or milliseconds.
        """
        if not self.unit:
            if kind == TIME and self.number:
                raise ConfigError(f"{where} has no unit; write {self.number:g}ms or {self.number:g}s")
            return self.number
        if self.unit not in UNITS[kind]:
            raise ConfigError(f"{where} has the unit '{self.unit}', expected {_SPELLED[kind]}, or none")
        return self.number * UNITS[kind][self.unit]


def parse_quantity(text: str) -> Quantity | None:
    """A number with or without a unit; None where it is none, or not finite."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        return None
    number, unit = float(found[1]), found[2].lower()
    if not math.isfinite(number) or not (unit == "" or any(unit in units for units in UNITS.values())):
        return None
    return Quantity(number, unit)


def shown(value: float | None, kind: str) -> str:
    """A value for people, as wide as its neighbours in a table: ``0.3512``, ``11.90 MB``, ``34.1 ms``."""
    if value is None or not math.isfinite(value):
        return "nan" if value is None else str(value)
    number, unit = _scaled(value, kind)
    if kind == BYTES:
        return f"{number:g}{unit}" if unit == " bytes" else f"{number:.2f}{unit}"
    if kind == TIME:
        return f"{number:.1f}{unit}"
    if kind == COUNT:
        return f"{number:,.0f}"
    if kind == RATE:
        return f"{number:.2f}{unit}"
    return f"{number:g}" if abs(number) > 1 and number == int(number) else f"{number:.4f}"


def exact(value: float, kind: str) -> str:
    """A value to six digits and without zeros at its end, as somebody would write it: ``0.35``, ``12.5829 MB``."""
    if not math.isfinite(value):
        return str(value)
    number, unit = _scaled(value, kind)
    return f"{number:,.0f}" if kind == COUNT else f"{number:.6g}{unit}"


def _scaled(value: float, kind: str) -> tuple[float, str]:
    """A value in the unit in which it is easiest to read."""
    steps = {
        BYTES: ((1e9, " GB"), (1e6, " MB"), (1e3, " KB"), (1.0, " bytes")),
        TIME: ((1.0, " s"), (1e-3, " ms"), (1e-6, " us")),
        RATE: ((1.0, "x"),),
    }.get(kind, ((1.0, ""),))
    size, unit = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    return value / size, unit

"""Plain data, as a YAML file has them, to the fields of a dataclass, or a sentence on what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any

from slr_det.errors import nearest


def plain(value: Any) -> Any:
    """The value with its tuples as lists, as YAML and JSON have them."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def read(
    cls: type, data: Any, source: str, problems: list[str], parts: Mapping[str, type] = MappingProxyType({})
) -> dict[str, Any]:
    """Read the values that a dataclass is made from.

    Args:
        cls: The dataclass; the annotations of its fields say what each value has to be.
        data: Values by field name; those with a default may be missing.
        source: File or key that they come from, for the messages.
        problems: A sentence is added for each unknown or missing key and each value of the wrong kind.
        parts: Fields that are tuples of another dataclass, and which.
    """
    if not isinstance(data, Mapping):
        problems.append(f"{source}: is {data!r}, expected keys and values")
        return {}
    known = {field.name: field for field in fields(cls)}
    problems += [
        f"{source}: unknown key '{key}'{nearest(str(key), known)}" for key in data if key not in known
    ]
    values: dict[str, Any] = {}
    for name, field in known.items():
        if name not in data:
            if field.default is MISSING:
                problems.append(f"{source}: {name} is missing")
        elif name in parts:
            values[name] = _several(parts[name], data[name], f"{source}: {name}", problems)
        else:
            try:
                values[name] = _READERS[str(field.type)](data[name])
            except (TypeError, ValueError):
                problems.append(f"{source}: {name} is {data[name]!r}, expected {_EXPECTED[str(field.type)]}")
    return values


def _several(cls: type, items: Any, source: str, problems: list[str]) -> tuple[Any, ...]:
    if not isinstance(items, list | tuple):
        problems.append(f"{source} is {items!r}, expected a list")
        return ()
    before = len(problems)
    found = [read(cls, item, source, problems) for item in items]
    return () if len(problems) > before else tuple(cls(**item) for item in found)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _whole(value: Any) -> int:
    if _number(value) != int(value):
        raise ValueError
    return int(value)


def _row(reader: Callable[[Any], Any], length: int | None = None) -> Callable[[Any], tuple[Any, ...]]:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or length not in (None, len(value)):
            raise TypeError
        return tuple(reader(item) for item in value)

    return read


# By the annotations above: how a value is read, and what the message says was expected.
_READERS: dict[str, Callable[[Any], Any]] = {
    "str": _text,
    "bool": _flag,
    "int": _whole,
    "float": _number,
    "tuple[str, ...]": _row(_text),
    "tuple[int, ...]": _row(_whole),
    "tuple[int, int]": _row(_whole, 2),
    "tuple[float, ...]": _row(_number),
    "tuple[float, float, float]": _row(_number, 3),
    "tuple[float, float, float, float, float, float]": _row(_number, 6),
    "tuple[tuple[float, float, float], ...]": _row(_row(_number, 3)),
}
_EXPECTED = {
    "str": "a name",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "tuple[str, ...]": "a list of names",
    "tuple[int, ...]": "a list of whole numbers",
    "tuple[int, int]": "a list of 2 whole numbers",
    "tuple[float, ...]": "a list of numbers",
    "tuple[float, float, float]": "a list of 3 numbers",
    "tuple[float, float, float, float, float, float]": "a list of 6 numbers",
    "tuple[tuple[float, float, float], ...]": "a list of lists of 3 numbers",
}

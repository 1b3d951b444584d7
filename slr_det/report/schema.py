"""Is this a report? The check that runs before a report is written and after one is read."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from slr_det.errors import DataError, nearest

SCHEMA_PATH = Path(__file__).parent.parent / "report.schema.json"
"""The published JSON Schema (draft 2020-12)."""

SCHEMA_VERSION = "slr_det.report/1"

PHASES = ("dense", "hard_prune", "bn_recalibrated", "retrain")
"""Phases of a run, in the order in which they run."""

_SHOWN = 5  # a wrong file can break every rule at once; one line holds the first few

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        (isinstance(value, int) and not isinstance(value, bool))
        or (isinstance(value, float) and value.is_integer())
    ),
}


@functools.cache
def load_schema() -> dict[str, Any]:
    """The JSON Schema as a dict."""
    schema: dict[str, Any] = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    return schema


def validate(report: Mapping[str, Any], source: str = "report") -> None:
    """Check ``report`` against the published schema.

    The schema file is the only statement of the rules: this reads the keywords that the file uses, so that
    nobody has to install a JSON Schema library to write a report.

    Args:
        report: The report as plain JSON values.
        source: What the message calls it, usually the file's path.

    Raises:
        DataError: One line that names the keys, the values seen and the values expected.
    """
    if not isinstance(report, Mapping):
        raise DataError(f"{source}: expected a JSON object, found {_name_type(report)}")
    version = report.get("schema")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{source}: schema is {version!r}, expected {SCHEMA_VERSION!r}; "
            "this is no report, or one of another version of slr_det"
        )
    found = list(dict.fromkeys(_problems(report, load_schema(), "")))
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise DataError(f"{source}: " + "; ".join(found[:_SHOWN]) + more)


def _problems(value: Any, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield one sentence for every rule of ``schema`` that ``value``, found at ``where``, breaks."""
    if "$ref" in schema:
        yield from _problems(value, load_schema()["$defs"][schema["$ref"].rpartition("/")[2]], where)
    expected = schema.get("type")
    if expected is not None:
        names = [expected] if isinstance(expected, str) else expected
        if not any(_TYPES[name](value) for name in names):
            yield f"{where or 'it'} is {_show(value)}, expected {' or '.join(names)}"
            return
    if "const" in schema and value != schema["const"]:
        yield f"{where} is {_show(value)}, expected {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        guess = nearest(value, schema["enum"]) if isinstance(value, str) else ""
        yield f"{where} is {_show(value)}, expected one of {', '.join(schema['enum'])}{guess}"
    if isinstance(value, Mapping):
        yield from _object_problems(value, schema, where)
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from _problems(item, schema["items"], f"{where}[{index}]")
    elif isinstance(value, str) and len(value) < schema.get("minLength", 0):
        yield f"{where} is empty"
    elif _TYPES["number"](value):
        if value < schema.get("minimum", value):
            yield f"{where} is {value}, expected at least {schema['minimum']}"
        if value > schema.get("maximum", value):
            yield f"{where} is {value}, expected at most {schema['maximum']}"
    for part in schema.get("allOf", ()):
        yield from _problems(value, part, where)
    if "if" in schema and not any(_problems(value, schema["if"], where)):
        yield from _problems(value, schema["then"], where)


def _object_problems(value: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> Iterator[str]:
    prefix = f"{where}." if where else ""
    properties = schema.get("properties", {})
    for key in schema.get("required", ()):
        if key not in value:
            guess = nearest(key, [seen for seen in value if seen not in properties])
            yield f"{prefix}{key} is missing{guess}"
    if len(value) < schema.get("minProperties", 0):
        yield f"{where} is empty"
    rest = schema.get("additionalProperties", True)
    for key, item in value.items():
        if key in properties:
            yield from _problems(item, properties[key], f"{prefix}{key}")
        elif rest is False:
            yield f"{prefix}{key} is not a known key{nearest(key, properties)}"
        elif isinstance(rest, Mapping):
            yield from _problems(item, rest, f"{prefix}{key}")


def _name_type(value: Any) -> str:
    return next((name for name, fits in _TYPES.items() if fits(value)), type(value).__name__)


def _show(value: Any) -> str:
    """``value`` for a message: scalars as they are, containers by their type."""
    if isinstance(value, Mapping | list):
        return f"an {_name_type(value)}"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

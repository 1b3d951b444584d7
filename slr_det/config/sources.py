"""Where settings come from: mappings, YAML files and ``key=value`` words, by dotted key and with their origin."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slr_det.config.schema import SECTIONS, known_keys
from slr_det.errors import ConfigError
from slr_det.yamlio import parse_value, read_yaml

COMMAND_LINE = "command line"
TEXT_KEYS = ("backend", "model", "weights", "data", "name", "project")


@dataclass(frozen=True)
class Entry:
    """One setting as it was found."""

    value: Any
    origin: str


def read_content(source: str | Path | Mapping[str, Any] | None, problems: list[str]) -> Mapping[str, Any]:
    """The content of a configuration file; empty, with the reason in ``problems``, where it cannot be used."""
    if source is None or isinstance(source, Mapping):
        return source or {}
    try:
        content = read_yaml(source)
    except ConfigError as error:
        problems += error.problems
        return {}
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        problems.append(f"{source}: expected settings as 'key: value', got {type(content).__name__}")
        return {}
    return content


def flatten(
    content: Mapping[str, Any], origin: str, trainer_keys: Collection[str], problems: list[str]
) -> dict[str, Entry]:
    """Settings by dotted key; bare arguments of the trainer move into ``train``."""
    entries: dict[str, Entry] = {}
    for raw, value in content.items():
        key = str(raw)
        if key in SECTIONS and key != "paper":
            if isinstance(value, Mapping):
                entries |= {f"{key}.{inner}": Entry(item, origin) for inner, item in value.items()}
            elif value is not None:
                problems.append(f"{origin}: {key} is {value!r}, expected a section with keys of its own")
        else:
            entries[_placed(key, trainer_keys)] = Entry(value, origin)
    return entries


def look_beside(file: Path, entries: dict[str, Entry]) -> None:
    """A file that a configuration names may stand beside it."""
    for key in ("prune.ratios", "prune.sensitivity"):
        entry = entries.get(key)
        if (
            entry is not None
            and isinstance(entry.value, str)
            and entry.value
            and not Path(entry.value).exists()
        ):
            beside = file.parent / entry.value
            if beside.exists():
                entries[key] = Entry(str(beside), entry.origin)


def from_words(words: Sequence[str], trainer_keys: Collection[str], problems: list[str]) -> dict[str, Entry]:
    """Settings of a command line by dotted key."""
    entries: dict[str, Entry] = {}
    for word in words:
        key, equals, raw = word.partition("=")
        key = key.strip()
        if not equals or not key:
            problems.append(f"{COMMAND_LINE}: '{word}' is not a setting; write key=value")
            continue
        try:
            # A name such as 1.10 or a path must not be read as a number first.
            value = raw if key in TEXT_KEYS else parse_value(raw)
        except ConfigError as error:
            problems += [f"{COMMAND_LINE}: {key}: {problem}" for problem in error.problems]
            continue
        if key in SECTIONS:
            entries |= flatten({key: value}, COMMAND_LINE, trainer_keys, problems)
        else:
            entries[_placed(key, trainer_keys)] = Entry(value, COMMAND_LINE)
    return entries


def _placed(key: str, trainer_keys: Collection[str]) -> str:
    return f"train.{key}" if key in trainer_keys and key not in known_keys() else key

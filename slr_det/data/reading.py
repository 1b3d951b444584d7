"""Reads small text formats; whatever is wrong with a file becomes one line that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from slr_det.errors import DataError


def load_json(path: str | Path) -> Any:
    """Return the contents of a JSON file; DataError where it is missing, unreadable or no JSON."""
    text = _read(path)
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); is the file complete?") from error


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; DataError where it is missing, unreadable or no mapping."""
    text = _read(path)
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not valid YAML ({reason})") from error
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected a mapping (key: value), found {type(data).__name__}")
    return data


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error

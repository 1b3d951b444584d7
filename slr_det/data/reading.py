"""Reads small text formats; whatever is wrong with a file becomes one line that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from slr_det.errors import DataError


def load_json(path: str | Path) -> Any:
    """Return the contents of a JSON file; DataError where it is missing, unreadable or no JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); is the file complete?") from error


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; DataError where it is missing, unreadable or no mapping."""
    text = read_text(path)
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not valid YAML ({reason})") from error
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected a mapping (key: value), found {type(data).__name__}")
    return data


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file (a byte-order mark is dropped); DataError where it is missing or no text."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def load_coco(path: str | Path) -> dict[str, Any]:
    """Return a COCO ground truth whose lists hold objects with ids.

    Raises:
        DataError: the file is no JSON or no COCO ground truth, or has no images or categories.
    """
    content = load_json(path)
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: a JSON {type(content).__name__}, expected images, annotations and categories"
        )
    for key, needed in (
        ("images", ("id", "file_name")),
        ("annotations", ("image_id",)),
        ("categories", ("id",)),
    ):
        entries = content.get(key)
        if not isinstance(entries, list):
            raise DataError(f"{path}: no list '{key}'; expected a COCO ground truth")
        if not entries and key != "annotations":
            raise DataError(f"{path}: the list '{key}' is empty")
        for entry in entries:
            lacking = [name for name in needed if not isinstance(entry, dict) or entry.get(name) is None]
            if lacking:
                raise DataError(f"{path}: {key}: {entry!r:.80} has no '{lacking[0]}'")
        if key != "annotations":
            ids = [str(entry["id"]) for entry in entries]
            if len(set(ids)) < len(ids):
                twice = next(i for i in ids if ids.count(i) > 1)
                raise DataError(f"{path}: {key}: the id {twice} occurs twice")
    return content

"""YAML as people mean it: numbers in any notation, ``2:4`` as text, and no key written twice.

PyYAML follows YAML 1.1, which reads ``1e-3`` as text, ``2:4`` as the base-60 number 124, ``010`` as 8 and
``2024-01-01`` as a date. Here the first is a number and the others are text, as in YAML 1.2.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from slr_det.errors import ConfigError

_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)$|0x[0-9a-fA-F_]+$")
_FLOAT = re.compile(
    r"[-+]?(([0-9][0-9_]*)?\.[0-9]+|[0-9][0-9_]*\.)([eE][-+]?[0-9]+)?$"
    r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"
    r"|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
_REPLACED = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp")}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML carries no types
    """The safe loader with YAML 1.2 numbers and a check for repeated keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own class attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ConfigError(f"line {line}: the key '{key.value}' is written twice; remove one")
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """The safe dumper, which quotes text that either version of YAML would read as something else."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def dump_yaml(content: Any) -> str:
    """A YAML document that this module and any YAML reader read back the same, keys in the order given."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def parse_yaml(text: str, where: str) -> Any:
    """Parse a YAML document; None where it is empty.

    Raises:
        ConfigError: It is not YAML, or a key is written twice; the message names ``where`` and the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{where}:{line} is not YAML ({error.problem}); correct it") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: is not YAML ({str(error).splitlines()[0]}); correct it") from error


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file.

    Raises:
        ConfigError: It is missing, not a text file, or not YAML.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not a text file; expected YAML") from error
    return parse_yaml(text, str(path))


def parse_value(text: str) -> Any:
    """A value from the command line, read as a YAML scalar, ``[list]`` or ``{mapping}``; else the text itself.

    Paths with colons and other text that is not YAML, or would be a mapping without braces, stay text.
    """
    bracketed = text.lstrip().startswith(("[", "{"))
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ConfigError):
        if bracketed:
            raise ConfigError(
                f"{text!r} is not a YAML list or mapping; check the brackets and quotes"
            ) from None
        return text
    return value if bracketed or not isinstance(value, dict | list) else text

"""Modules that stand in for packages which an upstream checkout imports and a run does not need."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from slr_det.errors import MissingExtraError


def module(name: str, **attributes: Any) -> ModuleType:
    """A module made of what is given."""
    made = ModuleType(name, "Stands in for a package that is not installed.")
    made.__dict__.update(attributes)
    made.__path__ = []  # a package, so that `import NAME.part` finds the parts that are supplied as well
    return made


def unavailable(name: str, sentence: str) -> ModuleType:
    """A module whose every attribute raises MissingExtraError(``sentence``) when it is used."""
    made = module(name)

    def absent(attribute: str) -> Any:
        if attribute.startswith("__"):  # what Python itself asks a module for
            raise AttributeError(attribute)

        def refuse(*_: Any, **__: Any) -> Any:
            raise MissingExtraError(sentence)

        return refuse

    made.__dict__["__getattr__"] = absent
    return made

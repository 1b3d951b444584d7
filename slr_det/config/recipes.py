"""Named sets of settings, each in the form of a configuration file's content."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

#: ``paper`` changes nothing: the defaults are the paper's.
RECIPES: dict[str, dict[str, Any]] = {"paper": {}}


def recipe_defaults(name: str) -> dict[str, Any]:
    """The settings of a recipe, as a mapping of the caller's own; KeyError for a name that is none."""
    return deepcopy(RECIPES[name])

"""Named sets of settings, each in the form of a configuration file's content.

``paper`` is the method as it was published: the defaults. ``recommended`` is what won in the measurements of
docs/results/methods.md; each of its settings is there with what it brings.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    "paper": {},
    "recommended": {
        "iterations_per_epoch": 4,
        "one_schedule": True,
        "distill": 0.9,
        "distill_temperature": 2.0,
        "prune": {"allocation": "erk"},
        "slr": {
            "rho": 0.5,
            "rho_growth": 100.0,
            "s0": 0.2,
            "s0_unit": "rho",
            "continuation": 0.45,
            "survivors": "free",
        },
    },
}


def recipe_defaults(name: str, without: Collection[str] = ()) -> dict[str, Any]:
    """The settings of a recipe, as a mapping of the caller's own; KeyError for a name that is none.

    ``without`` are top-level keys that the trainer at hand cannot serve: a recipe goes without them, where a user who
    asked for one by name would be told.
    """
    return {key: value for key, value in deepcopy(RECIPES[name]).items() if key not in without}

"""Groups as people declare them: layers that share one budget, or one mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slr_det.allocation.ratios import to_number
from slr_det.errors import ConfigError, nearest
from slr_det.projections import Projection

KEYS = ("name", "params", "keep", "projection", "coupled")


@dataclass(frozen=True)
class Declared:
    """One group before its layers are known.

    Attributes:
        name: Name of the group.
        globs: Parameter names or globs.
        projection: The set it is projected onto.
        keep: Its keep ratio, or None for the one of the layers that are free to choose.
    """

    name: str
    globs: tuple[str, ...]
    projection: Projection
    keep: float | None


def read_groups(groups: Sequence[Mapping[str, Any]], default: Projection) -> tuple[list[Declared], list[str]]:
    """Read ``[{name, params, keep, projection, coupled}, ...]``; the groups that could be read, and all problems.

    ``coupled: true`` gives the members one mask over their slices; it is an option of the projections ``filter``
    and ``channel``.
    """
    found: list[Declared] = []
    problems: list[str] = []
    for position, group in enumerate(groups, start=1):
        name = str(group.get("name", f"group{position}"))
        where = f"group '{name}'"
        problems += [
            f"{where}: unknown key '{key}'{nearest(str(key), KEYS)}" for key in group if key not in KEYS
        ]
        if any(other.name == name for other in found):
            problems.append(f"{where} is declared twice; give each group its own name")
            continue
        globs = group.get("params")
        globs = [globs] if isinstance(globs, str) else globs
        if not isinstance(globs, Sequence) or not globs or not all(isinstance(glob, str) for glob in globs):
            problems.append(f"{where}: params is {globs!r}, expected a list of parameter names or globs")
            continue
        keep = group.get("keep")
        number = to_number(keep)
        if keep is not None and (number is None or not 0.0 < number <= 1.0):
            problems.append(f"{where}: keep is {keep!r}, expected a keep ratio in (0, 1]")
        found.append(Declared(name, tuple(globs), _projection(group, default, where, problems), number))
    return found, problems


def _projection(group: Mapping[str, Any], default: Projection, where: str, problems: list[str]) -> Projection:
    try:
        projection = Projection.parse(group["projection"]) if "projection" in group else default
        if "coupled" in group:
            projection = Projection.from_dict({**projection.to_dict(), "coupled": group["coupled"]})
    except ConfigError as error:
        problems += [f"{where}: {problem}" for problem in error.problems]
        return default
    return projection

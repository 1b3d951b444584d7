"""Ratios as people write them: our ``keep:`` files, ``prune_ratios:`` files of ADMM repositories, ``3.33x``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from slr_det.errors import ConfigError, nearest
from slr_det.yamlio import read_yaml

_SECTIONS = ("keep", "prune_ratios")


@dataclass(frozen=True)
class Ratios:
    """Per-layer ratios, always as the fraction that is *kept*.

    Attributes:
        keep: Layer name or glob -> keep ratio in (0, 1], in the order written.
        source: Where they came from, for messages.
        notes: One sentence each on what else was found there and not used.
    """

    keep: Mapping[str, float]
    source: str = "ratios"
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, dict[str, float]]:
        """The form that :func:`read_ratios` reads back."""
        return {"keep": dict(self.keep)}


def read_ratios(source: str | Path | Mapping[str, Any], *, origin: str = "ratios") -> Ratios:
    """Read per-layer ratios from a YAML file or from the mapping such a file holds.

    Two sections are understood, exactly one of which must be present:

    - ``keep:`` layer name or glob -> fraction of the weights that stays, in (0, 1];
    - ``prune_ratios:`` as in ADMM-style repositories: layer name -> fraction that is *removed* (the sparsity), in
      [0, 1), as a mapping or as a list of pairs. Their names are matched with or without ``module.`` in front and
      ``.weight`` behind. Other keys of such a file are noted and not used.

    Args:
        source: Path of a YAML file, or its content.
        origin: What messages call a mapping.

    Raises:
        ConfigError: The file is missing or not YAML, holds both or neither section, or ratios are out of range;
            all problems at once.
    """
    if isinstance(source, Mapping):
        content: Any = source
    else:
        origin = str(source)
        content = read_yaml(source)
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"{origin}: expected a mapping with 'keep:' or 'prune_ratios:', got {_type(content)}"
        )
    present = [section for section in _SECTIONS if section in content]
    if len(present) != 1:
        found = "both 'keep' and 'prune_ratios'" if present else f"the keys {[str(k) for k in content][:4]}"
        raise ConfigError(
            f"{origin}: {found} found; write ratios under exactly one of 'keep:' (fraction kept) "
            "or 'prune_ratios:' (fraction removed)"
        )
    section = present[0]
    others = [str(key) for key in content if key != section]
    if section == "keep" and others:
        raise ConfigError([f"{origin}: unknown key '{key}' beside 'keep:'; remove it" for key in others])
    pairs, problems = _pairs(content[section], f"{origin}: {section}")
    keep: dict[str, float] = {}
    for name, value in pairs:
        number = to_number(value)
        where = f"{origin}: {section}: '{name}'"
        if name in keep:
            problems.append(f"{where} is written twice; remove one")
        elif number is None:
            problems.append(f"{where} is {value!r}, expected a number")
        elif section == "keep":
            if not 0.0 < number <= 1.0:
                problems.append(f"{where} is {value}, expected a keep ratio in (0, 1]")
            keep[name] = number
        else:
            if not 0.0 <= number < 1.0:
                problems.append(f"{where} is {value}, expected a sparsity in [0, 1)")
            # 1 - 0.9 leaves 0.09999999999999998, which rounds a count down where 0.1 is meant.
            keep[name] = round(1.0 - number, 12)
    if problems:
        raise ConfigError(problems)
    if not keep:
        raise ConfigError(f"{origin}: '{section}:' is empty; name at least one layer")
    notes = (f"{origin}: {', '.join(others)} not used (only prune_ratios is)",) if others else ()
    return Ratios(keep, origin, notes)


def match_ratios(ratios: Ratios, names: Sequence[str]) -> tuple[dict[str, float], set[str], list[str]]:
    """Find the keep ratio of each layer.

    A name written in full beats globs; among globs the last one that matches wins.

    Returns:
        Keep ratio by layer name (layers that nothing names are absent), the layers that were named in full, and
        one problem per entry that matches no layer or names one twice.
    """
    found: dict[str, float] = {}
    exact: dict[str, str] = {}
    problems: list[str] = []
    for key, keep in ratios.keep.items():
        matched, in_full = match_name(key, names)
        if not matched:
            problems.append(f"{ratios.source}: '{key}' matches no layer{nearest_layer(key, names)}")
        for name in matched:
            if in_full and name in exact:
                problems.append(f"{ratios.source}: '{key}' and '{exact[name]}' name the same layer '{name}'")
            if in_full or name not in exact:
                found[name] = keep
            if in_full:
                exact[name] = key
    return found, set(exact), problems


def match_name(key: str, names: Iterable[str]) -> tuple[list[str], bool]:
    """Layers that ``key`` names, and whether it names one in full (no wildcard).

    ``module.`` in front (a DataParallel prefix) and a missing ``.weight`` make no difference on either side.
    """
    bare = key.removeprefix("module.")
    forms = (bare, f"{bare}.weight")
    names = list(names)
    exact = [name for name in names if name.removeprefix("module.") in forms]
    if exact:
        return exact, True
    globbed = [
        name for name in names if any(fnmatchcase(name.removeprefix("module."), form) for form in forms)
    ]
    return globbed, False


def match_globs(
    globs: Sequence[str], names: Sequence[str], where: str
) -> tuple[dict[str, str], set[str], list[str]]:
    """The first glob that matches each name, the names written out in full, and the globs that match nothing."""
    first: dict[str, str] = {}
    exact: set[str] = set()
    problems: list[str] = []
    for glob in globs:
        matched, in_full = match_name(glob, names)
        if not matched:
            problems.append(f"{where}: '{glob}' matches no layer{nearest_layer(glob, names)}")
        if in_full:
            exact.update(matched)
        for name in matched:
            first.setdefault(name, glob)
    return first, exact, problems


def nearest_layer(key: str, names: Sequence[str]) -> str:
    """A hint with the closest layer name; compares without ``module.`` and ``.weight``, which make no difference."""
    bare = {name.removeprefix("module.").removesuffix(".weight"): name for name in names}
    hint = nearest(key.removeprefix("module.").removesuffix(".weight"), bare)
    for short, name in bare.items():
        if f"'{short}'" in hint:
            return hint.replace(f"'{short}'", f"'{name}'")
    return hint


def parse_rate(value: object, where: str = "target_compression") -> float:
    """Read a compression rate (all weights / nonzero weights), written ``3.33``, ``"3.33"`` or ``"3.33x"``.

    Raises:
        ConfigError: It is not a finite number of at least 1.
    """
    text = value.strip().removesuffix("x").removesuffix("X") if isinstance(value, str) else value
    rate = to_number(text)
    if rate is None or not math.isfinite(rate) or rate < 1.0:
        raise ConfigError(f"{where} is {value!r}, expected a rate of at least 1 such as 3.33x")
    return rate


def to_number(value: object) -> float | None:
    """A float from a YAML scalar, or None. ``1e-3``, which YAML 1.1 reads as a string, is a number; true is not."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _pairs(section: object, where: str) -> tuple[list[tuple[str, object]], list[str]]:
    """The entries of a section written as a mapping, a list of one-entry mappings, or a list of [name, value]."""
    if isinstance(section, Mapping):
        return [(str(name), value) for name, value in section.items()], []
    if not isinstance(section, list):
        return [], [f"{where} is {_type(section)}, expected layer names with a ratio each"]
    pairs: list[tuple[str, object]] = []
    problems: list[str] = []
    for position, item in enumerate(section, start=1):
        if isinstance(item, Mapping):
            pairs.extend((str(name), value) for name, value in item.items())
        elif isinstance(item, list) and len(item) == 2:
            pairs.append((str(item[0]), item[1]))
        else:
            problems.append(f"{where}: entry {position} is {item!r}, expected 'layer name: ratio'")
    return pairs, problems


def _type(value: object) -> str:
    return "nothing" if value is None else type(value).__name__

"""From a YAML file and ``key=value`` words to a :class:`RunConfig`, or to every problem at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slr_det.allocation.ratios import to_number
from slr_det.config.readers import Wrong, number
from slr_det.config.schema import PASSED_THROUGH, SECTIONS, PruneConfig, RunConfig, known_keys
from slr_det.errors import ConfigError, nearest
from slr_det.methods import Hyper
from slr_det.yamlio import parse_value, read_yaml

COMMAND_LINE = "command line"
# A setting of one of these in a later layer replaces the other in an earlier one: --compression beats a file's keep.
EXCLUSIVE = ("prune.keep", "prune.target_compression")
TEXT_KEYS = ("model", "data", "name", "project")


@dataclass(frozen=True)
class Entry:
    """One setting as it was found."""

    value: Any
    origin: str


def load_config(
    source: str | Path | Mapping[str, Any] | None,
    overrides: Sequence[str] = (),
    *,
    defaults: Mapping[str, Any] | None = None,
    trainer_keys: Collection[str] = (),
    required: Collection[str] = ("model",),
) -> RunConfig:
    """Read a run's configuration: ``defaults``, then ``source``, then ``overrides``; the later one wins.

    Args:
        source: Path of a YAML file, the mapping such a file holds, or None.
        overrides: ``key=value`` words; keys of sections are dotted (``prune.keep=0.3``), values are YAML scalars,
            ``[lists]`` or ``{mappings}``.
        defaults: Settings used where the others are silent, in the form of a file's content.
        trainer_keys: Arguments of the trainer. Bare keys among them go to ``train``; what is in ``train``,
            ``dense`` and ``retrain`` is checked against them. Empty accepts any in these sections.
        required: Keys that must not be empty in the end.

    Raises:
        ConfigError: Everything that is wrong, one sentence each, with the file or ``command line`` and the key.
    """
    problems: list[str] = []
    entries: dict[str, Entry] = {}
    file = None if source is None or isinstance(source, Mapping) else str(source)
    content = _content(source, problems)
    if problems:  # what the file would have said is unknown, so nothing else can be judged
        raise ConfigError(problems)
    layers = [
        _flatten(defaults or {}, "defaults", trainer_keys, problems),
        _flatten(content, file or "configuration", trainer_keys, problems),
        _from_words(overrides, trainer_keys, problems),
    ]
    if file is not None:
        _look_beside(Path(file), layers[1])
    for layer in layers:
        given = [key for key in EXCLUSIVE if key in layer and layer[key].value is not None]
        if len(given) == 1:
            other = EXCLUSIVE[1 - EXCLUSIVE.index(given[0])]
            entries.pop(other, None)
        entries |= layer
    values = _read(entries, set(trainer_keys), problems)
    _check_together(values, entries, problems)
    name = "run" if file is None else Path(file).stem
    config = _build(values, entries, {"name": name}, problems)
    problems += [
        f"{key} is not given; add {key}=... to the command"
        for key in required
        if not getattr(config, key, None) and (key not in entries or not entries[key].value)
    ]
    if problems:
        raise ConfigError(problems)
    return config


def parse_pairs(words: Sequence[str], where: str) -> dict[str, float]:
    """Numbers written ``name=value``, as ``--min map50=0.35`` has them.

    Raises:
        ConfigError: For every word that is not of that form; ``where`` names the option.
    """
    pairs: dict[str, float] = {}
    problems: list[str] = []
    for word in words:
        name, _, value = word.partition("=")
        found = to_number(value)
        if not name or found is None:
            problems.append(f"{where} {word!r}: expected name=number, such as map50=0.35")
        else:
            pairs[name] = found
    if problems:
        raise ConfigError(problems)
    return pairs


def _content(source: str | Path | Mapping[str, Any] | None, problems: list[str]) -> Mapping[str, Any]:
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


def _flatten(
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


def _look_beside(file: Path, entries: dict[str, Entry]) -> None:
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


def _from_words(words: Sequence[str], trainer_keys: Collection[str], problems: list[str]) -> dict[str, Entry]:
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
            entries |= _flatten({key: value}, COMMAND_LINE, trainer_keys, problems)
        else:
            entries[_placed(key, trainer_keys)] = Entry(value, COMMAND_LINE)
    return entries


def _placed(key: str, trainer_keys: Collection[str]) -> str:
    return f"train.{key}" if key in trainer_keys and key not in known_keys() else key


def _read(entries: Mapping[str, Entry], trainer_keys: set[str], problems: list[str]) -> dict[str, Any]:
    """Values by dotted key, converted; unknown keys and wrong values become problems."""
    known = known_keys()
    values: dict[str, Any] = {}
    for key, entry in entries.items():
        section, _, inner = key.partition(".")
        where = f"{entry.origin}: {key}"
        try:
            if key in known:
                values[key] = known[key](entry.value)
            elif section in PASSED_THROUGH and inner:
                if trainer_keys and inner not in trainer_keys:
                    hint = _hint(inner, known, trainer_keys)
                    problems.append(f"{where}: the trainer has no argument '{inner}' that can be set{hint}")
                values[key] = entry.value
            elif section == "min" and inner:
                values[key] = number(entry.value)
            elif section == "paper":
                values[key] = entry.value
            else:
                problems.append(f"{entry.origin}: unknown key '{key}'{_hint(key, known, trainer_keys)}")
        except Wrong as error:
            problems.append(
                f"{where} is {_shown(entry.value if error.part is None else error.part)}, {error}"
            )
        except ConfigError as error:
            problems += [f"{where}: {problem.removeprefix(f'{key}: ')}" for problem in error.problems]
    return values


def _hint(key: str, known: Collection[str], trainer_keys: Collection[str]) -> str:
    """The nearest valid key: the same name in a section first, then the closest spelling of any."""
    leaf = key.rpartition(".")[2]
    leaves: dict[str, str] = {}
    for name in [*trainer_keys, *sorted(known, reverse=True)]:
        leaves[name.rpartition(".")[2]] = name
    leaves["min"] = "min.map50"
    if leaf in leaves and leaves[leaf] != key:
        return f" (did you mean '{leaves[leaf]}'?)"
    full = nearest(key, [*known, *trainer_keys])
    if full:
        return full
    hint = nearest(leaf, leaves)
    for short, name in leaves.items():
        if f"'{short}'" in hint:
            return f" (did you mean '{name}'?)"
    return ""


def _check_together(values: Mapping[str, Any], entries: Mapping[str, Entry], problems: list[str]) -> None:
    keep, target = (values.get(key) for key in EXCLUSIVE)
    if keep is not None and target is not None:
        origin = entries["prune.target_compression"].origin
        problems.append(
            f"{origin}: prune.keep={keep:g} and prune.target_compression={target:g} are both given; remove one"
        )
    if values.get("prune.allocation") == "layerwise" and "prune.ratios" not in entries:
        origin = entries["prune.allocation"].origin
        problems.append(f"{origin}: prune.allocation is 'layerwise', which needs a file in prune.ratios")


def _build(
    values: dict[str, Any], entries: Mapping[str, Entry], fallback: Mapping[str, Any], problems: list[str]
) -> RunConfig:
    parts: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    top = dict(fallback)
    for key, value in values.items():
        section, _, inner = key.partition(".")
        if inner:
            parts[section][inner] = value
        elif key != "paper" and (key != "name" or value):
            top[key] = value
    paper = values.get("paper")
    if paper is not None and not isinstance(paper, Mapping):
        problems.append(
            f"{entries['paper'].origin}: paper is {paper!r}, expected a section with keys of its own"
        )
        paper = None
    if parts["paper"]:
        paper = {**(paper or {}), **parts["paper"]}
    prune = parts["prune"]
    alone = prune.get("keep") is None and prune.get("target_compression") is None
    if prune.get("ratios") is not None and alone:
        prune.setdefault("allocation", "layerwise")
    try:
        hyper = Hyper(**parts["slr"])
    except ConfigError as error:
        hyper = Hyper()
        for problem in error.problems:
            key = f"slr.{problem.partition(' ')[0]}"
            origin = entries[key].origin if key in entries else "configuration"
            problems.append(f"{origin}: slr.{problem}")
    return RunConfig(
        **top,
        prune=PruneConfig(**prune),
        slr=hyper,
        train=parts["train"],
        dense=parts["dense"],
        retrain=parts["retrain"],
        minimum=parts["min"],
        paper=None if paper is None else dict(paper),
    )


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."

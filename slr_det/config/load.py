"""From a YAML file and ``key=value`` words to a :class:`RunConfig`, or to every problem at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from slr_det.config.published import read_published
from slr_det.config.readers import Wrong, number, shown
from slr_det.config.recipes import RECIPES, recipe_defaults
from slr_det.config.schema import PASSED_THROUGH, SECTIONS, TASKS, PruneConfig, RunConfig, known_keys
from slr_det.config.sources import Entry, flatten, from_words, look_beside, read_content
from slr_det.errors import ConfigError, nearest
from slr_det.methods import Hyper

# A setting of one of these in a later layer replaces the other in an earlier one: --compression beats a file's keep.
EXCLUSIVE = ("prune.keep", "prune.target_compression")


def load_config(
    source: str | Path | Mapping[str, Any] | None,
    overrides: Sequence[str] = (),
    *,
    defaults: Mapping[str, Any] | None = None,
    trainer_keys: Collection[str] = (),
    required: Collection[str] = ("model",),
    task: str | None = None,
    unsupported: Mapping[str, str] | None = None,
    scopes: Mapping[str, Mapping[str, Any]] | None = None,
) -> RunConfig:
    """Read a run's configuration: ``defaults``, a recipe, ``source``, then ``overrides``; the later one wins.

    The recipe is the one that the last of the others to name one names, so that a command line's ``recipe=`` puts its
    settings under a file's: what a file says itself is not undone by a name. So it is with the settings that
    ``prune.scope`` stands for.

    Args:
        source: Path of a YAML file, the mapping such a file holds, or None.
        overrides: ``key=value`` words; keys of sections are dotted (``prune.keep=0.3``), values are YAML scalars,
            ``[lists]`` or ``{mappings}``.
        defaults: Settings used where the others are silent, in the form of a file's content.
        trainer_keys: Arguments of the trainer. Bare keys among them go to ``train``; what is in ``train``,
            ``dense`` and ``retrain`` is checked against them. Empty accepts any in these sections.
        required: Keys that must not be empty in the end.
        task: The task of the command line, where there is one: the settings of another are refused.
        unsupported: Keys that the trainer cannot serve, each with what to do instead
            (:meth:`slr_det.adapter.Adapter.unsupported`); any value but the default is refused.
        scopes: The task's choices of what is pruned: settings of ``prune`` by the name that ``prune.scope`` has for
            them. Without a name the first one's count. None for a file that says everything itself.

    Raises:
        ConfigError: Everything that is wrong, one sentence each, with the file or ``command line`` and the key.
    """
    problems: list[str] = []
    entries: dict[str, Entry] = {}
    file = None if source is None or isinstance(source, Mapping) else str(source)
    content = read_content(source, problems)
    if problems:  # what the file would have said is unknown, so nothing else can be judged
        raise ConfigError(problems)
    layers = [
        flatten(defaults or {}, "defaults", trainer_keys, problems),
        flatten(content, file or "configuration", trainer_keys, problems),
        from_words(overrides, trainer_keys, problems),
    ]
    if file is not None:
        look_beside(Path(file), layers[1])
    recipe = _recipe(layers, trainer_keys, unsupported or {}, problems)
    layers[1:1] = [recipe, *([] if scopes is None else [_scope(layers, scopes, problems)])]
    for layer in layers:
        given = [key for key in EXCLUSIVE if key in layer and layer[key].value is not None]
        if len(given) == 1:
            other = EXCLUSIVE[1 - EXCLUSIVE.index(given[0])]
            entries.pop(other, None)
        entries |= layer
    if task is not None and "task" in entries:
        _require_task(task, entries["task"])
    values = _read(entries, set(trainer_keys), problems)
    _check_together(values, entries, problems)
    name = "run" if file is None else Path(file).stem
    config = _build(values, entries, {"name": name, "task": task or RunConfig.task}, problems)
    problems += _unsupported(config, entries, unsupported or {})
    problems += [
        f"{key} is not given; add {key}=... to the command"
        for key in required
        if not getattr(config, key, None) and (key not in entries or not entries[key].value)
    ]
    if problems:
        raise ConfigError(problems)
    return config


def _recipe(
    layers: Sequence[Mapping[str, Entry]],
    trainer_keys: Collection[str],
    unsupported: Collection[str],
    problems: list[str],
) -> dict[str, Entry]:
    """The settings of the recipe that is asked for; none for a name that is no recipe, which is reported when read."""
    named = [layer["recipe"].value for layer in layers if "recipe" in layer]
    if not named or not isinstance(named[-1], str) or named[-1] not in RECIPES:
        return {}
    settings = recipe_defaults(named[-1], without=unsupported)
    return flatten(settings, f"recipe '{named[-1]}'", trainer_keys, problems)


def _scope(
    layers: Sequence[Mapping[str, Entry]], scopes: Mapping[str, Mapping[str, Any]], problems: list[str]
) -> dict[str, Entry]:
    """The settings of the scope that is asked for, of the first where none is."""
    named = [layer["prune.scope"] for layer in layers if "prune.scope" in layer]
    name = str(named[-1].value or "") if named else ""
    if name and name not in scopes:
        known = (
            f"expected {' or '.join(scopes)}{nearest(name, scopes)}" if scopes else "which this task has not"
        )
        problems.append(f"{named[-1].origin}: prune.scope is {shown(name)}, {known}")
    if not scopes or (name and name not in scopes):
        return {}
    name = name or next(iter(scopes))
    return flatten({"prune": scopes[name]}, f"prune.scope={name}", (), problems)


def _require_task(task: str, entry: Entry) -> None:
    """Raise ConfigError for the settings of another task, whose trainer has other arguments: one reason for it all."""
    if entry.value in TASKS and entry.value != task:
        raise ConfigError(
            f"{entry.origin}: task is '{entry.value}', but this is the command line for '{task}'; "
            f"use python -m slr_det.{entry.value}"
        )


def _unsupported(
    config: RunConfig, entries: Mapping[str, Entry], unsupported: Mapping[str, str]
) -> list[str]:
    return [
        f"{entries[field.name].origin}: {field.name} is {shown(getattr(config, field.name))}, "
        f"but {unsupported[field.name]}"
        for field in fields(config)
        if field.name in unsupported and getattr(config, field.name) != field.default
    ]


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
                wrong: list[str] = []
                values[key] = read_published(entry.value, key, wrong)
                problems += [f"{entry.origin}: {problem}" for problem in wrong]
            else:
                problems.append(f"{entry.origin}: unknown key '{key}'{_hint(key, known, trainer_keys)}")
        except Wrong as error:
            problems.append(f"{where} is {shown(entry.value if error.part is None else error.part)}, {error}")
        except ConfigError as error:
            problems += [f"{where}: {problem.removeprefix(f'{key}: ')}" for problem in error.problems]
    return values


def _hint(key: str, known: Collection[str], trainer_keys: Collection[str]) -> str:
    """The nearest valid key: the same name in a section first, then the closest spelling of any."""
    leaf = key.rpartition(".")[2]
    leaves: dict[str, str] = {}
    for name in [*trainer_keys, *sorted(known, reverse=True)]:
        leaves[name.rpartition(".")[2]] = name
    leaves["min"] = "min.METRIC"
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

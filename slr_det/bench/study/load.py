"""From a study's YAML file and ``key=value`` words to a :class:`Study`, or to every problem at once."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from slr_det.adapter import Adapter, load_adapter
from slr_det.allocation.ratios import to_number
from slr_det.bench.study.model import DENSE, Entry, Study
from slr_det.bench.study.rules import check_rules, unequal_keys
from slr_det.bench.study.toplevel import TopLevel
from slr_det.config import RunConfig, load_config
from slr_det.config.schema import TASKS
from slr_det.config.sources import flatten, from_words, look_beside
from slr_det.errors import ConfigError, nearest
from slr_det.methods import Hyper
from slr_det.task import Task
from slr_det.yamlio import read_yaml

KEYS = (
    *("name", "task", "seeds", "rates", "target", "dense", "base", "entries"),
    *("baselines", "unequal", "sweep_of", "sweep", "plots"),
)
REQUIRED = ("seeds", "rates", "base", "entries")
#: Settings of a run that a study decides itself, each with what decides it.
DECIDED = {
    "method": "each of 'entries' has one",
    "recipe": "it belongs to an entry",
    "seed": "'seeds' lists them",
    "name": "a cell is named after its entry, rate and seed",
    "task": "it stands beside 'base'",
    "prune.keep": "'rates' says how much is pruned",
    "prune.target_compression": "'rates' says how much is pruned",
}
JUDGED = "a study is judged by --check"
_LETTERS = "letters, digits, spaces and . _ = + -"
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._=+-]*")


def find_task(name: str) -> Task:
    """The task of a name, from the module of its command line; ConfigError where there is none.

    By import at run time: the command lines stand beside each other, and none may import another.
    """
    if name not in TASKS:
        raise ConfigError(f"task is {name!r}, expected one of {', '.join(TASKS)}{nearest(str(name), TASKS)}")
    task: Task = importlib.import_module(f"slr_det.{name}").TASK
    return task


def load_study(path: str | Path, words: Sequence[str] = ()) -> Study:
    """Read a study; ``words`` override its ``base``, and ``name=`` its name.

    Raises:
        ConfigError: Everything that is wrong, one sentence each, with the file and the key.
    """
    file = str(path)
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{file}: expected a study with {', '.join(REQUIRED)}; see docs/studies.md")
    problems = [f"{file}: unknown key '{key}'{nearest(str(key), KEYS)}" for key in content if key not in KEYS]
    problems += [f"{file}: {key} is not given; a study needs it" for key in REQUIRED if not content.get(key)]
    if problems:
        raise ConfigError(problems)
    reader = TopLevel(file, content, problems)
    seeds, rates = reader.seeds(), reader.rates()
    sections = {key: reader.section(key) for key in ("base", "entries", "target", "sweep")}
    task = find_task(str(content.get("task", RunConfig.task)))
    if problems:
        raise ConfigError(problems)
    adapter = load_adapter(task.adapter)
    named = [word.partition("=")[2] for word in words if word.startswith("name=")]
    name = str([content.get("name") or Path(path).stem, *named][-1])
    if not _LABEL.fullmatch(name):
        raise ConfigError(f"{file}: name is {name!r}, a folder of the runs; use {_LETTERS}")
    others = [word for word in words if not word.startswith("name=")]
    base = _base(file, sections["base"], others, adapter, task)
    settings = _entries(file, sections["entries"], adapter, problems)
    swept = _sweep(file, content.get("sweep_of"), sections["sweep"], settings, problems)
    if problems:
        raise ConfigError(problems)
    plain = Study(
        path=file,
        words=tuple(words),
        name=name,
        task=task,
        trainer_keys=adapter.trainer_keys(),
        unsupported=adapter.unsupported(),
        base=base,
        seeds=seeds,
        rates=rates,
        target=reader.target(sections["target"], task),
        shared_dense=False,
        entries=(),
        baselines=reader.labels("baselines", settings),
        sweep_of=str(content.get("sweep_of") or ""),
        plots=reader.plots(),
    )
    unequal = reader.labels("unequal", settings)
    entries = _build(plain, settings, swept, unequal, problems)
    if problems:
        raise ConfigError(problems)
    common = plain.config({}, rates[0], seeds[0])
    problems += check_rules(file, common, entries, unequal)
    if plain.baselines and entries[0].label in plain.baselines:
        problems.append(
            f"{file}: baselines names '{entries[0].label}', the first entry, which they are compared with"
        )
    shared = reader.dense(
        adapter.is_checkpoint(common.model) or bool(common.weights and not common.dense_epochs)
    )
    if problems:
        raise ConfigError(problems)
    return plain.with_entries(entries, shared)


def _base(
    file: str, content: Mapping[str, Any], words: Sequence[str], adapter: Adapter, task: Task
) -> dict[str, Any]:
    """The settings that all cells share, by dotted key."""
    problems: list[str] = []
    keys = adapter.trainer_keys()
    found = flatten(content, f"{file}: base", keys, problems)
    look_beside(Path(file), found)
    found |= from_words(words, keys, problems)
    problems += [
        f"{entry.origin}: {key} is set by the study: {reason}; leave it out"
        for key, entry in found.items()
        if (reason := JUDGED if key.startswith("min.") else DECIDED.get(key))
    ]
    settings = {key: entry.value for key, entry in found.items()}
    try:
        load_config(
            settings,
            trainer_keys=keys,
            required=("model", "data"),
            task=task.name,
            unsupported=adapter.unsupported(),
            scopes=task.scope_settings,
        )
    except ConfigError as error:
        origins = {key: entry.origin for key, entry in found.items()}
        problems += [located(problem, origins, f"{file}: base") for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return settings


def located(problem: str, origins: Mapping[str, str], fallback: str) -> str:
    """A problem of joined settings, with the place that its key came from; ``fallback`` where none is known."""
    rest = problem.removeprefix("configuration: ")
    if rest == problem:
        return problem
    key = re.split(r"[:\s]", rest.removeprefix("unknown key '"), maxsplit=1)[0].strip("'")
    return f"{origins.get(key, fallback)}: {rest}"


def _entries(
    file: str, content: Mapping[str, Any], adapter: Adapter, problems: list[str]
) -> dict[str, dict[str, Any]]:
    """What differs from the base, by label and dotted key."""
    entries: dict[str, dict[str, Any]] = {}
    for label, differs in content.items():
        where = f"{file}: entries.{label}"
        if not _LABEL.fullmatch(label) or label == DENSE:
            problems.append(f"{where}: the label names a folder; use {_LETTERS}, and not '{DENSE}'")
        if not isinstance(differs, Mapping) or not isinstance(differs.get("method"), str):
            problems.append(
                f"{where}: expected settings with one method, such as {{method: slr, recipe: paper}}"
            )
            continue
        found = flatten(differs, where, adapter.trainer_keys(), problems)
        problems += [
            f"{where}: {key} is set by the study: {DECIDED[key]}; leave it out"
            for key in found
            if key in DECIDED and key not in ("method", "recipe")
        ]
        entries[label] = {key: entry.value for key, entry in found.items()}
    return entries


def _sweep(
    file: str,
    of: Any,
    section: Mapping[str, Any],
    settings: dict[str, dict[str, Any]],
    problems: list[str],
) -> dict[str, tuple[str, float]]:
    """Which hyperparameter each generated entry changes; the entries themselves are added to ``settings``."""
    if not section and of is None:
        return {}
    if not section or str(of) not in settings:
        problems.append(
            f"{file}: sweep_of is {of!r} and sweep is {dict(section)!r}, expected the label of an entry and values by "
            "hyperparameter, such as {s0: [0.001, 0.01]}"
        )
        return {}
    swept: dict[str, tuple[str, float]] = {}
    numbers = {name for name, value in Hyper().to_dict().items() if not isinstance(value, str)}
    for key, values in section.items():
        found = [to_number(value) for value in (values if isinstance(values, list) else [values])]
        if key not in numbers:
            problems.append(f"{file}: sweep: unknown hyperparameter '{key}'{nearest(key, numbers)}")
        elif None in found or not found or len(set(found)) < len(found):
            problems.append(f"{file}: sweep.{key} is {values!r}, expected different numbers")
        else:
            for value in found:
                label = f"{of} {key}={value:g}"
                settings[label] = {**settings[str(of)], f"slr.{key}": value}
                swept[label] = (key, float(value or 0.0))
    return swept


def _build(
    study: Study,
    settings: Mapping[str, dict[str, Any]],
    swept: Mapping[str, tuple[str, float]],
    unequal: Collection[str],
    problems: list[str],
) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    common = study.config({}, study.rates[0], study.seeds[0])
    for label, own in settings.items():
        try:
            config = study.config(own, study.rates[0], study.seeds[0])
        except ConfigError as error:
            where = f"{study.path}: entries.{label}"
            problems += [located(problem, {}, where) for problem in error.problems]
            continue
        if label in swept:
            key, value = swept[label]
            origin = study.config(settings[study.sweep_of], study.rates[0], study.seeds[0])
            if getattr(origin.slr, key) == value:  # the swept entry itself is this point of the sweep
                continue
        marked = study.sweep_of in unequal if label in swept else label in unequal
        differing = unequal_keys(common, config) if marked else ()
        entries.append(Entry(label, own, config, differing, swept.get(label)))
    return tuple(entries)

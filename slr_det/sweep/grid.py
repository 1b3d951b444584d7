"""What a sweep is: from its YAML file and ``key=value`` words to the cells of the grid, or to every problem at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slr_det import methods
from slr_det.adapter import load_adapter
from slr_det.bench.study.load import find_task, located
from slr_det.bench.study.toplevel import TopLevel
from slr_det.config import RunConfig, load_config
from slr_det.config.sources import Entry, flatten, from_words, look_beside
from slr_det.errors import ConfigError, nearest
from slr_det.task import Task
from slr_det.yamlio import read_yaml

KEYS = ("name", "task", "methods", "rates", "seeds", "settings")
REQUIRED = ("task", "methods", "rates", "seeds")
#: Settings of a run that the sweep decides, each with what decides it.
DECIDED = {
    "method": "'methods' lists them",
    "seed": "'seeds' lists them",
    "name": "a cell is named after its method, rate and seed",
    "task": "it stands beside 'settings'",
    "prune.keep": "'rates' says how much is pruned",
    "prune.target_compression": "'rates' says how much is pruned",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._=+-]*")


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        method: The pruning method.
        rate: The compression rate.
        seed: The seed.
        folder: The run's folder.
        config: What the run does.
    """

    method: str
    rate: float
    seed: int
    folder: Path
    config: RunConfig

    @property
    def title(self) -> str:
        """What messages call it, such as ``slr 20x seed 0``."""
        return f"{self.method} {self.rate:g}x seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """A sweep; built by :func:`load_grid`.

    Attributes:
        path: The sweep's file.
        words: ``key=value`` words of the command line.
        name: The sweep's folder in the project.
        folder: Where everything of it lies.
        task: What is compressed, and by which metric it is judged.
        methods: Pruning methods, in the order of the tables.
        rates: Compression rates.
        seeds: Seeds.
        cells: Every run, in the order in which they run: all methods of a seed and a rate before the next rate, all
            rates before the next seed, so that an unfinished table compares like with like.
    """

    path: str
    words: tuple[str, ...]
    name: str
    folder: Path
    task: Task
    methods: tuple[str, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]


class _TopLevel(TopLevel):
    """The keys of a sweep; seeds and rates are read as a study reads them."""

    def rates(self) -> tuple[float, ...]:
        """Rates of which each has a folder of its own."""
        rates = super().rates()
        if len(set(rates)) == len(rates) > len({_folder_of(rate) for rate in rates}):
            self._wrong("rates", self.content["rates"], "rates that differ in their first six digits")
        return rates

    def methods(self) -> tuple[str, ...]:
        """Different names of methods."""
        found = tuple(str(item) for item in self._list("methods"))
        known = [name for name in methods.names() if name != "none"]
        self.problems += [
            f"{self.file}: methods names '{name}', expected some of {', '.join(known)}{nearest(name, known)}"
            for name in found
            if name not in known
        ]
        if len(set(found)) < len(found):
            self._wrong("methods", self.content["methods"], "each method once")
        return found


def load_grid(path: str | Path, words: Sequence[str] = ()) -> Grid:
    """Read a sweep; ``words`` override its ``settings``, and ``name=`` its name.

    Without ``model`` and ``data`` among the settings, the task's embedded default is what is swept, with the settings
    that are given above its own.

    Raises:
        ConfigError: Everything that is wrong, one sentence each, with the file and the key.
    """
    file = str(path)
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{file}: expected a sweep with {', '.join(REQUIRED)}; see docs/sweep.md")
    problems = [f"{file}: unknown key '{key}'{nearest(str(key), KEYS)}" for key in content if key not in KEYS]
    problems += [
        f"{file}: {key} is not given; a sweep needs it"
        for key in REQUIRED
        if content.get(key) in (None, "", [])
    ]
    if problems:
        raise ConfigError(problems)
    reader = _TopLevel(file, content, problems)
    found, rates, seeds = reader.methods(), reader.rates(), reader.seeds()
    section = reader.section("settings")
    named = [word.partition("=")[2] for word in words if word.startswith("name=")]
    name = str([content.get("name") or Path(path).stem, *named][-1])
    if not _NAME.fullmatch(name):
        problems.append(
            f"{file}: name is {name!r}, a folder of the runs; use letters, digits, spaces, . _ = + -"
        )
    if problems:
        raise ConfigError(problems)
    try:
        task = find_task(str(content["task"]))
    except ConfigError as error:
        raise ConfigError([f"{file}: {problem}" for problem in error.problems]) from error
    others = [word for word in words if not word.startswith("name=")]
    plain = Grid(file, tuple(words), name, Path(), task, found, rates, seeds, ())
    return _with_cells(plain, section, others)


def _with_cells(grid: Grid, section: Mapping[str, Any], words: Sequence[str]) -> Grid:
    backends = [section.get("backend"), *(w.partition("=")[2] for w in words if w.startswith("backend="))]
    adapter = load_adapter(grid.task.adapter_of(str(backends[-1] or "")))
    problems: list[str] = []
    keys = adapter.trainer_keys()
    entries = flatten(section, f"{grid.path}: settings", keys, problems)
    look_beside(Path(grid.path), entries)
    entries |= from_words(words, keys, problems)
    problems += [
        f"{entry.origin}: {key} is set by the sweep: {DECIDED[key]}; leave it out"
        for key, entry in entries.items()
        if key in DECIDED
    ]
    if problems:
        raise ConfigError(problems)
    usual = adapter.name == grid.task.adapter and not {"model", "data"} & entries.keys()
    defaults = grid.task.preset if usual else {"recipe": grid.task.recipe}

    def config(method: str, rate: float, seed: int) -> RunConfig:
        decided = {"method": [method], "prune.target_compression": rate, "seed": seed}
        return load_config(
            {**{key: entry.value for key, entry in entries.items()}, **decided},
            defaults=defaults,
            trainer_keys=keys,
            required=("model", "data"),
            task=grid.task.name,
            unsupported=adapter.unsupported(),
            scopes=grid.task.scope_settings,
        )

    try:
        first = config(grid.methods[0], grid.rates[0], grid.seeds[0])
        folder = Path(first.project) / grid.name
        cells = [
            _cell(folder, method, rate, seed, config(method, rate, seed))
            for seed in grid.seeds
            for rate in grid.rates
            for method in grid.methods
        ]
    except ConfigError as error:
        raise ConfigError(_where(error, entries, grid.path)) from error
    return replace(grid, folder=folder, cells=tuple(cells))


def _cell(folder: Path, method: str, rate: float, seed: int, config: RunConfig) -> Cell:
    own = folder / "cells" / method / _folder_of(rate) / f"seed{seed}"
    return Cell(method, rate, seed, own, replace(config, name=own.name, project=str(own.parent)))


def _folder_of(rate: float) -> str:
    return f"{rate:g}x"


def _where(error: ConfigError, entries: Mapping[str, Entry], file: str) -> list[str]:
    origins = {key: entry.origin for key, entry in entries.items()}
    return [located(problem, origins, f"{file}: settings") for problem in error.problems]

"""What a study is: entries, rates and seeds, and the configuration of every run in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slr_det.config import RunConfig, load_config
from slr_det.places import runs_folder
from slr_det.task import Task

#: The label of the runs that train the models every entry starts from.
DENSE = "dense"
PLOTS = ("rates", "epochs", "sweep")


@dataclass(frozen=True)
class Entry:
    """One competitor.

    Attributes:
        label: Its name in tables and folders.
        settings: What differs from the base, by dotted key.
        config: Its configuration at the study's first rate and seed.
        unequal: Arguments of the trainer in which it differs from the others, with leave of the study.
        swept: For an entry of the sweep, the hyperparameter that is changed and its value.
    """

    label: str
    settings: Mapping[str, Any]
    config: RunConfig
    unequal: tuple[str, ...] = ()
    swept: tuple[str, float] | None = None


@dataclass(frozen=True)
class Study:
    """A comparison; built by :func:`slr_det.bench.study.load.load_study`.

    Attributes:
        path: The study's file.
        words: ``key=value`` words of the command line.
        name: The study's folder in the project.
        task: What is compressed, and by which metric it is judged.
        trainer_keys: Arguments of the trainer.
        unsupported: Settings that the trainer cannot serve.
        base: Settings of every run, by dotted key.
        seeds: Seeds, one repetition each.
        rates: Compression rates.
        target: A metric and the value whose first epoch is looked for; None for none.
        shared_dense: One dense model for all seeds, rather than one each.
        entries: The competitors; the first is compared with the baselines.
        baselines: Labels that the first entry has to beat.
        sweep_of: Label of the entry whose hyperparameters are swept; empty for none.
        plots: Names of the pictures to draw.
    """

    path: str
    words: tuple[str, ...]
    name: str
    task: Task
    trainer_keys: frozenset[str]
    unsupported: Mapping[str, str]
    base: Mapping[str, Any]
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    target: tuple[str, float] | None
    shared_dense: bool
    entries: tuple[Entry, ...]
    baselines: tuple[str, ...]
    sweep_of: str
    plots: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where everything of the study lies."""
        return Path(str(self.base.get("project") or runs_folder())) / self.name

    def config(self, settings: Mapping[str, Any], rate: float, seed: int) -> RunConfig:
        """The configuration of a run with an entry's ``settings``; ConfigError where they are wrong.

        The base is passed as defaults, so that a recipe that an entry names lies above the base: it is part of
        what the entry changes, and the rules look at all of that.
        """
        decided = {"seed": seed, "prune.target_compression": rate, "task": self.task.name}
        return load_config(
            {**settings, **decided},
            defaults=self.base,
            trainer_keys=self.trainer_keys,
            required=("model", "data"),
            task=self.task.name,
            unsupported=self.unsupported,
            scopes=self.task.scope_settings,
        )

    def with_entries(self, entries: tuple[Entry, ...], shared_dense: bool) -> Study:
        """The same study with its entries."""
        return replace(self, entries=entries, shared_dense=shared_dense)

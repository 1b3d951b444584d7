"""What differs between the command lines: one :class:`Task` for each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from slr_det.errors import ConfigError, nearest

#: Verbs that every command line has, in the order in which help lists them.
SHARED_VERBS = ("compress", "train", "analyze", "retrain", "eval", "report", "export", "bench")


@dataclass(frozen=True)
class ExtraVerb:
    """A verb of one task alone.

    Attributes:
        name: The word on the command line.
        help: One line of help.
        add_arguments: Declares the verb's options.
        run: Does what the verb says and returns the exit code.
    """

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


@dataclass(frozen=True)
class Scope:
    """A choice of what is pruned that has a name, for a task where it decides what a compression rate means.

    Attributes:
        says: What is pruned and what the rate counts, in a few words.
        settings: The settings of ``prune`` that it stands for.
    """

    says: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """One command line: what it compresses, in which trainer, and by which numbers it is judged.

    Attributes:
        name: ``task`` in a configuration, e.g. ``yolo``.
        module: How the command line is started, e.g. ``python -m slr_det.yolo``.
        adapter: Entry-point name of the trainer's adapter.
        report_task: ``task`` in a report: ``detect``, ``lane``, ``pointcloud`` or ``classify``.
        metric: The headline: the name of a metric that the adapter's evaluation gives, higher is better.
        shown: Metrics of the progress lines, the headline first.
        metric_aliases: What users may call a metric in ``--min``, in lower case.
        head: What the layer that writes the result is called, where it stays dense.
        preset: Settings of a run without arguments, in the form of a configuration file's content.
        recipe: The recipe of a run that names none.
        description: First line of the help text.
        settings: Help text that lists the settings.
        epilog: Help text with examples.
        evaluates: What ``eval`` measures, for its help line.
        minimum: An example of a minimum, as in ``--min map50=0.35``.
        memory: What to lower when memory runs out.
        extra: Verbs that only this task has.
        lower_is_better: Metrics that have no minimum: errors, where fewer is better.
        backends: Adapters that a user may choose between with ``backend=``, by the names used there; the first is
            ``adapter``. Empty where there is only one.
        scopes: What ``prune.scope`` may be, the usual one first. Empty where there is nothing to choose.
        ranks: The adapters that train on the ranks that torchrun starts.
        parts: Parts of the model whose compression a report states one by one: globs of parameters by the part's name.
    """

    name: str
    module: str
    adapter: str
    report_task: str
    metric: str
    shown: tuple[str, ...]
    metric_aliases: Mapping[str, str]
    head: str
    preset: Mapping[str, Any]
    recipe: str
    description: str
    settings: str
    epilog: str
    evaluates: str
    minimum: str
    memory: str
    extra: tuple[ExtraVerb, ...] = field(default=())
    backends: Mapping[str, str] = field(default_factory=dict)
    lower_is_better: tuple[str, ...] = ()
    scopes: Mapping[str, Scope] = field(default_factory=dict)
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ranks: tuple[str, ...] = ()

    @property
    def verbs(self) -> tuple[str, ...]:
        """Every verb of the command line."""
        return (*SHARED_VERBS, *(verb.name for verb in self.extra))

    @property
    def scope_settings(self) -> dict[str, Mapping[str, Any]]:
        """The settings behind each scope, by its name."""
        return {name: scope.settings for name, scope in self.scopes.items()}

    def adapter_of(self, backend: str) -> str:
        """The adapter behind a ``backend=``, empty for the usual one; ConfigError for a name that is none."""
        if not backend:
            return self.adapter
        if backend not in self.backends:
            known = (
                f"expected one of {', '.join(self.backends)}"
                if self.backends
                else "and this task has one only"
            )
            raise ConfigError(f"backend is '{backend}'{nearest(backend, self.backends)}, {known}")
        return self.backends[backend]

    def scores(self, metrics: Mapping[str, Any]) -> str:
        """The shown metrics on one line, such as ``AP50 0.844, AP 0.512``."""
        found = [(name, metrics.get(name)) for name in self.shown]
        return ", ".join(f"{name} {value:.3f}" for name, value in found if isinstance(value, int | float))

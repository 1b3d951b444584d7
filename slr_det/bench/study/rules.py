"""What makes a comparison fair: which settings may differ between entries, and what each entry has switched on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from slr_det.bench.study.model import Entry
from slr_det.config import PruneConfig, RunConfig
from slr_det.methods import Hyper

#: What an entry may change; besides these everything in ``slr``.
FREE = frozenset(
    {
        *("method", "recipe", "epochs", "retrain_epochs", "iterations_per_epoch", "one_schedule"),
        *("distill", "distill_temperature"),
        *("prune.allocation", "prune.ratios", "prune.sensitivity", "prune.scan_ratios"),
    }
)
#: What does not change a result.
IGNORED = frozenset({"name", "project", "device", "min", "paper"})
_SECTIONS = ("prune", "slr", "train", "dense", "retrain")


def settings_of(config: RunConfig) -> dict[str, Any]:
    """A configuration by dotted key, without what does not change a result."""
    found: dict[str, Any] = {}
    for key, value in config.to_dict().items():
        if key in _SECTIONS:
            found |= {f"{key}.{inner}": item for inner, item in value.items()}
        elif key not in IGNORED:
            found[key] = value
    return found


def differences(one: RunConfig, other: RunConfig) -> list[tuple[str, Any, Any]]:
    """Dotted keys in which two configurations differ, with both values; None for a value that is not given."""
    first, second = settings_of(one), settings_of(other)
    return [
        (key, first.get(key), second.get(key))
        for key in dict.fromkeys([*first, *second])
        if first.get(key) != second.get(key)
    ]


def unequal_keys(common: RunConfig, config: RunConfig) -> tuple[str, ...]:
    """Arguments of the trainer in which an entry differs from the base."""
    return tuple(key for key, _, _ in differences(common, config) if key.startswith(("train.", "retrain.")))


def budget(config: RunConfig) -> int:
    """Epochs that a run trains for after the dense model: retraining counts."""
    return config.epochs + config.retrain_epochs


def check_rules(
    file: str, common: RunConfig, entries: Sequence[Entry], unequal: Collection[str]
) -> list[str]:
    """Every way in which the entries are not comparable; ``common`` is the base's own configuration."""
    problems = []
    for entry in entries:
        where = f"{file}: entries.{entry.label}"
        for key, base, own in differences(common, entry.config):
            if key in FREE or key.startswith("slr.") or key in entry.unequal:
                continue
            if key.startswith(("train.", "retrain.")):
                advice = (
                    f"set it in 'base', or list '{entry.label}' under 'unequal', and the table will say so"
                )
            elif key.startswith("dense"):
                advice = "dense training may not differ: all entries start from the same weights"
            else:
                advice = "entries may not differ in it; set it in 'base'"
            problems.append(f"{where}: {key} is {own!r}, but {base!r} in 'base'; {advice}")
        if entry.label in unequal and not entry.unequal:
            problems.append(
                f"{file}: unequal names '{entry.label}', whose trainer's arguments are those of 'base'; leave it out"
            )
    for entry in entries[1:]:
        if budget(entry.config) != budget(entries[0].config):
            problems.append(
                f"{file}: entries '{entries[0].label}' and '{entry.label}' have different budgets, "
                f"{_budget(entries[0].config)} and {_budget(entry.config)} epochs; epochs + retrain_epochs must be "
                "equal for all entries, since retraining counts"
            )
            break
    return problems


def levers(entry: Entry, *, hyper: bool = True) -> list[str]:
    """What an entry has switched on, in words: the split of its budget first, then all that is not the default.

    Args:
        entry: The entry.
        hyper: Also name hyperparameters of the method.
    """
    config, plain = entry.config, RunConfig()
    words = [f"{config.epochs}+{config.retrain_epochs} epochs"]
    if config.prune.allocation != PruneConfig().allocation:
        words.append(f"{config.prune.allocation} allocation")
    if config.distill:
        warm = config.distill_temperature != plain.distill_temperature
        at = f" at T {config.distill_temperature:g}" if warm else ""
        words.append(f"distillation {config.distill:g}{at}")
    if config.iterations_per_epoch != plain.iterations_per_epoch:
        words.append(f"{config.iterations_per_epoch} iterations/epoch")
    if config.one_schedule:
        words.append("one schedule")
    if hyper:
        default = Hyper().to_dict()
        words += [
            f"{key} {value:g}" if isinstance(value, float | int) else f"{key} {value}"
            for key, value in config.slr.to_dict().items()
            if value != default[key]
        ]
    return words + [f"{key} differs*" for key in entry.unequal]


def _budget(config: RunConfig) -> str:
    return f"{config.epochs} + {config.retrain_epochs} = {budget(config)}"

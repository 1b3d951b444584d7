"""What the finished cells of a sweep found, together: medians and ranges over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slr_det.report import load_report
from slr_det.report.facts import collect_versions
from slr_det.sweep.cells import FINISHED, State
from slr_det.sweep.grid import Cell, Grid

SCHEMA = "slr_det.sweep/1"
STAGES = ("dense", "hard_prune", "bn_recalibrated", "final")


@dataclass(frozen=True)
class Spread:
    """Several seeds' numbers: with a handful of them the range says more than a deviation.

    Attributes:
        n: How many there are.
        median: Their median; None without any.
        low: The smallest.
        high: The largest.
    """

    n: int
    median: float | None
    low: float | None
    high: float | None


def spread_of(values: Iterable[float | None]) -> Spread:
    """Median and range of the numbers among the values."""
    known = [value for value in values if value is not None]
    if not known:
        return Spread(0, None, None, None)
    return Spread(len(known), statistics.median(known), min(known), max(known))


@dataclass(frozen=True)
class Found:
    """What one finished cell found.

    Attributes:
        cell: The cell.
        scores: The task's metrics by stage; a stage that did not run is absent.
        reached: Compression rate over what the sweep's rate counts.
        sizes: Bytes of its files, by name.
        seconds: Of all its training and recalibration.
        warnings: Of its report.
        commit: The code that it was run with, where that is known.
    """

    cell: Cell
    scores: Mapping[str, Mapping[str, float | None]]
    reached: float | None
    sizes: Mapping[str, int]
    seconds: float
    warnings: tuple[str, ...]
    commit: str | None

    def score(self, stage: str, metric: str) -> float | None:
        """A metric after a stage; None where it was not measured."""
        return self.scores.get(stage, {}).get(metric)


def read_cell(cell: Cell, metrics: Sequence[str]) -> Found:
    """What a finished cell's report says; DataError where it is none."""
    report = load_report(cell.folder)
    phases = report["phases"]
    named = {stage: phases[stage] for stage in STAGES[:-1] if stage in phases}
    named["final"] = phases[report["final_phase"]]
    return Found(
        cell=cell,
        scores={
            stage: {name: phase["metrics"].get(name) for name in metrics if name in phase["metrics"]}
            for stage, phase in named.items()
        },
        reached=report["compression"][cell.config.prune.compression_over]["rate"],
        sizes={name: size for name, size in report["bytes"].items() if size is not None},
        seconds=sum(phase.get("seconds") or 0.0 for phase in phases.values()),
        warnings=tuple(report["warnings"]),
        commit=report["commit"],
    )


@dataclass(frozen=True)
class Row:
    """A method at a rate, over its finished seeds.

    Attributes:
        method: The method.
        rate: The rate.
        n: Finished cells.
        scores: The headline by stage.
        reached: Compression rates.
        packed: Bytes of the packed checkpoint.
        seconds: Training times.
    """

    method: str
    rate: float
    n: int
    scores: Mapping[str, Spread]
    reached: Spread
    packed: Spread
    seconds: Spread


@dataclass(frozen=True)
class Findings:
    """Everything that has finished.

    Attributes:
        grid: The sweep.
        states: Every cell with its state.
        found: Results of the finished ones.
    """

    grid: Grid
    states: tuple[tuple[Cell, State], ...]
    found: tuple[Found, ...]

    def row(self, method: str, rate: float) -> Row:
        """A row of the table."""
        some = [f for f in self.found if f.cell.method == method and f.cell.rate == rate]
        metric = self.grid.task.metric
        return Row(
            method,
            rate,
            len(some),
            {stage: spread_of(f.score(stage, metric) for f in some) for stage in STAGES},
            spread_of(f.reached for f in some),
            spread_of(f.sizes.get("packed") for f in some),
            spread_of(f.seconds for f in some),
        )

    def rows(self) -> list[Row]:
        """The table: by rate, then by method; without those of which nothing has finished."""
        found = [self.row(method, rate) for rate in self.grid.rates for method in self.grid.methods]
        return [row for row in found if row.n]

    def dense(self) -> Spread:
        """The dense models, one for each seed: methods and rates train theirs alike."""
        by_seed = {f.cell.seed: f.score("dense", self.grid.task.metric) for f in self.found}
        return spread_of(by_seed.values())

    def count(self, name: str) -> int:
        """How many cells are in a state."""
        return sum(state.name == name for _, state in self.states)

    def notes(self) -> list[str]:
        """What a reader of the table has to know besides its numbers."""
        notes = [
            f"{cell.title}: {state}"
            for cell, state in self.states
            if state.name not in (FINISHED, "waiting", "started")
        ]
        for found in self.found:
            if found.reached is not None and abs(found.reached / found.cell.rate - 1) > 0.01:
                notes.append(f"{found.cell.title} ended at {found.reached:.2f}x")
            notes += [f"{found.cell.title}: {warning}" for warning in found.warnings]
        commits = sorted({found.commit[:12] for found in self.found if found.commit})
        if len(commits) > 1:
            notes.append(f"cells were run with different versions of the code: {', '.join(commits)}")
        return notes


def gather(grid: Grid, states: Sequence[tuple[Cell, State]]) -> Findings:
    """Read what has finished."""
    metrics = tuple(dict.fromkeys((grid.task.metric, *grid.task.shown)))
    found = [read_cell(cell, metrics) for cell, state in states if state.name == FINISHED]
    return Findings(grid, tuple(states), tuple(found))


def document(findings: Findings, command: str) -> dict[str, Any]:
    """Everything as plain JSON values."""
    grid = findings.grid
    by_folder = {found.cell.folder: found for found in findings.found}
    return {
        "schema": SCHEMA,
        "name": grid.name,
        "task": grid.task.name,
        "metric": grid.task.metric,
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": collect_versions(),
        "methods": list(grid.methods),
        "rates": list(grid.rates),
        "seeds": list(grid.seeds),
        "dense": asdict(findings.dense()),
        "table": [asdict(row) for row in findings.rows()],
        "cells": [
            {
                "method": cell.method,
                "rate": cell.rate,
                "seed": cell.seed,
                "folder": _inside(cell.folder, grid.folder),
                "state": state.name,
                "detail": state.detail,
                **_numbers(by_folder.get(cell.folder)),
            }
            for cell, state in findings.states
        ],
        "notes": findings.notes(),
    }


def _numbers(found: Found | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "scores": {stage: dict(scores) for stage, scores in found.scores.items()},
        "reached": found.reached,
        "bytes": dict(found.sizes),
        "seconds": found.seconds,
        "warnings": list(found.warnings),
        "commit": found.commit,
    }


def _inside(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()

"""What the finished cells of a study say together: rows, verdicts, notes, and the document that holds it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slr_det.bench.study.cells import Cell, state
from slr_det.bench.study.model import Entry, Study
from slr_det.bench.study.results import STAGES, TRAINERS_OWN, Result, epochs_to, read_result, score_of
from slr_det.bench.study.rules import levers, settings_of
from slr_det.bench.study.statistics import Summary, Verdict, judge, summarise
from slr_det.errors import SlrDetError
from slr_det.report.facts import collect_versions

SCHEMA = "slr_det.study/1"
_RATE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Line:
    """One row of a table: an entry at a rate, over its seeds.

    Attributes:
        entry: The entry.
        rate: Compression rate.
        scores: Summary of the metric by stage.
        epochs: Mean over the seeds that reached the target of the first epoch that did; None where none did.
        reached: How many seeds reached the target; None where its metric was not measured during the runs.
        seconds: Mean time.
        n: Finished cells.
    """

    entry: Entry
    rate: float
    scores: Mapping[str, Summary]
    epochs: float | None
    reached: int | None
    seconds: float | None
    n: int


@dataclass(frozen=True)
class Findings:
    """Everything that the finished cells of a study say.

    Attributes:
        study: The study.
        states: State of every cell, see :func:`slr_det.bench.study.cells.state`.
        results: Of the finished cells.
    """

    study: Study
    states: tuple[tuple[Cell, str], ...]
    results: tuple[Result, ...]

    def of(self, label: str, rate: float) -> list[Result]:
        """The results of an entry at a rate, by seed."""
        found = [r for r in self.results if r.cell.label == label and r.cell.rate == rate]
        return sorted(found, key=lambda result: result.cell.seed)

    def line(self, entry: Entry, rate: float) -> Line:
        """The row of an entry at a rate."""
        results = self.of(entry.label, rate)
        found = [epochs_to(result.curve, self.study.target) for result in results]
        reached = [epoch for epoch in found if epoch is not None]
        name = self.study.target[0] if self.study.target else ""
        measured = any(score_of(point, name) is not None for result in results for point in result.curve)
        return Line(
            entry=entry,
            rate=rate,
            scores={
                stage: summarise([v for r in results if (v := r.scores[stage]) is not None])
                for stage in STAGES
            },
            epochs=summarise(reached).mean,
            reached=len(reached) if measured else None,
            seconds=summarise([result.seconds for result in results]).mean,
            n=len(results),
        )

    def lines(self, rate: float) -> list[Line]:
        """The rows of a rate, in the order of the entries; entries without a finished cell are left out."""
        return [line for entry in self.study.entries if (line := self.line(entry, rate)).n]

    def dense(self) -> Summary:
        """The score of the dense models that the finished cells started from; a shared one counts once."""
        scores = {r.cell.start.folder: r.scores["dense"] for r in self.results if r.cell.start is not None}
        return summarise([score for score in scores.values() if score is not None])

    def epoch_metric(self) -> str | None:
        """The metric of the scores during the runs: the headline, the trainer's form of it, or the first there is."""
        names = list(dict.fromkeys(name for r in self.results for point in r.curve for name in point.metric))
        wanted = (self.study.task.metric, TRAINERS_OWN.get(self.study.task.metric))
        return next((name for name in wanted if name in names), next(iter(names), None))

    def epoch_target(self) -> float | None:
        """The target, where it is one of the metric that the epochs are scored by."""
        if self.study.target is None:
            return None
        name, value = self.study.target
        return value if self.epoch_metric() in (name, TRAINERS_OWN.get(name)) else None

    def verdict(self, rate: float, baselines: Sequence[str] | None = None) -> Verdict | None:
        """The first entry against the best of the baselines; None where the study names none."""
        chosen = self.study.baselines if baselines is None else baselines
        if not chosen:
            return None
        first = self.study.entries[0].label
        return judge(rate, (first, self._final(first, rate)), {b: self._final(b, rate) for b in chosen})

    def _final(self, label: str, rate: float) -> dict[int, float]:
        scores = {r.cell.seed: r.scores["final"] for r in self.of(label, rate)}
        return {seed: score for seed, score in scores.items() if score is not None}

    def notes(self) -> list[str]:
        """What a reader of the table has to know besides its numbers."""
        notes = []
        for entry in self.study.entries:
            if entry.unequal:
                notes.append(
                    f"* {entry.label} was trained with other arguments than the rest: {_unequal(entry)}"
                )
        for result in self.results:
            wanted, found = result.cell.rate or 0.0, result.reached
            if found is None or abs(found / wanted - 1) > _RATE_TOLERANCE:
                notes.append(f"{result.cell.title} has a compression of {found}, not {wanted:g}")
        for result in self.results:
            others = [r for r in self.results if r.cell.label == result.cell.label]
            gaps = {p.epoch for r in others for p in r.curve} - {p.epoch for p in result.curve}
            if gaps:
                notes.append(
                    f"{result.cell.title} was stopped before epoch {min(gaps)} was scored, and went on without: its "
                    "epochs to the target may be too many"
                )
        warned = list(dict.fromkeys(r.cell.label for r in self.results if r.warnings))
        if warned:
            notes.append(
                f"runs of {', '.join(warned)} carry warnings; results.json and their report.md have them"
            )
        commits = {result.commit for result in self.results if result.commit}
        if len(commits) > 1:
            notes.append(
                f"cells were run at {len(commits)} different commits of the code; results.json has them"
            )
        missing = [cell for cell, found in self.states if found != "finished"]
        if missing:
            notes.append(f"{len(missing)} of {len(self.states)} cells are not finished")
        return notes


def _unequal(entry: Entry) -> str:
    settings = settings_of(entry.config)
    return ", ".join(f"{key}={settings.get(key)}" for key in entry.unequal)


def gather(study: Study, cells: Sequence[Cell]) -> Findings:
    """Read every finished cell; a report that cannot be read counts as not finished."""
    states, results = [], []
    for cell in cells:
        found = state(cell)
        if found == "finished":
            try:
                results.append(read_result(cell, study.task.metric))
            except SlrDetError as error:
                found = f"failed: {error}"
        states.append((cell, found))
    return Findings(study, tuple(states), tuple(results))


def document(findings: Findings, command: str) -> dict[str, Any]:
    """Everything as JSON types."""
    study = findings.study
    return {
        "schema": SCHEMA,
        "name": study.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "task": study.task.name,
        "metric": study.task.metric,
        "versions": collect_versions(),
        "seeds": list(study.seeds),
        "rates": list(study.rates),
        "target": None if study.target is None else dict([study.target]),
        "epoch_metric": findings.epoch_metric(),
        "epoch_target": findings.epoch_target(),
        "dense": "shared" if study.shared_dense else "per_seed",
        "base": dict(study.base),
        "entries": [
            {
                "label": entry.label,
                "method": entry.config.method[0],
                "epochs": entry.config.epochs,
                "retrain_epochs": entry.config.retrain_epochs,
                "settings": dict(entry.settings),
                "hyper": entry.config.slr.to_dict(),
                "levers": levers(entry),
                "unequal": list(entry.unequal),
                "swept": None if entry.swept is None else dict([entry.swept]),
            }
            for entry in study.entries
        ],
        "baselines": list(study.baselines),
        "sweep_of": study.sweep_of,
        "dense_score": asdict(findings.dense()),
        "table": [_line(line) for rate in study.rates for line in findings.lines(rate)],
        "verdicts": [v.to_dict() for rate in study.rates if (v := findings.verdict(rate)) is not None],
        "cells": [_result(result, study) for result in findings.results],
        "unfinished": [
            {"label": cell.label, "rate": cell.rate, "seed": cell.seed, "state": found}
            for cell, found in findings.states
            if found != "finished"
        ],
        "notes": findings.notes(),
    }


def _line(line: Line) -> dict[str, Any]:
    return {
        "label": line.entry.label,
        "rate": line.rate,
        "n": line.n,
        "scores": {stage: asdict(summary) for stage, summary in line.scores.items()},
        "epochs_to_target": line.epochs,
        "seeds_that_reached_it": line.reached,
        "seconds": line.seconds,
    }


def _result(result: Result, study: Study) -> dict[str, Any]:
    cell = result.cell
    return {
        "label": cell.label,
        "rate": cell.rate,
        "seed": cell.seed,
        "folder": str(Path(cell.folder).relative_to(study.folder)),
        "scores": dict(result.scores),
        "reached": result.reached,
        "epochs_to_target": epochs_to(result.curve, study.target),
        "seconds": result.seconds,
        "curve": [asdict(point) for point in result.curve],
        "warnings": list(result.warnings),
        "commit": result.commit,
    }

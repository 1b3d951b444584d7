"""A study's tables: for a terminal and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from slr_det.bench.study.findings import Findings, Line
from slr_det.bench.study.model import Study
from slr_det.bench.study.results import STAGES
from slr_det.bench.study.rules import levers
from slr_det.bench.study.statistics import Summary, Verdict
from slr_det.report.markdown import table
from slr_det.report.table import duration, metric_label

_TITLES = {"hard_prune": "hard-pruned", "bn_recalibrated": "BN recalibrated", "final": "final"}
_LEVERS_WIDTH = 30
_READING = (
    "Scores are {metric} in points (hundredths): mean ± sample standard deviation over (n) seeds. *Hard-pruned* is the "
    "model right after its small weights were set to zero; *BN recalibrated* adds forward passes that refresh the "
    "batch-norm statistics; *final* is the model at the end of the whole budget. A verdict is the mean of the "
    "differences seed by seed, ± its standard error."
)


def points(summary: Summary, *, count: bool = False) -> str:
    """A score as ``96.20 ± 0.31 (5)``; ``-`` where there is none."""
    if summary.mean is None:
        return "-"
    spread = "" if summary.deviation is None else f" ± {100 * summary.deviation:.2f}"
    return f"{100 * summary.mean:.2f}{spread}" + (f" ({summary.n})" if count else "")


def rows(lines: Sequence[Line], target: tuple[str, float] | None) -> list[list[str]]:
    """Titles and one row per entry; columns in which no entry has anything are left out."""
    stages = [stage for stage in STAGES if any(line.scores[stage].mean is not None for line in lines)]
    titles = ["entry", "levers", *(_TITLES[stage] for stage in stages)]
    if target is not None:
        titles.append(f"epochs to {target[0]} {target[1]:g}")
    found = [[*titles, "time"]]
    for line in lines:
        row = [line.entry.label + ("*" if line.entry.unequal else ""), ", ".join(levers(line.entry))]
        row += [points(line.scores[stage], count=stage == "final") for stage in stages]
        if target is not None:
            mean = "-" if line.epochs is None else f"{line.epochs:.1f}"
            row.append("-" if line.reached is None else f"{mean} ({line.reached}/{line.n})")
        found.append([*row, duration(line.seconds)])
    return found


def text(findings: Findings) -> str:
    """Every rate's table, its verdict, and what a reader has to know, for a terminal."""
    blocks = _blocks(findings, lambda cells: "\n".join(_aligned(cells)), "{}")
    return "\n\n".join([*blocks, *(f"note: {note}" for note in findings.notes())])


def markdown(findings: Findings, command: str, plots: dict[str, str]) -> str:
    """``results.md``."""
    study = findings.study
    blocks = [f"# {study.name}", f"    {command}"]
    blocks += _blocks(findings, lambda cells: table(cells, text_columns=2), "## {}")
    blocks += [
        _READING.format(metric=metric_label(study.task.metric)),
        *(f"- {note}" for note in findings.notes()),
    ]
    return "\n\n".join([*blocks, *(f"![{title}]({path})" for title, path in plots.items())]) + "\n"


def only_one_has(study: Study, verdict: Verdict) -> str:
    """What one side of a verdict has switched on and the other has not; hyperparameters and the split left out.

    Two entries that differ in more than the method are compared as wholes, and the verdict has to say so.
    """
    entries = {entry.label: entry for entry in study.entries}
    if verdict.baseline not in entries:
        return ""
    sides = [verdict.entry, verdict.baseline]
    own = {label: levers(entries[label], hyper=False)[1:] for label in sides}
    texts = [
        f"{label} alone has {', '.join(extra)}"
        for label, other in (sides, sides[::-1])
        if (extra := [lever for lever in own[label] if lever not in own[other]])
    ]
    return f"; {'; '.join(texts)}" if texts else ""


def _blocks(findings: Findings, draw: Callable[[list[list[str]]], str], heading: str) -> list[str]:
    blocks = []
    for rate in findings.study.rates:
        lines = findings.lines(rate)
        if not lines:
            continue
        title = f"compression {rate:g}x (dense {points(findings.dense(), count=True)})"
        blocks += [heading.format(title), draw(rows(lines, findings.study.target))]
        verdict = findings.verdict(rate)
        if verdict is not None:
            blocks.append(verdict.text() + only_one_has(findings.study, verdict))
    return blocks or ["no cell is finished yet"]


def _aligned(found: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines; the levers are wrapped, all of them, since a comparison without them would mislead."""
    cells = [[_wrapped(cell) if c == 1 else [cell] for c, cell in enumerate(row)] for row in found]
    widths = [max(len(part) for row in cells for part in row[c]) for c in range(len(found[0]))]
    lines = []
    for row in cells:
        for part in range(max(map(len, row))):
            pieces = [column[part] if part < len(column) else "" for column in row]
            padded = [
                piece.ljust(width) if c < 2 else piece.rjust(width)
                for c, (piece, width) in enumerate(zip(pieces, widths, strict=True))
            ]
            lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def _wrapped(text: str) -> list[str]:
    """Broken behind commas only, so that a hyperparameter keeps its value beside it."""
    glued = text.replace(" ", "\0").replace(",\0", ", ")
    return [line.replace("\0", " ") for line in textwrap.wrap(glued, _LEVERS_WIDTH, break_long_words=False)]

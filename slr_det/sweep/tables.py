"""The table of a sweep, for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slr_det.gate.quantities import BYTES, shown
from slr_det.report.summary import aligned
from slr_det.report.table import duration, metric_label
from slr_det.sweep.cells import FAILED, FINISHED
from slr_det.sweep.results import Findings, Row, Spread

_SHOWN = 8  # notes that a terminal gets; the file has all


def text(findings: Findings) -> str:
    """For a terminal: the state of the grid, the table, the first notes."""
    lines = [_headline(findings)]
    rows = _rows(findings)
    if len(rows) > 1:
        lines += ["", *aligned(rows, text_columns=2)]
    notes = findings.notes()
    lines += [f"note: {note}" for note in notes[:_SHOWN]]
    if len(notes) > _SHOWN:
        lines.append(f"and {len(notes) - _SHOWN} more in results.md")
    return "\n".join(lines)


def markdown(findings: Findings, command: str, plots: Mapping[str, str]) -> str:
    """The same as a page, with the pictures, and with a line for each cell."""
    grid = findings.grid
    lines = [f"# {grid.name}", "", f"    {command}", "", _headline(findings), ""]
    lines.append(
        f"Scores are {metric_label(grid.task.metric)}; numbers are the median over the seeds, beside them their range."
    )
    rows = _rows(findings)
    if len(rows) > 1:
        lines += ["", *_table(rows)]
    for name, file in plots.items():
        lines += ["", f"![{name}]({file})"]
    notes = findings.notes()
    if notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in notes)]
    cells = [["method", "rate", "seed", "state", "report"]]
    for cell, state in findings.states:
        folder = cell.folder.relative_to(grid.folder).as_posix()
        link = f"[report]({folder}/report.md)" if state.name == FINISHED else ""
        cells.append([cell.method, f"{cell.rate:g}x", str(cell.seed), str(state).replace("|", "\\|"), link])
    lines += ["", "## Cells", "", *_table(cells)]
    return "\n".join(lines) + "\n"


def _headline(findings: Findings) -> str:
    done, failed, all_of_them = findings.count(FINISHED), findings.count(FAILED), len(findings.states)
    said = f"{findings.grid.name}: {done} of {all_of_them} cells are finished"
    if failed:
        said = f"{said}, {failed} failed"
    dense = findings.dense()
    if dense.median is None:
        return said
    return f"{said}; {metric_label(findings.grid.task.metric)} of the dense models: {_score(dense)}"


def _rows(findings: Findings) -> list[list[str]]:
    titles = [
        *("method", "rate", "seeds", "hard-pruned", "range", "final", "range", "reached", "packed", "time")
    ]
    return [titles, *(_cells(row, len(findings.grid.seeds)) for row in findings.rows())]


def _cells(row: Row, seeds: int) -> list[str]:
    hard, final = row.scores["hard_prune"], row.scores["final"]
    return [
        row.method,
        f"{row.rate:g}x",
        f"{row.n}/{seeds}",
        _number(hard.median),
        _range(hard),
        _number(final.median),
        _range(final),
        "" if row.reached.median is None else f"{row.reached.median:.2f}x",
        "" if row.packed.median is None else shown(row.packed.median, BYTES),
        duration(row.seconds.median),
    ]


def _score(spread: Spread) -> str:
    return f"{_number(spread.median)} ({_range(spread)})" if spread.n > 1 else _number(spread.median)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _range(spread: Spread) -> str:
    return f"{_number(spread.low)}-{_number(spread.high)}" if spread.n > 1 else ""


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    used = [c for c in range(len(rows[0])) if any(row[c] for row in rows[1:])]
    lines = ["| " + " | ".join(row[c] for c in used) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(used), *lines[1:]]

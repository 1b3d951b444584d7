"""The report as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from slr_det.report.published import beside_published
from slr_det.report.table import Report, files_line, headline, metric_names, parts_pruned, phase_table, rate

WIDTH = 110
"""Columns of a terminal that the summary never exceeds."""

_CELL_WIDTH = 18


def summary_table(report: Report) -> str:
    """The report for a terminal: a headline, the table of methods and phases, the paper's numbers, warnings.

    Returns:
        Lines of at most 110 columns, without a newline at the end.
    """
    compression = report["compression"]
    lines = textwrap.wrap(
        f"{report['name']}: {report['method']}, compressed {rate(compression['model']['rate'])} over the whole "
        f"model ({rate(compression['groups']['rate'])} over the pruned groups)",
        WIDTH,
    )
    told = parts_pruned(compression)
    if told is not None:
        lines += textwrap.wrap(told, WIDTH)
    names = metric_names(report) or [headline(report)]
    table = aligned(phase_table(report, names), text_columns=2)
    while len(names) > 1 and max(map(len, table)) > WIDTH:
        names = names[:-1]
        table = aligned(phase_table(report, names), text_columns=2)
    lines += ["", *(line[:WIDTH] for line in table)]
    beside = beside_published(report)
    if beside is not None:
        what, rows = beside
        table = aligned(rows, text_columns=2)
        while len(rows[0]) > 4 and max(map(len, table)) > WIDTH:  # the last metric's two columns
            rows = [row[:-2] for row in rows]
            table = aligned(rows, text_columns=2)
        title = f"beside the published numbers{f', {what}' if what else ''}:"
        lines += ["", *textwrap.wrap(title, WIDTH), *(line[:WIDTH] for line in table)]
    sizes = files_line(report["bytes"])
    if sizes is not None:
        lines += ["", *textwrap.wrap(sizes, WIDTH)]
    if report["warnings"]:
        lines.append("")
        for warning in report["warnings"]:
            lines += textwrap.wrap(f"warning: {warning}", WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]], text_columns: int) -> list[str]:
    """Rows (titles first) as lines: the first ``text_columns`` flush left, numbers flush right.

    A column that is empty in every row below the titles is left out.
    """
    used = [c for c in range(len(rows[0])) if any(row[c] for row in rows[1:])]
    cells = [[_shorten(row[c]) for c in used] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(used))]
    lines = []
    for row in cells:
        parts = [
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, cell, width in zip(used, row, widths, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _shorten(text: str) -> str:
    return text if len(text) <= _CELL_WIDTH else f"{text[: _CELL_WIDTH - 3]}..."

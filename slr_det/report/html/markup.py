"""Small pieces of HTML: escaped text, tables that a reader can sort, data for the script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

# Control characters, and marks that would turn the text behind them around.
_UNSEEN = dict.fromkeys(
    (*range(9), *range(11, 32), *range(127, 160), *range(8234, 8239), *range(8294, 8298)), "�"
)


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What is shown; escaped here and nowhere else.
        value: What it is sorted by: a number, or None where there is none (it stays at the end) or the text counts.
        share: A bar in the cell, filled to this share (0 to 1); None for a cell without a bar.
        title: More about it, shown by the browser on hovering.
        key: The series that the cell names, by its number: a coloured mark in front, or the bar's colour.
    """

    text: str
    value: float | None = None
    share: float | None = None
    title: str = ""
    key: int | None = None


@dataclass(frozen=True)
class Column:
    """Title of a column; numbers stand flush right."""

    title: str
    number: bool = True
    note: str = ""


def text(value: Any) -> str:
    """``value`` as escaped text, safe between tags and in quoted attributes."""
    return escape(str(value).translate(_UNSEEN), quote=True)


def mark(key: int) -> str:
    """The coloured mark of a series."""
    return f'<span class="mark {look(key)}" aria-hidden="true"></span>'


def look(key: int) -> str:
    """Classes that give a series its colour and dashes; after ten series the colours come again, dashed."""
    return f"c{key % 10} d{key // 10 % 4}"


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], caption: str, *, heads: int = 1) -> str:
    """A table whose titles sort it; columns that are empty in every row are left out.

    Args:
        columns: One for each cell of a row.
        rows: Rows of cells.
        caption: What the table shows, for readers who cannot see it.
        heads: The first cells of a row that say what the row is about.
    """
    body = [list(row) for row in rows]
    used = [c for c in range(len(columns)) if c < heads or any(row[c].text for row in body)]
    titles = "".join(_title(columns[c]) for c in used)
    lines = [
        f"<tr>{''.join(_cell(row[c], columns[c], head=c < heads, first=c == 0) for c in used)}</tr>"
        for row in body
    ]
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f'<caption class="unseen">{text(caption)}</caption><thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def data(content: Any) -> str:
    """JSON for the script of the page; no text in it can end the element that holds it."""
    dumped = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028")):
        dumped = dumped.replace(sign, code)
    return f'<script type="application/json">{dumped}</script>'


def details(summary: str, content: str) -> str:
    """A part that opens on demand, and by itself on paper."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def _title(column: Column) -> str:
    kind = ' class="number"' if column.number else ""
    note = f' title="{text(column.note)}"' if column.note else ""
    return (
        f'<th scope="col"{kind}{note} aria-sort="none"><button type="button" class="sort">{text(column.title)}'
        '<span class="arrow" aria-hidden="true"></span></button></th>'
    )


def _cell(cell: Cell, column: Column, *, head: bool, first: bool) -> str:
    kind = ' class="number"' if column.number else ""
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    title = f' title="{text(cell.title)}"' if cell.title else ""
    inside = text(cell.text)
    if cell.share is not None:
        width = f"{100 * min(max(cell.share, 0.0), 1.0):.2f}"
        hue = "" if cell.key is None else f" {look(cell.key)}"
        bar = f'<span class="bar{hue}" aria-hidden="true"><i style="width:{width}%"></i></span>'
        inside = f'{bar}<span class="share">{inside}</span>'
    elif cell.key is not None:
        inside = mark(cell.key) + inside
    if head and first:
        return f'<th scope="row"{kind}{value}{title}>{inside}</th>'
    return f"<td{kind}{value}{title}>{inside}</td>"

"""The page: its frame, and a section for each task that the runs are of."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from slr_det import __version__
from slr_det.report.html import curves, tables
from slr_det.report.html.gather import Run, Series
from slr_det.report.html.images import figure
from slr_det.report.html.markup import details, mark, text
from slr_det.report.table import metric_label

_TASKS = {
    "detect": "Detection",
    "classify": "Classification",
    "pointcloud": "Point clouds",
    "lane": "Lanes",
}
_HERE = Path(__file__).parent
_DIALOG = (
    '<dialog aria-label="Picture"><form method="dialog"><button>Close</button></form>'
    '<img src="data:," alt=""/></dialog>'
)
# Nothing is loaded from anywhere, whatever a name or a caption holds.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(runs: Sequence[Run], *, title: str = "", pictures: bool = True) -> str:
    """The whole page as one HTML document that loads nothing.

    Args:
        runs: At least one run, with labels of their own (:func:`slr_det.report.html.read_runs` sees to that).
        title: The page's title; by default made from the names of the runs.
        pictures: Put the runs' pictures into the page.
    """
    named = _numbered(runs)
    tasks = list(dict.fromkeys(run.task for run in runs))
    heading = title or _heading(runs)
    sections: list[str] = []
    anchors: list[tuple[str, str]] = []
    for task in tasks:
        own = [run for run in runs if run.task == task]
        anchor = f"task-{len(anchors) + 1}"
        anchors.append((anchor, _TASKS.get(task, task)))
        sections.append(_section(anchor, task, own, named, pictures))
    links = "".join(
        f'<a href="#{anchor}">{text(name)}</a>' for anchor, name in [*anchors, ("made", "How it was made")]
    )
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f'<link rel="icon" href="data:,"/><title>{text(heading)}</title>'
        f"<style>{_asset('page.css')}</style></head><body>"
        f'<header><div><nav aria-label="Sections">{links}</nav>'
        '<button type="button" id="theme" hidden="hidden">Theme</button></div></header>'
        f"<main><h1>{text(heading)}</h1>{_opening(runs)}{''.join(sections)}"
        f'<section><h2 id="made">How it was made</h2>{"".join(_facts(run) for run in runs)}</section></main>'
        f"<footer>Written by slr-det {text(__version__)}, {now}. Scores are fractions of 1. Compression rate = all "
        "weights / nonzero weights. Click a column's title to sort; hover a curve, or focus it and use the arrow keys."
        f'</footer><div id="said" class="unseen" aria-live="polite"></div>{_DIALOG}'
        f"<script>{_asset('page.js')}</script></body></html>\n"
    )


def _section(anchor: str, task: str, runs: Sequence[Run], named: dict[int, Series], pictures: bool) -> str:
    labels = {run.label: run for run in runs}
    own = [(number, _label(one, len(named), runs), one) for number, one in named.items() if one.run in labels]
    metric = next((run.metric for run in runs if run.metric), "")
    kinds = {run.metric for run in runs if run.metric}
    parts = [f'<section><h2 id="{anchor}">{text(_TASKS.get(task, task))}</h2>']
    if len(kinds) > 1:
        parts.append(f'<p class="soft">The runs name different headlines; {text(metric)} is shown.</p>')
    what = f"Scores are {metric_label(metric)}; the change is that of the last phase against the dense model."
    parts += [f'<p class="soft">{text(what)}</p>' if metric else "", tables.results(own, labels, metric)]
    parts += [
        tables.phases(own, tables.shown_metrics(own, metric)),
        tables.classes(own, metric),
        tables.every_metric(own),
        tables.course(own),
    ]
    drawn = curves.curves(own, metric)
    if drawn:
        parts.append(f"<h3>Curves</h3>{_legend(own)}{drawn}")
    sparsity = tables.layers(own)
    if sparsity:
        parts.append(
            '<h3>Layers</h3><p class="soft">A full bar is the dense layer, the filled part what the pruned one '
            f"keeps.</p>{sparsity}"
        )
    shown = "".join(_pictures(run, several=len(runs) > 1) for run in runs) if pictures else ""
    return "".join(parts) + (f"<h3>Pictures</h3>{shown}" if shown else "") + "</section>"


def _numbered(runs: Sequence[Run]) -> dict[int, Series]:
    return dict(enumerate(one for run in runs for one in run.series))


def _label(one: Series, total: int, runs: Sequence[Run]) -> str:
    """A series for the curves: its run where there are several, and its method where its run has several."""
    methods = sum(len(run.series) for run in runs if run.label == one.run)
    if total == 1 or len(runs) == 1:
        return one.method or one.run
    return f"{one.run} {one.method}".strip() if methods > 1 or one.method not in one.run else one.run


def _heading(runs: Sequence[Run]) -> str:
    names = [run.label for run in runs]
    return (
        names[0]
        if len(names) == 1
        else f"{len(names)} runs: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}"
    )


def _opening(runs: Sequence[Run]) -> str:
    """What a reader should know before the numbers."""
    said = [f"{run.label}: {run.status}" for run in runs if run.status]
    warned: dict[str, list[str]] = {}
    for run in runs:
        for warning in run.warnings:
            warned.setdefault(warning, []).append(run.label)
    said += [f"{_several(names)}: {warning}" for warning, names in warned.items()]
    if not said:
        return ""
    return f'<ul class="warnings">{"".join(f"<li>{text(line)}</li>" for line in said)}</ul>'


def _several(names: Sequence[str]) -> str:
    """Names as a list of at most three, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _legend(series: Sequence[tuple[int, str, Series]]) -> str:
    items = "".join(
        f'<li><button type="button" data-key="{number}" aria-pressed="true">{mark(number)}{text(label)}</button></li>'
        for number, label, _ in series
    )
    return f'<ul class="legend" aria-label="Show or hide runs">{items}</ul>'


def _pictures(run: Run, *, several: bool) -> str:
    figures = [figure(title, caption, file) for title, caption, file in run.pictures]
    if not figures:
        return ""
    name = f"<h4>{text(run.label)}</h4>" if several else ""
    return f'{name}<div class="pictures">{"".join(figures)}</div>'


def _facts(run: Run) -> str:
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in run.facts.items())
    command = f"<pre>{text(run.command)}</pre>" if run.command else ""
    return details(run.label, f"{command}<dl>{rows}</dl>")


@cache
def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")

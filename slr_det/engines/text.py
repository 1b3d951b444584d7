"""What was measured of a network in each engine, as text: for the screen and as a page."""

from __future__ import annotations

from collections.abc import Sequence

from slr_det.engines.measure import Measured, Result
from slr_det.engines.prepare import OURS

_HEADER = ("engine", "latency", "quartiles", "vs torch", "vs ONNX Runtime", "memory", "weights", "difference")


def cells(measured: Measured) -> list[tuple[str, ...]]:
    """The table, its header first: a row for each engine that was measured."""
    rows: list[tuple[str, ...]] = [_HEADER]
    for result in measured.results:
        if result.milliseconds is None or result.spread is None:
            continue
        low, high = result.spread
        rows.append(
            (
                result.label,
                f"{result.milliseconds:.2f} ms",
                f"{low:.2f} to {high:.2f}",
                _ratio(measured.speed_up(result.name, "torch")),
                _ratio(measured.speed_up(result.name, "onnxruntime")),
                _memory(result),
                _megabytes(result.weight_bytes),
                "-" if result.difference is None else f"{result.difference:.1e}",
            )
        )
    return rows


def summary(measured: Measured) -> str:
    """One line on what was measured."""
    shapes = " and ".join("x".join(map(str, shape)) for shape in measured.shapes)
    threads = f"{measured.threads} thread{'s' if measured.threads > 1 else ''}"
    isa = f", our runtime with {measured.isa}" if measured.isa else ""
    return (
        f"{measured.parameters:,} parameters, {measured.zeros:.1%} zeros; input {shapes}; {threads}, "
        f"{measured.rounds} rounds by turns{isa}"
    )


def notes(measured: Measured) -> list[str]:
    """What a reader of the table has to know: engines and memories that were not measured."""
    lines = [
        f"{result.label}: not measured: {result.problem}" for result in measured.results if result.problem
    ]
    for result in measured.results:
        if result.memory is not None and result.memory.problem:
            lines.append(f"{result.label}: memory not measured: {result.memory.problem}")
    if measured.reason:
        lines.append(f"slr_det: the whole model runs dense, in torch: {measured.reason}")
    return lines


def as_text(measured: Measured) -> str:
    """For the screen: summary, table, notes, and what became of each layer."""
    parts = [summary(measured), "", aligned(cells(measured))]
    said = notes(measured)
    if said:
        parts += ["", *said]
    if measured.report and not measured.reason:
        parts += ["", measured.report]
    return "\n".join(parts)


def as_markdown(measured: Measured, title: str, picture: str) -> str:
    """As a page with the picture ``picture``."""
    parts = [
        f"# {title}",
        "",
        summary(measured),
        "",
        *markdown(cells(measured)),
        "",
        f"![latency]({picture})",
    ]
    said = notes(measured)
    if said:
        parts += ["", *(f"- {line}" for line in said)]
    parts += [
        "",
        "Latency is the median over all rounds; in each, the engines take turns, every one after an answer that is",
        "not counted. Memory is what the network adds, while it answers, to a process that has imported its engine",
        "and nothing else; in brackets the most that the whole process has held, loading included. Weights are the",
        "bytes of the parameters as the engine is given them; for slr_det, packed. Difference: the largest of an",
        "output from torch's, of numbers above 1 as a part of the number.",
    ]
    if measured.report:
        parts += ["", "## Layers", "", "```text", measured.report, "```"]
    versions = ", ".join(f"{name} {version}" for name, version in measured.versions.items())
    return "\n".join([*parts, "", f"Versions: {versions}.", ""])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns, the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as a table of Markdown, the first one its header."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---|" + "---:|" * (len(rows[0]) - 1), *lines[1:]]


def gain(measured: Measured) -> str:
    """How much faster our runtime is than the fastest other engine, in a sentence; empty without either."""
    ours = measured.milliseconds(OURS)
    others = [r for r in measured.results if r.name != OURS and r.milliseconds is not None]
    if ours is None or not others:
        return ""
    best = min(others, key=lambda result: result.milliseconds or 0.0)
    return f"slr_det is {(best.milliseconds or 0.0) / ours:.2f}x as fast as the fastest other engine ({best.label})"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:.1f} MB"


def _memory(result: Result) -> str:
    if result.memory is None or result.memory.peak is None:
        return "-"
    return f"{_megabytes(result.memory.running)} ({_megabytes(result.memory.peak)})"

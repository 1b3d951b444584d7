"""The tables of the page: what each run reached, phase by phase, class by class and layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slr_det.report.html.charts import short
from slr_det.report.html.curves import Named
from slr_det.report.html.gather import Run, Series
from slr_det.report.html.markup import Cell, Column, details, table
from slr_det.report.markdown import held, projection_text
from slr_det.report.schema import PHASES
from slr_det.report.table import PHASE_LABELS, duration, metric_label, metric_names

_FILES = {"dense": "dense file", "pruned": "pruned file", "packed": "packed file"}
_EMPTY = Cell("")


def results(series: Named, runs: Mapping[str, Run], metric: str) -> str:
    """One row per run and method: scores before and after, rates, parameters, bytes, time."""
    label = metric_label(metric)
    files = list(dict.fromkeys([*_FILES, *(name for _, _, one in series for name in one.bytes)]))
    columns = [
        Column("run", number=False),
        Column("method", number=False),
        *(Column(PHASE_LABELS[phase], note=label) for phase in PHASES),
        Column("change", note="score at the end less the dense model's"),
        Column("compression, model", note="all weights / nonzero weights, over every parameter"),
        Column("compression, groups", note="all weights / nonzero weights, over the pruned groups"),
        Column("parameters"),
        Column("nonzero"),
        *(Column(_FILES.get(name, name)) for name in files),
        Column("dense / packed", note="size of the dense file / size of the packed one"),
        Column("epochs", note="under the method and in retraining"),
        Column("time", note="training under the method, recalibration and retraining"),
        Column("state", number=False),
    ]
    rows = []
    for number, _, one in series:
        final = one.score(one.final, metric)
        dense = one.score("dense", metric)
        pruned = one.final not in (None, "dense")
        change = None if final is None or dense is None or not pruned else final - dense
        tallies = one.compression or {}
        model, groups = tallies.get("model", {}), tallies.get("groups", {})
        spent = [one.phases[phase] for phase in PHASES[1:] if phase in one.phases]
        sizes = one.bytes
        packed = sizes["dense"] / sizes["packed"] if sizes.get("dense") and sizes.get("packed") else None
        rows.append(
            [
                Cell(one.run, key=number),
                Cell(one.method or "dense training"),
                *(_number(one.score(phase, metric), 3) for phase in PHASES),
                _number(change, 3, "+"),
                _number(model.get("rate"), 2, unit="x"),
                _number(groups.get("rate"), 2, unit="x"),
                _count(model.get("weights")),
                _count(model.get("nonzero")),
                *(_size(sizes.get(name)) for name in files),
                _number(packed, 2, unit="x"),
                _sum([block.get("epochs") for block in spent], lambda total: f"{total:g}"),
                _sum([block.get("seconds") for block in spent], duration),
                Cell(runs[one.run].status or "done"),
            ]
        )
    return table(columns, rows, f"What each run reached: {label}, compression, size, time", heads=2)


def phases(series: Named, metrics: Sequence[str]) -> str:
    """One row per series and phase with the metrics that stand in a report's own table."""
    columns = [Column("run", number=False), Column("method", number=False), Column("phase", number=False)]
    columns += [*(Column(metric_label(name)) for name in metrics), Column("epochs"), Column("time")]
    rows = []
    for number, _, one in series:
        for order, phase in enumerate(PHASES):
            block = one.phases.get(phase)
            if block is None:
                continue
            epochs, seconds = block.get("epochs"), block.get("seconds")
            rows.append(
                [
                    Cell(one.run, key=number),
                    Cell(one.method or "dense training"),
                    Cell(PHASE_LABELS[phase], value=float(order)),
                    *(_number(one.score(phase, name), 3) for name in metrics),
                    _EMPTY if epochs is None else Cell(f"{epochs:g}", float(epochs)),
                    _EMPTY if seconds is None else Cell(duration(seconds), float(seconds)),
                ]
            )
    return details("Every phase", table(columns, rows, "Scores of every phase", heads=3)) if rows else ""


def course(series: Named) -> str:
    """How the methods went: distances, step size, and how often the conditions held."""
    columns = [Column("run", number=False), Column("method", number=False)]
    columns += [Column(title) for title in ("iterations", "W - Z, first", "W - Z, last", "step size, last")]
    columns += [Column("(6) held", number=False), Column("(11) held", number=False)]
    rows = []
    for number, _, one in series:
        if not one.history:
            continue
        distances = [r["distance"] for r in one.history if r.get("distance") is not None]
        steps = [r["step_size"] for r in one.history if r.get("step_size") is not None]
        ends = [*(distances[:1] or [None]), *(distances[-1:] or [None]), *(steps[-1:] or [None])]
        rows.append(
            [
                Cell(one.run, key=number),
                Cell(one.method),
                Cell(str(len(one.history)), float(len(one.history))),
                *(_EMPTY if value is None else Cell(short(value), float(value)) for value in ends),
                Cell(held(one.history, "condition_6")),
                Cell(held(one.history, "condition_11")),
            ]
        )
    return (
        details("The course of each method", table(columns, rows, "The course of each method", heads=2))
        if rows
        else ""
    )


def every_metric(series: Named) -> str:
    """All scalar metrics, dense and at the end, a column for each series."""
    names = list(
        dict.fromkeys(
            name
            for _, _, one in series
            for block in one.phases.values()
            for name, value in block["metrics"].items()
            if not isinstance(value, Mapping)
        )
    )
    return _side_by_side(
        "Every metric", "metric", names, series, lambda one, phase, name: one.score(phase, name)
    )


def classes(series: Named, metric: str) -> str:
    """The headline metric class by class, dense and at the end."""

    def score(one: Series, phase: str | None, name: str) -> float | None:
        found = (one.phases.get(phase or "", {}).get("metrics", {}).get("per_class") or {}).get(name, {})
        value = found.get(metric)
        return value if isinstance(value, int | float) else None

    found = [
        name
        for _, _, one in series
        for block in one.phases.values()
        for name in block["metrics"].get("per_class") or {}
    ]
    names = [
        name
        for name in dict.fromkeys(found)
        if any(score(one, one.final, name) is not None for _, _, one in series)
    ]
    return _side_by_side(f"{metric_label(metric)} per class", "class", names, series, score)


def layers(series: Named) -> str:
    """Per network, a row for each layer: its weights when dense, and as a bar what each series kept of them."""
    networks: dict[tuple[Any, ...], list[tuple[int, str, Mapping[str, Any]]]] = {}
    for number, label, one in series:
        if one.compression is not None:
            shape = tuple((row["name"], tuple(row["shape"])) for row in one.compression["layers"])
            networks.setdefault(shape, []).append((number, label, one.compression))
    parts = []
    for found in networks.values():
        columns = [Column("layer", number=False), *(Column(f"kept, {label}") for _, label, _ in found)]
        columns += [Column("weights, dense"), Column("shape", number=False), Column("pattern", number=False)]
        keys = [number for number, _, _ in found]
        blocks = zip(*(c["layers"] for _, _, c in found), strict=True)
        rows = [_layer(order, block, keys) for order, block in enumerate(blocks)]
        whole = [
            Cell("whole model", float(len(rows))),
            *(_kept(c["model"], number) for number, _, c in found),
        ]
        whole += [_count(found[0][2]["model"]["weights"]), _EMPTY, _EMPTY]
        parts.append(table(columns, [*rows, whole], "Share of the weights that each layer keeps"))
    return "".join(parts)


def _layer(order: int, blocks: Sequence[Mapping[str, Any]], keys: Sequence[int]) -> list[Cell]:
    first = blocks[0]
    said = [
        f"dense: {block['reason'] or 'not selected'}"
        if block["keep"] is None
        else projection_text(block["projection"])
        for block in blocks
    ]
    return [
        Cell(first["name"], float(order)),
        *(_kept(block, key) for block, key in zip(blocks, keys, strict=True)),
        _count(first["weights"]),
        Cell(" × ".join(map(str, first["shape"])) or "1"),
        Cell(" / ".join(dict.fromkeys(said))),
    ]


def _kept(block: Mapping[str, Any], key: int) -> Cell:
    weights, nonzero = block["weights"], block["nonzero"]
    if not weights:
        return _EMPTY
    share = nonzero / weights
    return Cell(f"{share:.1%}", share, share, f"{nonzero:,} of {weights:,} weights are nonzero", key)


def _side_by_side(title: str, head: str, names: Sequence[str], series: Named, score: Any) -> str:
    """A row for each name; for each run its dense model, then each series at its end."""
    columns, getters = [Column(head, number=False)], []
    seen = set()
    for _, label, one in series:
        if "dense" in one.phases and one.run not in seen:
            seen.add(one.run)
            columns.append(Column(f"{one.run}, dense"))
            getters.append((one, "dense"))
        if one.final not in (None, "dense"):
            columns.append(Column(f"{label}, {PHASE_LABELS[str(one.final)]}"))
            getters.append((one, str(one.final)))
    rows = [[Cell(name), *(_number(score(one, phase, name), 4) for one, phase in getters)] for name in names]
    return details(title, table(columns, rows, title)) if rows else ""


def shown_metrics(series: Named, metric: str) -> list[str]:
    """The metrics of the table of phases: those of a report's own, the headline first."""
    blocks = {str(number): {"phases": one.phases} for number, _, one in series}
    first, *others = blocks.items()
    report = {"method": first[0], **first[1], "others": dict(others), "metric": metric}
    return metric_names(report)


def _number(value: float | None, digits: int, sign: str = "", unit: str = "") -> Cell:
    return _EMPTY if value is None else Cell(f"{value:{sign}.{digits}f}{unit}", float(value))


def _count(value: int | None) -> Cell:
    return _EMPTY if value is None else Cell(f"{value:,}", float(value))


def _size(count: int | None) -> Cell:
    if count is None:
        return _EMPTY
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return Cell(f"{count / scale:.2f} {unit}", float(count), title=f"{count:,} bytes")
    return Cell(f"{count} bytes", float(count))


def _sum(values: Sequence[float | None], write: Any) -> Cell:
    known = [value for value in values if value is not None]
    return Cell(write(sum(known)), float(sum(known))) if known else _EMPTY

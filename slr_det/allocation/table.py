"""The result of an allocation: one row per layer, the groups for the engine, and the table people read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slr_det.groups import GroupSpec
from slr_det.layers import Layer
from slr_det.projections import Projection

WIDTH = 110
_REASON = 24


@dataclass(frozen=True)
class Row:
    """What happens to one layer.

    Attributes:
        layer: The layer.
        keep: Fraction of its weights that stays, or None where it is left dense.
        projection: The set its weights are projected onto, or None.
        reason: Why it is left dense, or None.
        kept: Number of its weights that stay. Inside a group with a shared budget this is what the current weights
            would give, or the group's ratio where no weights were passed.
        group: Name of the group whose budget it shares, or None.
    """

    layer: Layer
    keep: float | None
    projection: Projection | None
    reason: str | None
    kept: int
    group: str | None = None


@dataclass(frozen=True)
class Allocation:
    """How much of each layer stays.

    Attributes:
        layers: One row per layer, in forward order.
        groups: The groups to prune, for ``slr_det.groups.build_groups``.
        counts: Number of weights each group keeps, in the order of ``groups``.
        model_parameters: Every parameter of the model, biases and norms included.
        method: How the ratios were chosen.
        keep: The global keep ratio that was given or solved for; None where every ratio was written out.
        target: The compression rate asked for, or None.
        over: What the target counts, ``model`` or ``groups``.
        notes: Sentences a user should see beside the table.
    """

    layers: tuple[Row, ...]
    groups: tuple[GroupSpec, ...]
    counts: tuple[int, ...]
    model_parameters: int
    method: str
    keep: float | None = None
    target: float | None = None
    over: str = "model"
    notes: tuple[str, ...] = ()

    def specs(self) -> list[GroupSpec]:
        """The groups to prune."""
        return list(self.groups)

    def compression(self) -> dict[str, dict[str, float | int]]:
        """Weights, kept weights and rate (all / kept), over the pruned groups and over every parameter."""
        weights = sum(row.layer.numel for row in self.layers if row.keep is not None)
        kept = sum(self.counts)
        model_kept = self.model_parameters - weights + kept
        return {
            "groups": {"weights": weights, "kept": kept, "rate": weights / kept if kept else 1.0},
            "model": {
                "weights": self.model_parameters,
                "kept": model_kept,
                "rate": self.model_parameters / model_kept,
            },
        }

    def rows(self) -> list[dict[str, Any]]:
        """The table as plain data: name, shape, weights, keep, kept, projection, reason and group of each layer."""
        return [
            {
                "name": row.layer.name,
                "shape": list(row.layer.shape),
                "weights": row.layer.numel,
                "keep": row.keep,
                "kept": row.kept,
                "projection": None if row.projection is None else str(row.projection),
                "reason": row.reason,
                "group": row.group,
            }
            for row in self.layers
        ]

    def table(self) -> str:
        """The table as text of at most 110 columns, with both compression rates; names go without ``.weight``."""
        lines = [self._title(), ""]
        head = ("layer", "shape", "weights", "keep", "kept", "projection, or why dense")
        body = [_cells(row) for row in self.layers]
        cells = list(zip(head, *body, strict=True))
        longest = [max(map(len, column)) for column in cells]
        # Numbers are never cut, and the name, which says what a row is about, only where the reason is short already.
        room = WIDTH - sum(longest[1:-1]) - 2 * (len(head) - 1)
        widths = [min(longest[0], room - min(longest[-1], _REASON)), *longest[1:-1]]
        last = room - widths[0]
        lines.append(_line(head, widths, last))
        rule = "-" * min(WIDTH, max(len(_line(cells, widths, last)) for cells in [head, *body]))
        lines += [rule, *(_line(cells, widths, last) for cells in body), rule, *self._totals()]
        notes = [*self.notes, *dict.fromkeys(row[-1] for row in body if len(row[-1]) > last)]
        lines += [f"note: {note}" for note in notes]
        return "\n".join(lines)

    def _title(self) -> str:
        text = f"allocation: {self.method}"
        if self.target is not None:
            text += f", solved for {self.target:g}x over the {'whole model' if self.over == 'model' else 'groups'}"
        if self.keep is not None:
            text += f", keep ratio {self.keep:.4g}"
        return text

    def _totals(self) -> list[str]:
        pruned = sum(row.keep is not None for row in self.layers)
        count = self.compression()
        text = (
            ("pruned groups", f"{pruned} of {len(self.layers)} layers", count["groups"]),
            ("whole model", "every parameter", count["model"]),
        )
        return [
            f"{what:<15}{of:<20}{n['weights']:>13,} weights{n['kept']:>13,} kept   compression {n['rate']:.3f}x"
            for what, of, n in text
        ]


def shorten(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters, its middle replaced by ``..`` where it is longer."""
    if len(text) <= width:
        return text
    tail = (width - 2 + 1) // 2
    return f"{text[: width - 2 - tail]}..{text[len(text) - tail :]}"


def _cells(row: Row) -> tuple[str, ...]:
    layer = row.layer
    last = row.reason if row.projection is None else str(row.projection)
    if row.group is not None:
        last = f"{last} ({row.group})"
    return (
        layer.name.removesuffix(".weight"),
        "x".join(map(str, layer.shape)),
        f"{layer.numel:,}",
        "dense" if row.keep is None else f"{row.keep:.4f}",
        f"{row.kept:,}",
        last or "",
    )


def _line(cells: Sequence[str], widths: Sequence[int], last: int) -> str:
    name, shape, *numbers = cells[:-1]
    parts = [shorten(name, widths[0]).ljust(widths[0]), shape.rjust(widths[1])]
    parts += [number.rjust(width) for number, width in zip(numbers, widths[2:], strict=True)]
    why = cells[-1] if len(cells[-1]) <= last else f"{cells[-1][: last - 2]}.."
    return "  ".join([*parts, why]).rstrip()

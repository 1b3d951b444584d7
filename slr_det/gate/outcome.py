"""What an evaluation found, as a document for programs and as a table for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from slr_det.gate.baseline import EVALUATION
from slr_det.gate.checks import Check
from slr_det.gate.measures import kind_of
from slr_det.gate.quantities import shown
from slr_det.report.facts import collect_versions, git_commit

TITLES = ("metric", "value", "limit", "verdict")


@dataclass(frozen=True)
class Outcome:
    """One evaluation.

    Attributes:
        task: ``Task.report_task``.
        metric: The headline.
        command: The command line.
        model: The checkpoint, as the user named it.
        data: The data, likewise.
        metrics: What the task's evaluation gave.
        measures: Bytes, weights and times.
        checks: Limits with their verdicts.
        baseline: File of the baseline; empty for none.
        error: What kept it from running; empty for nothing.
    """

    task: str
    metric: str
    command: str
    model: str = ""
    data: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    checks: Sequence[Check] = ()
    baseline: str = ""
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether it ran and every limit is kept."""
        return not self.error and all(check.passed for check in self.checks)

    def document(self) -> dict[str, Any]:
        """Plain JSON values; NaN and infinity are null."""
        plain: dict[str, Any] = _finite(
            {
                "schema": EVALUATION,
                "task": self.task,
                "metric": self.metric,
                "command": self.command,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "versions": collect_versions(),
                "commit": git_commit(),
                "model": self.model,
                "data": self.data,
                "metrics": self.metrics,
                "measures": self.measures,
                "baseline": self.baseline or None,
                "checks": [check.to_dict() for check in self.checks],
                "passed": self.passed,
                "error": self.error or None,
            }
        )
        return plain

    def table(self) -> str:
        """Every metric and measure with its limits and verdicts; without limits the last columns are left out."""
        rows = [list(TITLES)]
        for name, value in {**self.metrics, **self.measures}.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                continue
            text = shown(None if value is None else float(value), kind_of(name))
            found = [check for check in self.checks if check.metric == name]
            rows += [[name, text, c.demand, "ok" if c.passed else "FAILED"] for c in found]
            if not found:
                rows.append([name, text, "", ""])
        columns = 4 if self.checks else 2
        widths = [max(len(row[column]) for row in rows) for column in range(columns)]
        lines = [
            "  ".join(
                cell.rjust(width) if column == 1 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=False))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

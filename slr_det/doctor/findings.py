"""What a check of the machine found: one :class:`Finding` for each line of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        name: What was looked at, such as ``memory``.
        verdict: ``ok``; ``note``, worth knowing; or ``problem``, which fails the check.
        seen: What was found, for people.
        remedy: What to do about it, on one line; empty where there is nothing to do.
        facts: The same in numbers, for programs. Sizes are bytes.
    """

    name: str
    verdict: Verdict
    seen: str
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def table(findings: Sequence[Finding]) -> str:
    """The findings as text, a remedy in the line below what it mends."""
    marks = {"ok": "ok", "note": "note", "problem": "PROBLEM"}
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{marks[finding.verdict]:7s}  {finding.name:{width}s}  {finding.seen}")
        if finding.remedy:
            lines.append(f"{'':7s}  {'':{width}s}  -> {finding.remedy}")
    return "\n".join(lines)


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as plain values for JSON: ``ok`` for the whole, then one entry for each."""
    return {"ok": healthy(findings), "findings": [asdict(finding) for finding in findings]}


def healthy(findings: Sequence[Finding]) -> bool:
    """True where nothing found is a problem."""
    return all(finding.verdict != "problem" for finding in findings)


def size(count: float) -> str:
    """Bytes for people: ``64 MB``, ``15.6 GB`` (powers of 1024)."""
    for unit in ("bytes", "KB", "MB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GB"

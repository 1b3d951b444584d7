"""What a check of checkouts found, as lines and as plain values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["ok", "moved", "failed", "unavailable", "skipped"]

_MARKS = {"ok": "ok", "moved": "MOVED", "failed": "FAILED", "unavailable": "NOT RUN", "skipped": "not run"}


@dataclass(frozen=True)
class Line:
    """One thing that was looked at.

    Attributes:
        kind: ``seam``, ``file`` or ``contract``.
        name: What it is called.
        verdict: ``ok``; ``moved`` or ``failed``; ``unavailable``, where a package is missing; ``skipped``, where
            running it would say nothing new.
        says: What was found, on one line.
        seconds: How long a contract ran.
    """

    kind: Literal["seam", "file", "contract"]
    name: str
    verdict: Verdict
    says: str = ""
    seconds: float | None = None

    def __str__(self) -> str:
        time = "" if self.seconds is None else f" ({self.seconds:.0f} s)"
        # What a seam is for matters where it has moved, and is in the message then.
        said = f": {self.says}" if self.says and (self.kind, self.verdict) != ("seam", "ok") else ""
        return f"  {_MARKS[self.verdict]:7s}  {self.kind:8s}  {self.name}{time}{said}"


@dataclass
class Report:
    """What was found of one project; without a checkout ``lines`` is empty.

    Attributes:
        name: The adapter's name.
        title: The project's.
        path: Where the checkout is, or was looked for.
        present: Whether it is there.
        pinned: The commit that the adapter was written for.
        commit: The commit that is checked out; None where that cannot be told, and ``why`` says why.
        why: As said.
        fetch: The command that fetches an absent one.
        lines: Everything that was looked at.
    """

    name: str
    title: str
    path: str
    present: bool
    pinned: str
    commit: str | None
    why: str
    fetch: str
    lines: list[Line] = field(default_factory=list)

    def heading(self) -> Iterator[str]:
        """The lines above the table."""
        if not self.present:
            yield f"{self.name}: no checkout of {self.title} at {self.path}; fetch it: {self.fetch}"
            return
        yield f"{self.name}: {self.title} at {self.path}"
        if self.commit is None:
            yield f"  commit unknown ({self.why}); the adapter was written for {self.pinned}"
        elif same_commit(self.commit, self.pinned):
            yield f"  commit {self.commit[:12]}, the one that the adapter was written for"
        else:
            yield f"  commit {self.commit[:12]}; the adapter was written for {self.pinned}, which is not refused"

    def count(self, *verdicts: Verdict) -> int:
        """How many lines have one of these verdicts."""
        return sum(line.verdict in verdicts for line in self.lines)

    @property
    def broken(self) -> bool:
        """Whether a seam moved or a contract failed."""
        return self.count("moved", "failed") > 0

    @property
    def fine(self) -> bool:
        """Whether everything was looked at and is as it was."""
        return self.present and self.count("ok") == len(self.lines)

    def verdict(self) -> str:
        """The last line of a project."""
        words: dict[Verdict, str] = {"moved": "moved", "failed": "failed", "unavailable": "could not be run"}
        counts = {word: self.count(verdict) for verdict, word in words.items()}
        said = [f"{count} {word}" for word, count in counts.items() if count]
        return f"{self.name}: {self.count('ok')} of {len(self.lines)} ok{''.join(f', {s}' for s in said)}"


def same_commit(found: str, pinned: str) -> bool:
    """Whether two hashes, either of which may be shortened, name one commit."""
    return found.startswith(pinned) or pinned.startswith(found)


def document(reports: Sequence[Report]) -> dict[str, Any]:
    """Plain values for JSON: ``ok`` for all that are present, then one entry for each project."""
    return {
        "ok": all(report.fine for report in reports if report.present),
        "checkouts": [asdict(report) for report in reports],
    }

"""The files of an evaluation: what they may replace, and that both of them tell how it ended."""

from __future__ import annotations

import json
from pathlib import Path

from slr_det.errors import ConfigError, StorageError
from slr_det.files import atomic_write
from slr_det.gate.baseline import EVALUATION
from slr_det.gate.junit import junit
from slr_det.gate.outcome import Outcome

STDOUT = "-"
_HEAD = 400  # bytes in which a file says what it is
_MARKS = {"--json": f'"{EVALUATION.partition("/")[0]}/'.encode(), "--junit": b"<testsuites"}


class Files:
    """Where an evaluation writes.

    Args:
        json: ``--json``: a file, ``-`` for stdout, or None.
        junit: ``--junit``: a file, or None.
        suite: Name of the JUnit suite.
    """

    def __init__(self, json: str | None, junit: str | None, suite: str) -> None:
        self.json = None if json == STDOUT else json
        self.junit = junit
        self.suite = suite

    def refuse(self, baseline: str | None) -> None:
        """Raise ConfigError where writing would destroy something: the baseline, the other file, a file of the user."""
        problems = []
        given = {"--json": self.json, "--junit": self.junit}
        for option, name in given.items():
            if name is None:
                continue
            if not name.strip():
                problems.append(f"{option}: the name of the file is empty; name one, or leave the option out")
            elif baseline and _same(name, baseline):
                problems.append(
                    f"{option} {name}: is the baseline, which a worse model would replace; name another file"
                )
            elif not _replaceable(Path(name), _MARKS[option]):
                problems.append(
                    f"{option} {name}: is there already, and no evaluation wrote it; name another file, or remove it"
                )
        if self.json and self.junit and _same(self.json, self.junit):
            problems.append(f"--json and --junit are the same file, {self.json}; name two")
        if problems:
            raise ConfigError(problems)

    def write(self, outcome: Outcome, seconds: float, kind: str = "") -> None:
        """Write both; one that cannot be written does not keep the other from it.

        Args:
            outcome: What there is to tell.
            seconds: How long it took.
            kind: Of the error, where there is one.

        Raises:
            StorageError: One or both could not be written.
        """
        failed = []
        for name, content in ((self.json, self._json), (self.junit, self._junit)):
            if name is not None:
                try:
                    atomic_write(name, content(outcome, seconds, kind))
                except StorageError as error:
                    failed.append(str(error))
        if failed:
            raise StorageError("; ".join(failed))

    def _json(self, outcome: Outcome, seconds: float, kind: str) -> str:
        return json.dumps(outcome.document(), indent=1, allow_nan=False) + "\n"

    def _junit(self, outcome: Outcome, seconds: float, kind: str) -> bytes:
        known = [("model", outcome.model), ("data", outcome.data), ("baseline", outcome.baseline)]
        return junit(
            self.suite,
            outcome.checks,
            seconds=seconds,
            properties=[(name, value) for name, value in known if value],
            error=(kind, outcome.error) if outcome.error else None,
            output=outcome.table(),
        )


def _same(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def _replaceable(path: Path, mark: bytes) -> bool:
    """Whether nothing is lost with a file: there is none, it is empty, or an earlier evaluation wrote it."""
    if not path.is_file():  # what is a folder or a device is refused where it is written
        return True
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return not head or mark in head

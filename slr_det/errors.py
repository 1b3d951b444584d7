"""The project's own errors: each is one line that says what is wrong and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class SlrDetError(Exception):
    """Base of every error a user can cause or meet. Command lines print it on one line and exit with 2."""


class ConfigError(SlrDetError):
    """One or more things are wrong in a configuration; all of them are reported at once.

    Args:
        problems: One sentence each, already naming the file and key, the value seen and the value expected.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("; ".join(self.problems))


class DataError(SlrDetError):
    """A data set, label file or result file is missing or malformed."""


class CheckpointError(SlrDetError):
    """A checkpoint or state file is missing, truncated, foreign, or belongs to another model or configuration."""


class NumericsError(SlrDetError):
    """A NaN or infinity appeared in a weight, the loss or a multiplier; the message names it and the iteration."""


class MissingExtraError(SlrDetError):
    """An optional dependency is needed; the message holds the exact install command."""


class StorageError(SlrDetError):
    """A file could not be written (disk full, no permission); what was there before is untouched."""


class RuntimeUnavailableError(SlrDetError):
    """The sparse runtime's library is missing, or not one that this machine can use; the model runs dense then."""


class RuntimeRefusedError(SlrDetError):
    """The sparse runtime cannot do one layer, as it is or in these layouts; the layer runs dense then."""


class RuntimeBuildError(SlrDetError):
    """The sparse runtime's library cannot be compiled: no compiler, or one that refuses the sources."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the valid name closest to ``name``, or an empty string."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" (did you mean '{matches[0]}'?)" if matches else ""

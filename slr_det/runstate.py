"""The folder of a run: its configuration, what has been done, and whether it may be continued."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from slr_det.config import RunConfig
from slr_det.errors import CheckpointError, StorageError
from slr_det.files import atomic_write

STATE_FILE = "state.json"
CONFIG_FILE = "config.yaml"
STATE_VERSION = 1


class RunState:
    """What a run has finished, written to ``state.json`` after every phase.

    Args:
        folder: The run's folder.
        phases: Results by phase, such as ``dense`` or ``slr/hard_prune``.
        fingerprint: Of the files that the run started from, see :func:`fingerprint_of`.
        verb: What the run does: ``compress``, ``train`` or ``retrain``.
    """

    def __init__(self, folder: Path, phases: dict[str, dict[str, Any]], fingerprint: str, verb: str) -> None:
        self.folder = folder
        self.phases = phases
        self.fingerprint = fingerprint
        self.verb = verb

    @classmethod
    def create(cls, folder: Path, config: RunConfig, verb: str) -> RunState:
        """Start a new run in ``folder``, which must not hold one."""
        state = cls(folder, {}, fingerprint_of(config.model, config.weights), verb)
        config.dump(folder / CONFIG_FILE)
        state.save()
        return state

    @classmethod
    def open(cls, folder: Path) -> RunState:
        """Read what a run has done; its configuration is in ``config.yaml`` beside it.

        Raises CheckpointError where the folder holds no run or its state is damaged.
        """
        try:
            if not (folder / CONFIG_FILE).is_file():
                raise FileNotFoundError(2, "", CONFIG_FILE)
            state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
            if state["version"] != STATE_VERSION:
                raise CheckpointError(
                    f"{folder}: written by another version of slr_det (state {state['version']}, "
                    f"this one reads {STATE_VERSION}); start a new run"
                )
            return cls(folder, state["phases"], state["fingerprint"], state["verb"])
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{folder} is not the folder of a run ({Path(str(error.filename)).name} is missing); "
                "give the folder that the interrupted run printed"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / STATE_FILE}: is damaged ({error}); start a new run") from error

    def check_start(self, config: RunConfig) -> None:
        """Raise CheckpointError where the run was started from other model or weights files than are there now."""
        if fingerprint_of(config.model, config.weights) != self.fingerprint:
            weights = f" with the weights '{config.weights}'" if config.weights else ""
            raise CheckpointError(
                f"{self.folder}: was started from another model than '{config.model}'{weights} is now (its content "
                "has changed); restore that file, or start a new run"
            )

    def done(self, phase: str) -> bool:
        """Whether the phase has finished."""
        return phase in self.phases

    def finish(self, phase: str, result: dict[str, Any]) -> dict[str, Any]:
        """Record a finished phase on the disk and return its result."""
        self.phases[phase] = result
        self.save()
        return result

    def save(self) -> None:
        """Write ``state.json``."""
        state = {
            "version": STATE_VERSION,
            "verb": self.verb,
            "fingerprint": self.fingerprint,
            "phases": self.phases,
        }
        atomic_write(self.folder / STATE_FILE, json.dumps(state, indent=1))


def fingerprint_of(*names: str) -> str:
    """SHA-256 of files, in hexadecimal, joined by ``+``; names that are no files, as of architectures, are left out."""
    digests = []
    for name in names:
        path = Path(name)
        if path.is_file():
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return "+".join(digests)


def new_folder(project: str, name: str) -> Path:
    """Make ``project/name``, or ``project/name-2`` and so on where runs are already; a run is never overwritten."""
    for number in range(1, 10_000):
        folder = Path(project) / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if any(folder.iterdir()):
                continue
        except OSError as error:
            raise StorageError(
                f"{folder}: a run's folder cannot be made here ({error.strerror}); name another place with project=..."
            ) from error
        return folder
    raise CheckpointError(f"{project}/{name}: ten thousand runs of that name exist; choose another name=...")

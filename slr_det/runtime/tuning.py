"""Whether a layer runs faster sparse or dense on this machine: measured once, and remembered for the next time.

A rule from density and sizes alone would be wrong somewhere: what wins depends on the processor's caches, on how many
threads there are, and on torch's own kernels for the very sizes.
"""

from __future__ import annotations

import json
import math
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from slr_det.data.generated import cache_dir
from slr_det.errors import StorageError
from slr_det.files import atomic_write
from slr_det.runtime.library import Library

#: How much faster sparse has to be to be chosen: less is within what a measurement is off by.
MARGIN = 0.97
#: Seconds that the measurement of one layer may take, apart from rounds that have begun.
BUDGET = 0.2

_SCHEMA = "slr_det.runtime.choices/1"
_FEWEST, _MOST = 3, 25  # rounds
_PAUSE = 0.01  # seconds
_CLEAR = 0.5  # one of the two takes less than this part of the other's time in every round
_MACHINES = 8  # processors, libraries and versions of torch that a file remembers, the latest ones


@dataclass(frozen=True)
class Signature:
    """Everything about a layer that its times depend on.

    Attributes:
        layer: Kind, sizes, strides, layouts, activation: words of the caller's.
        density: Share of the weights that are not zero; remembered to two significant digits.
        threads: CPU threads.
    """

    layer: str
    density: float
    threads: int

    @property
    def key(self) -> str:
        """The layer's name in the cache."""
        return f"{self.layer} density {self.density:.2g} threads {self.threads}"


@dataclass(frozen=True)
class Choice:
    """How a layer runs.

    Attributes:
        sparse: Whether in the sparse runtime.
        sparse_seconds: Median time of a run there.
        dense_seconds: Median time of a run in torch.
        remembered: Whether the times were measured before.
    """

    sparse: bool
    sparse_seconds: float
    dense_seconds: float
    remembered: bool


class Cache:
    """Times that were measured on this machine, in a JSON file; a file that cannot be used is one warning, no error.

    Args:
        machine: What every time depends on, see :func:`machine_key`.
        path: The file; default: ``runtime/choices.json`` in the user's cache folder.
    """

    def __init__(self, machine: str, path: Path | None = None) -> None:
        self.path = path if path is not None else cache_dir() / "runtime" / "choices.json"
        self._machine = machine
        self._times = _read(self.path).get(machine, {})
        self._changed = False

    def get(self, key: str) -> tuple[float, float] | None:
        """Seconds sparse and dense, or None for a layer that was not measured."""
        return self._times.get(key)

    def put(self, key: str, sparse: float, dense: float) -> None:
        """Remember seconds; :meth:`save` writes them."""
        self._times[key] = (sparse, dense)
        self._changed = True

    def save(self) -> None:
        """Write what is new beside what other processes have written meanwhile."""
        if not self._changed:
            return
        everything = _read(self.path, silent=True)
        mine = {**everything.pop(self._machine, {}), **self._times}
        kept = dict(list(everything.items())[-(_MACHINES - 1) :])
        document = {"schema": _SCHEMA, "machines": {**kept, self._machine: mine}}
        try:
            atomic_write(self.path, json.dumps(document, indent=1) + "\n")
        except StorageError as error:
            warnings.warn(f"layer times are measured again next time: {error}", stacklevel=2)
        self._changed = False


def machine_key(library: Library) -> str:
    """What every time depends on: processor, instructions in use, the library's bytes, torch's version."""
    return f"{_processor()}, {library.isa.name.lower()}, library {library.sha256[:16]}, torch {torch.__version__}"


def choose(
    signature: Signature,
    measure_sparse: Callable[[], object],
    measure_dense: Callable[[], object],
    cache: Cache,
    *,
    budget: float = BUDGET,
) -> Choice:
    """Choose how a layer runs, by the times in the cache or else by measuring, which goes into the cache.

    Args:
        signature: The layer.
        measure_sparse: Runs it once in the sparse runtime.
        measure_dense: Runs it once in torch.
        cache: Times by layer; the caller saves it.
        budget: Seconds for the measurement.
    """
    found = cache.get(signature.key)
    if found is None:
        sparse, dense = race(measure_sparse, measure_dense, budget)
        cache.put(signature.key, sparse, dense)
    else:
        sparse, dense = found
    return Choice(sparse < MARGIN * dense, sparse, dense, found is not None)


def race(
    one: Callable[[], object], other: Callable[[], object], budget: float = BUDGET
) -> tuple[float, float]:
    """Median seconds of two actions that take turns, after one run of each that is not counted.

    At least three rounds; no more once the budget is spent or the outcome is clear. Where torch has several threads,
    they are given time to fall asleep before each run: they spin for milliseconds after their work.
    """
    pause = _PAUSE if torch.get_num_threads() > 1 else 0.0
    one()
    other()
    first: list[float] = []
    second: list[float] = []
    began = time.perf_counter()
    while len(first) < _MOST:
        time.sleep(pause)
        first.append(_seconds(one))
        time.sleep(pause)
        second.append(_seconds(other))
        if len(first) < _FEWEST:
            continue
        if time.perf_counter() - began > budget:
            break
        if max(first) < _CLEAR * min(second) or max(second) < _CLEAR * min(first):
            break
    return median(first), median(second)


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _read(path: Path, silent: bool = False) -> dict[str, dict[str, tuple[float, float]]]:
    """The file's content; nothing where there is none, nothing and a warning where it is damaged."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != _SCHEMA:
            return {}  # another version's, which its next writer replaces
        return {
            str(machine): {str(key): _times_of(value) for key, value in times.items()}
            for machine, times in content["machines"].items()
        }
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        problem = f"it cannot be read ({error.strerror or error})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"it is damaged ({type(error).__name__})"
    if not silent:
        warnings.warn(f"{path} is ignored, and layers are measured again: {problem}", stacklevel=3)
    return {}


def _times_of(value: Any) -> tuple[float, float]:
    sparse, dense = (float(seconds) for seconds in value)
    if not (0 < sparse < math.inf and 0 < dense < math.inf):
        raise ValueError(f"{value} are no times")
    return sparse, dense


def _processor() -> str:
    """The processor's name, as the system tells it."""
    wanted = ("model name", "CPU implementer", "CPU part", "Hardware")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in wanted:
            found.setdefault(name.strip(), value.strip())
    return ", ".join(found.values()) or platform.processor() or platform.machine()

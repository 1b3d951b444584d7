"""The runtime's shared library: found, checked before the system's loader touches it, and loaded once."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from slr_det.data.generated import cache_dir
from slr_det.errors import RuntimeUnavailableError
from slr_det.runtime.binary import problem_of, this_machine
from slr_det.runtime.build import INSTALLED, LIBRARY, sources_hash
from slr_det.runtime.functions import Library
from slr_det.runtime.handles import Conv, Linear, Pool
from slr_det.runtime.structs import ABI, SLACK, Activation, ConvInfo, ConvSpec, Isa, Layout

__all__ = [
    "ABI",
    "ISA_VARIABLE",
    "LIBRARY_VARIABLE",
    "SLACK",
    "Activation",
    "Conv",
    "ConvInfo",
    "ConvSpec",
    "Isa",
    "Layout",
    "Library",
    "Linear",
    "Pool",
    "cache_folder",
    "candidates",
    "load",
    "unavailable",
]

LIBRARY_VARIABLE = "SLR_DET_RUNTIME_LIBRARY"
ISA_VARIABLE = "SLR_DET_RUNTIME_ISA"

_HINT = "build it with: python -m slr_det.runtime build"


def candidates() -> list[tuple[Path, str | None]]:
    """Where a library is looked for, in this order, each with the hash of the sources it has to be built from.

    ``$SLR_DET_RUNTIME_LIBRARY`` alone where it is set, whatever it was built from; else where installs put it and
    the user's cache.
    """
    given = os.environ.get(LIBRARY_VARIABLE, "")
    if given:
        return [(Path(given).expanduser().absolute(), None)]
    sources = sources_hash()
    return [(folder / LIBRARY, sources) for folder in (INSTALLED, cache_folder(sources))]


def cache_folder(sources: str) -> Path:
    """Folder of the user's cache for the library that is built from some sources."""
    return cache_dir() / "runtime" / f"{sources[:16]}-{this_machine()}"


class _Loaded:
    """What this process has loaded: a library stays as long as the process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.libraries: dict[Path, Library] = {}
        self.current: tuple[tuple[str, str], Library] | None = None


_loaded = _Loaded()


def load() -> Library:
    """The runtime's library, loaded when first asked for.

    ``$SLR_DET_RUNTIME_LIBRARY`` names another file, ``$SLR_DET_RUNTIME_ISA`` the instructions to use: portable, avx2,
    avx512 or neon.

    Raises:
        RuntimeUnavailableError: There is no library that this machine can use; one line says why and what to do.
    """
    wanted = (os.environ.get(LIBRARY_VARIABLE, ""), os.environ.get(ISA_VARIABLE, ""))
    with _loaded.lock:
        if _loaded.current is None or _loaded.current[0] != wanted:
            library = _find()
            library.use_isa(_wanted_isa(wanted[1], library))
            _loaded.current = (wanted, library)
        return _loaded.current[1]


def unavailable() -> str | None:
    """Why there is no runtime here, in one line; None where :func:`load` gives it."""
    try:
        load()
    except RuntimeUnavailableError as error:
        return str(error)
    return None


def _find() -> Library:
    problems = []
    for path, sources in candidates():
        if path in _loaded.libraries:
            return _loaded.libraries[path]
        problem = problem_of(path, sources)
        if problem is None:
            try:
                return _loaded.libraries.setdefault(path, Library(path))
            except RuntimeUnavailableError as error:
                problems.append(f"{error}; {_hint()}")
        elif problem != "does not exist" or os.environ.get(LIBRARY_VARIABLE):
            problems.append(f"{path} {problem}; {_hint()}")
    if problems:
        raise RuntimeUnavailableError(f"the sparse runtime cannot be used: {problems[0]}")
    raise RuntimeUnavailableError(
        f"the sparse runtime is not built (no C compiler when slr-det was installed); {_HINT}"
    )


def _hint() -> str:
    if os.environ.get(LIBRARY_VARIABLE):
        return f"unset {LIBRARY_VARIABLE}, or name another library there"
    return _HINT


def _wanted_isa(name: str, library: Library) -> Isa:
    if not name:
        return library.best_isa
    by_name: dict[str, Isa] = {isa.name.lower(): isa for isa in Isa}
    if name.lower() not in by_name:
        raise RuntimeUnavailableError(f"{ISA_VARIABLE} is '{name}', expected one of {', '.join(by_name)}")
    return by_name[name.lower()]

"""Compiling the runtime's C sources into the shared library that :mod:`slr_det.runtime.library` loads.

The hook that builds wheels (hatch_build.py) loads this file alone, where neither torch nor numpy is: it imports the
standard library and the project's errors only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from slr_det.errors import RuntimeBuildError

#: Where the C sources lie, beside this file; wheels carry them, so that a library can be built later.
CSRC = Path(__file__).resolve().parent / "csrc"
#: Where installs put the library: a folder that is no package, for in one it would be taken for a module of Python's.
INSTALLED = CSRC.with_name("built")
#: File name of the library on this system.
LIBRARY = {"darwin": "slr_runtime.dylib", "win32": "slr_runtime.dll"}.get(sys.platform, "slr_runtime.so")
#: What is written beside the library: its size and SHA-256, and that of the sources it was built from.
STAMP_SUFFIX = ".json"

_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-std=c11", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra")
_SANITIZE = ("-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_X86, _ARM = ("x86_64", "amd64"), ("aarch64", "arm64")
#: Sources for one kind of processor only, and the flags they need there; every other one is plain C.
_SPECIAL: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "kernels_avx2.c": (_X86, ("-mavx2", "-mfma")),
    "kernels_avx512.c": (
        _X86,
        ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"),
    ),
    "kernels_neon.c": (_ARM, ()),
}
_TIME_LIMIT = 300  # seconds that one file may take to compile


def sources() -> list[Path]:
    """The C sources, in the order of their names."""
    return sorted(CSRC.glob("*.c"))


def sources_hash() -> str:
    """SHA-256 over the names and contents of the sources and headers; changes whenever a library is out of date."""
    digest = hashlib.sha256()
    for path in sorted(path for path in CSRC.iterdir() if path.suffix in (".c", ".h", ".inc")):
        digest.update(f"{path.name}\n{path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def find_compiler(wanted: str | None = None) -> list[str]:
    """The C compiler's command: ``wanted``, else ``$CC``, else the first of cc, gcc and clang on the PATH.

    Raises:
        RuntimeBuildError: There is none; the line says what was looked for.
    """
    given = wanted or os.environ.get("CC", "")
    if given:
        words = shlex.split(given)
        if words and shutil.which(words[0]):
            return words
        raise RuntimeBuildError(f"the C compiler '{given}' is not on the PATH; name another one, such as gcc")
    for name in _COMPILERS:
        found = shutil.which(name)
        if found:
            return [found]
    raise RuntimeBuildError(
        f"no C compiler is on the PATH (looked for {', '.join(_COMPILERS)}); install one "
        "(Debian, Ubuntu: apt install gcc libc6-dev) or name it in CC"
    )


def target_machine(compiler: Sequence[str]) -> str:
    """The processor that a compiler compiles for, such as ``x86_64``: of a cross compiler it is not this machine's."""
    return _run([*compiler, "-dumpmachine"]).strip().partition("-")[0].lower()


def build(
    directory: Path | None = None,
    *,
    compiler: str | None = None,
    sanitize: bool = False,
    flags: Sequence[str] = (),
) -> Path:
    """Compile the library, and write a stamp beside it that says how long it is and what it was built from.

    A library that was there is replaced as a whole; processes that use it keep theirs.

    Args:
        directory: Folder for the library, made where it is missing; default: :data:`INSTALLED`.
        compiler: Command of the C compiler; default as for :func:`find_compiler`.
        sanitize: With the address and undefined-behaviour sanitizers, for tests.
        flags: More flags for every file, such as ``-Werror``.

    Returns:
        Path of the library.

    Raises:
        RuntimeBuildError: There is no compiler, it refuses a file, or the folder cannot be written. One line.
    """
    folder = Path(directory) if directory is not None else INSTALLED
    command = find_compiler(compiler)
    machine = target_machine(command)
    files = [path for path in sources() if _is_for(path, machine)]
    if not files:
        raise RuntimeBuildError(f"{CSRC} has no C sources; reinstall slr-det")
    common = [*_FLAGS, *(_SANITIZE if sanitize else ()), *flags]
    origin = sources_hash()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".slr-runtime-", dir=folder) as scratch:
            objects = []
            for path in files:
                objects.append(str(Path(scratch) / f"{path.stem}.o"))
                _run([*command, *common, *_special_flags(path), "-c", str(path), "-o", objects[-1]])
            made = Path(scratch) / LIBRARY
            _run([*command, *common, "-shared", *objects, "-lm", "-o", str(made)])
            return _install(made, folder / LIBRARY, origin, machine, command)
    except OSError as error:
        raise RuntimeBuildError(
            f"{folder}: the runtime's library cannot be written ({error.strerror or error}); choose another folder"
        ) from error


def stamp_of(library: Path) -> Path:
    """Path of a library's stamp."""
    return library.with_name(library.name + STAMP_SUFFIX)


def _install(made: Path, target: Path, origin: str, machine: str, command: Sequence[str]) -> Path:
    """Move a library to its place. Without a stamp for a moment: one of another library would condemn it."""
    content = made.read_bytes()
    stamp = {
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "sources": origin,
        "machine": machine,
        "compiler": _run([*command, "--version"]).strip().splitlines()[0],
    }
    written = made.with_name("stamp")
    written.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
    with contextlib.suppress(FileNotFoundError):
        stamp_of(target).unlink()
    made.replace(target)
    written.replace(stamp_of(target))
    return target


def _is_for(path: Path, machine: str) -> bool:
    return path.name not in _SPECIAL or machine in _SPECIAL[path.name][0]


def _special_flags(path: Path) -> tuple[str, ...]:
    return _SPECIAL[path.name][1] if path.name in _SPECIAL else ()


def _run(command: Sequence[str]) -> str:
    """Run a command of the compiler and return what it printed."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=_TIME_LIMIT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeBuildError(f"the C compiler {command[0]} cannot be run: {error}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        said = " ".join(lines[0].split()) if lines else f"exit code {done.returncode}"
        raise RuntimeBuildError(f"the C compiler {command[0]} could not build the runtime: {said}")
    return done.stdout

"""Whether a file is a whole shared library of this machine, found out before the system's loader touches it.

A library that was cut off can pass the loader and end the process later by a bus error, when a page is touched that
the file does not have; that is why its length is compared with what its own headers promise.
"""

from __future__ import annotations

import hashlib
import json
import platform
import struct
import sys
from pathlib import Path

from slr_det.runtime.build import stamp_of

_MACHINES = {62: "x86_64", 183: "aarch64", 3: "i386", 40: "arm", 243: "riscv64", 21: "ppc64le", 22: "s390x"}
_SAME = {"amd64": "x86_64", "arm64": "aarch64", "i686": "i386", "i586": "i386"}
_LOAD = 1  # a segment that is mapped into memory
_HEADER = struct.Struct("<HHIQQQIHHHHHH")  # of ELF for 64 bits, behind the 16 bytes of its identification
_SEGMENT = struct.Struct("<IIQQQQQQ")


def this_machine() -> str:
    """This processor's name, such as ``x86_64`` or ``aarch64``."""
    name = platform.machine().lower()
    return _SAME.get(name, name)


def problem_of(library: Path, sources: str | None = None) -> str | None:
    """What is wrong with a library, as the end of a sentence; None for one that may be loaded.

    Args:
        library: The file.
        sources: :func:`slr_det.runtime.build.sources_hash` that it has to be built from; None for any.
    """
    try:
        content = library.read_bytes()
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return _header_problem(content) or _stamp_problem(library, content, sources)


def _stamp_problem(library: Path, content: bytes, sources: str | None) -> str | None:
    """Compare with what was written beside the library when it was built; one without a stamp has nothing to hide."""
    try:
        stamp = json.loads(stamp_of(library).read_text(encoding="utf-8"))
        size, digest, origin = int(stamp["size"]), str(stamp["sha256"]), str(stamp["sources"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return f"has a damaged stamp ({stamp_of(library).name})"
    if len(content) != size:
        return f"is damaged: {len(content):,} bytes, of {size:,} when it was built"
    if hashlib.sha256(content).hexdigest() != digest:
        return "is damaged: not the bytes that were built"
    if sources is not None and origin != sources:
        return "was built from other sources than this version's"
    return None


def _header_problem(content: bytes) -> str | None:
    if sys.platform in ("darwin", "win32"):
        return (
            None  # their loaders refuse what is cut off or of another machine, and the stamp holds the rest
        )
    if content[:4] != b"\x7fELF":
        return "is not a shared library" if content else "is empty"
    if len(content) < 20:
        return "is cut off"
    order = "<" if content[5] == 1 else ">"
    (number,) = struct.unpack_from(f"{order}H", content, 18)
    machine = _MACHINES.get(number, f"machine number {number}")
    if machine != this_machine():
        return f"was built for {machine}, and this machine is {this_machine()}"
    if (content[4], content[5]) != (2, 1):
        return None  # no machine that this project knows to be used; the loader judges
    return _length_problem(content)


def _length_problem(content: bytes) -> str | None:
    """Compare the length with where the headers say that segments and sections end."""
    if len(content) < 16 + _HEADER.size:
        return "is cut off"
    _, _, _, _, segments, sections, _, _, segment_size, count, section_size, section_count, _ = (
        _HEADER.unpack_from(content, 16)
    )
    ends = [sections + section_size * section_count]
    for index in range(count):
        at = segments + index * segment_size
        if at + _SEGMENT.size > len(content):
            return "is cut off"
        kind, _, offset, _, _, size, _, _ = _SEGMENT.unpack_from(content, at)
        if kind == _LOAD:
            ends.append(offset + size)
    if max(ends) > len(content):
        return f"is cut off: {len(content):,} bytes of {max(ends):,}"
    return None

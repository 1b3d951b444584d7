"""Whether the folders that a run writes can be written, and how much fits."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from slr_det.doctor.findings import Finding, size

LEAST = 200 << 20  # a run of a small model: its checkpoints, plots and packed file
LITTLE = (
    5 << 30
)  # an optimizer, an average and two copies for SLR make a checkpoint of a large detector a gigabyte


def folder(name: str, path: Path, purpose: str, remedy: str) -> Finding:
    """Write and remove a file in ``path``, or where it would be made, and look at the space there.

    Args:
        name: First column of the table.
        path: The folder; it is not created.
        purpose: What goes there.
        remedy: How to choose another one.
    """
    path = Path(path).expanduser().absolute()
    place = next((place for place in (path, *path.parents) if os.path.lexists(place)), path)
    facts = {"path": str(path), "exists": path.is_dir(), "writable": False, "free": None, "user": _user()}
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".slr-det-doctor-"):
            pass
        free = shutil.disk_usage(place).free
    except OSError as error:
        reason = error.strerror or str(error)
        seen = f"{path} cannot be written by {_user()} ({reason}); {purpose}"
        return Finding(name, "problem", seen, remedy, facts)
    facts |= {"writable": True, "free": free}
    seen = f"{path}, {size(free)} free"
    if free < LEAST:
        return Finding(name, "problem", f"{seen}; {purpose}", f"free some space, or {remedy}", facts)
    if free < LITTLE:
        return Finding(name, "note", f"{seen}; {purpose}", f"a large model fills that; {remedy}", facts)
    return Finding(name, "ok", seen, facts=facts)


def temporary() -> Finding:
    """Whether there is a folder for temporary files."""
    try:
        found = tempfile.gettempdir()
    except OSError as error:
        seen = f"none can be written ({error.strerror or error})"
        remedy = "set TMPDIR to a folder that can be written (docker run --tmpfs /tmp)"
        return Finding("temporary", "problem", seen, remedy)
    return folder("temporary", Path(found), "temporary files", "set TMPDIR to another folder")


def _user() -> str:
    """Who asks, as ``--user`` of Docker and ``chown`` want it."""
    return f"{os.getuid()}:{os.getgid()}" if hasattr(os, "getuid") else "this user"

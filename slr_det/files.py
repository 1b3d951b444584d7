"""Writing files so that a crash or a full disk never damages what was there before."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from slr_det.errors import StorageError


def atomic_write(path: str | Path, data: bytes | str) -> Path:
    """Write ``data`` to ``path`` as a whole or not at all; text is encoded as UTF-8.

    Parent folders are created. Returns the path. Raises StorageError (one line) when the disk is full, the
    folder is not writable and so on; a file that was there before is then unchanged.
    """
    with atomic_open(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)
    return Path(path)


@contextlib.contextmanager
def atomic_open(path: str | Path) -> Iterator[BinaryIO]:
    """Give a binary file that takes the name ``path`` only when the block ends without an error.

    For writers that stream, such as ``torch.save(obj, file)``. The data are on the disk (fsync) before the
    rename, so that a killed process or machine leaves the old file or the new one, never a part. A failed
    write raises StorageError (every OSError in the block counts as one, so do nothing in it but write); any
    other error passes through. Both leave the old file alone.
    """
    target = Path(path)
    temporary: str | None = None
    try:
        if target.exists() and not target.is_file() and not target.is_dir():
            # The rename would put a file in the place of /dev/null, for everybody.
            raise StorageError(f"{target}: is a device or a pipe, not a file; name another one")
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode_of(target))
        os.replace(temporary, target)
        temporary = None
        _sync_folder(target.parent)
    except Exception as error:
        cause = _os_error(error)
        if cause is None:
            raise
        reason = cause.strerror or str(cause)
        raise StorageError(
            f"{target}: cannot be written ({reason}); free some space or choose another folder; "
            "what was there before is unchanged"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _os_error(error: BaseException) -> OSError | None:
    """The OSError behind ``error``: torch.save wraps the one of a full disk into a RuntimeError of its own."""
    if isinstance(error, OSError):
        return error
    if not isinstance(error, RuntimeError):
        return None
    seen = error.__cause__ or error.__context__
    while seen is not None:
        if isinstance(seen, OSError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return OSError(str(error).splitlines()[0]) if "PytorchStreamWriter" in str(error) else None


def _mode_of(target: Path) -> int:
    """Permissions for the new file: those of the one it replaces, else what the process's umask gives."""
    try:
        return target.stat().st_mode & 0o7777
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable where the system can (not on Windows, not on every network disk)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

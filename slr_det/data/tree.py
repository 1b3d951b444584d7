"""A data set's folder on the disk, and what an archive has in common with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slr_det.data.mirror import image_files
from slr_det.errors import DataError


class Tree(Protocol):
    """Folders and files below one root; names are relative to it, with ``/`` between their parts ("" is the root)."""

    @property
    def root(self) -> str:
        """The root as the user knows it, for messages."""
        ...

    def folders(self, at: str) -> list[str]:
        """Names of the folders directly in ``at``, sorted, hidden ones left out."""
        ...

    def files(self, at: str) -> list[str]:
        """Names of the files directly in ``at``, sorted, hidden ones left out."""
        ...

    def images(self, at: str) -> list[str]:
        """Names, relative to the root, of the images in ``at`` and below, sorted, hidden ones left out."""
        ...

    def path(self, name: str) -> str:
        """Return the file's path, or for the member of an archive ``ARCHIVE/MEMBER``."""
        ...

    def encoded(self, name: str) -> bytes | None:
        """Return the bytes of a file that is in memory already, else None."""
        ...

    def read(self, name: str) -> bytes:
        """Return the bytes of a file; DataError where it is missing or unreadable."""
        ...


@dataclass(frozen=True)
class FolderTree:
    """A folder on the disk."""

    folder: Path

    @property
    def root(self) -> str:
        return str(self.folder)

    def folders(self, at: str) -> list[str]:
        return [entry.name for entry in self._entries(at) if entry.is_dir()]

    def files(self, at: str) -> list[str]:
        return [entry.name for entry in self._entries(at) if entry.is_file()]

    def images(self, at: str) -> list[str]:
        return [path.relative_to(self.folder).as_posix() for path in image_files(self.folder / at)]

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def encoded(self, name: str) -> bytes | None:
        return None

    def read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.path(name)}: cannot be read ({error.strerror or error})") from error

    def _entries(self, at: str) -> list[Path]:
        try:
            return sorted(p for p in (self.folder / at).iterdir() if not p.name.startswith("."))
        except OSError as error:
            raise DataError(f"{self.path(at)}: cannot be read ({error.strerror or error})") from error


def join(at: str, name: str) -> str:
    """Return the name of something in the folder ``at``."""
    return f"{at}/{name}" if at else name

"""A data set in a tar archive, read into memory: nothing is unpacked, so no member's path is ever followed."""

from __future__ import annotations

import contextlib
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from slr_det.data.mirror import IMAGE_SUFFIXES
from slr_det.errors import DataError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
#: Most bytes that one member, and all of them together, may declare.
MEMBER_BYTES = 256 * 2**20
TOTAL_BYTES = 4 * 2**30
#: Members deeper than this are no data set's.
_DEPTH = 32

_READ = IMAGE_SUFFIXES | {".bin", ".txt"}
_COMPRESSED = (b"\x1f\x8b", b"\xfd7zXZ\x00", b"BZh")
_DAMAGED: tuple[type[Exception], ...] = (tarfile.TarError, OSError, EOFError, zlib.error)
# Some builds of Python come without lzma; their tarfile says so itself when it meets an .xz.
with contextlib.suppress(ImportError):
    import lzma

    _DAMAGED = (*_DAMAGED, lzma.LZMAError)


@dataclass(frozen=True, eq=False)
class ArchiveTree:
    """The members of an archive: a :class:`slr_det.data.tree.Tree`.

    Attributes:
        root: Path of the archive.
        contents: Bytes by member name, for images, ``.bin`` and ``.txt`` files.
        parts: Per folder ("" is the root) the folders in it, and the files in it.
    """

    root: str
    contents: Mapping[str, bytes]
    parts: Mapping[str, tuple[set[str], set[str]]]

    def folders(self, at: str) -> list[str]:
        return sorted(self.parts[at][0])

    def files(self, at: str) -> list[str]:
        return sorted(self.parts[at][1])

    def images(self, at: str) -> list[str]:
        folders, files = self.parts[at]
        prefix = f"{at}/" if at else ""
        found = [prefix + name for name in files if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
        for folder in folders:
            found += self.images(prefix + folder)
        return sorted(found)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def encoded(self, name: str) -> bytes | None:
        return self.contents[name]

    def read(self, name: str) -> bytes:
        if name not in self.contents:
            raise DataError(f"{self.root}: no member '{name}'")
        return self.contents[name]


def read_archive(path: Path) -> ArchiveTree:
    """Read the images and CIFAR files of a tar archive into memory.

    Links, devices and hidden members are left out, and so are members whose path is absolute or climbs with ``..``.
    Of two members of one name the later counts, as for tar.

    Raises:
        DataError: the archive is missing, damaged or truncated, or declares more than ``MEMBER_BYTES`` for one member
            or ``TOTAL_BYTES`` for all.
    """
    contents: dict[str, bytes] = {}
    parts: dict[str, tuple[set[str], set[str]]] = {"": (set(), set())}
    total = 0
    try:
        _require_end(path)
        with tarfile.open(path, "r:*") as tar:
            for member in tqdm(tar, desc=f"reading {path.name}", unit="file", disable=None):
                names = _parts(member.name)
                if names is None or not (member.isdir() or member.isreg()):
                    continue
                _place(names, member.isdir(), parts)
                if member.isdir() or PurePosixPath(names[-1]).suffix.lower() not in _READ:
                    continue
                total += member.size
                _require_sensible(path, member, total)
                stream = tar.extractfile(member)
                contents["/".join(names)] = stream.read() if stream is not None else b""
    except _DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path}: cannot be read as a tar archive ({reason}); it is damaged or incomplete: fetch it again"
        ) from error
    return ArchiveTree(str(path), contents, parts)


def _parts(name: str) -> list[str] | None:
    """The parts of a member's path, or None for one that is hidden, absolute, absurdly deep or climbs out."""
    names = [part for part in name.split("/") if part not in ("", ".")]
    outside = name.startswith("/") or any(part.startswith(".") for part in names)
    return names if names and not outside and len(names) <= _DEPTH else None


def _place(names: list[str], is_folder: bool, parts: dict[str, tuple[set[str], set[str]]]) -> None:
    at = ""
    for depth, name in enumerate(names):
        last = depth == len(names) - 1
        folder = is_folder or not last
        parts[at][0 if folder else 1].add(name)
        if folder:
            at = f"{at}/{name}" if at else name
            parts.setdefault(at, (set(), set()))


def _require_sensible(path: Path, member: tarfile.TarInfo, total: int) -> None:
    if member.size > MEMBER_BYTES:
        raise DataError(
            f"{path}: member '{member.name}' declares {member.size:,} bytes, expected an image or batch of at most "
            f"{MEMBER_BYTES:,}; is the archive a data set?"
        )
    if total > TOTAL_BYTES:
        raise DataError(
            f"{path}: its images are more than {TOTAL_BYTES:,} bytes, too many to keep in memory; unpack it and give "
            "the folder"
        )


def _require_end(path: Path) -> None:
    """Refuse a cut .tar: tarfile takes one that ends inside a header, or between members, for complete.

    A compressed one cannot end early without its decompressor noticing.
    """
    with path.open("rb") as file:
        if file.read(6).startswith(_COMPRESSED):
            return
        length = file.seek(0, 2)
        file.seek(max(0, length - tarfile.BLOCKSIZE))
        if file.read().strip(b"\0") and tarfile.is_tarfile(path):
            raise DataError(
                f"{path}: ends without the two empty blocks that close a tar archive; it is incomplete: fetch it again"
            )

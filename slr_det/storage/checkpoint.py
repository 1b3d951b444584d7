"""Whole checkpoints of torch, packed and given back byte for byte, without unpickling anything.

``torch.save`` writes a zip archive of uncompressed records: the bytes of every storage, and a pickle that says what is
made of them. Packing works below the pickle. The storages' bytes are encoded like tensors, everything else is kept as
it is, and unpacking puts both together again. So it serves state dicts, training states and pickled models alike,
whatever they share, and runs none of their code.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from slr_det.errors import CheckpointError
from slr_det.files import atomic_open, atomic_write
from slr_det.storage.container import Contents, Entry, Progress, decoded, read, read_bytes, write
from slr_det.storage.pickles import storage_dtypes
from slr_det.storage.sparse import FORMATS, Bytes, encode
from slr_det.storage.tensors import tensors_of

KIND = "torch.save"
REST = "rest of the file"
"""The entry that holds everything but the storages; no record of an archive has this name."""

_LOCAL = 30  # bytes of a record's local header before its name; the lengths of name and extra field end it
_OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch before 1.6 begin


@dataclass(frozen=True)
class Packed:
    """What packing came to.

    Attributes:
        path: The packed file.
        original: Bytes of the checkpoint.
        packed: Bytes of the packed file.
    """

    path: Path
    original: int
    packed: int

    @property
    def ratio(self) -> float:
        """How many times smaller the packed file is."""
        return self.original / self.packed


@dataclass(frozen=True)
class _Storage:
    name: str
    dtype: str
    start: int
    size: int


def pack(checkpoint_path: str | Path, target: str | Path, progress: Progress | None = None) -> Packed:
    """Write a checkpoint as a small file that :func:`unpack` gives back byte for byte.

    The packed file is unpacked in memory and compared before it is written.

    Args:
        checkpoint_path: Anything that ``torch.save`` wrote since torch 1.6; nothing in it is unpickled or run.
        target: The file to write; it is replaced as a whole or not at all.
        progress: Called while it works.

    Raises:
        CheckpointError: No such file, or no checkpoint of that kind.
        StorageError: The target cannot be written; what was there is intact.
    """
    file = Path(checkpoint_path)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror or error})") from error
    packed = write(_take_apart(data, file, progress), progress)
    if _put_together(read_bytes(packed, str(target), limit=1 << 62), str(target)) != data:
        raise CheckpointError(
            f"{file}: does not come back unchanged, so nothing was written; please report this"
        )
    return Packed(atomic_write(target, packed), len(data), len(packed))


def unpack(source: str | Path, target: str | Path, *, limit: int | None = None) -> Path:
    """Write the checkpoint that ``source`` was packed from, the same bytes.

    From a file of tensors (:func:`slr_det.storage.save`) it makes a state dict, which ``torch.load`` reads with
    ``weights_only=True``; metadata stay behind.

    Args:
        source: The packed file.
        target: The checkpoint to write; it is replaced as a whole or not at all.
        limit: The most bytes that it may unpack to; None for 256 MiB and 1024 times the packed file's size.

    Returns:
        ``target``.

    Raises:
        CheckpointError: One line: no such file, or one that is foreign, damaged, or larger than allowed.
        StorageError: The target cannot be written; what was there is intact.
    """
    contents = read(source, limit)
    if contents.checkpoint is not None:
        return atomic_write(target, _put_together(contents, str(source)))
    tensors = tensors_of(contents, str(source))
    with atomic_open(target) as stream:
        torch.save(tensors, stream)
    return Path(target)


def _take_apart(data: bytes, file: Path, progress: Progress | None) -> Contents:
    whole: Bytes = np.frombuffer(data, np.uint8)
    entries, places, rest = [], [], []
    position = 0
    for storage in _storages(data, file):
        layout = FORMATS[storage.dtype]
        rest.append(whole[position : storage.start])
        position = storage.start + storage.size
        words = whole[storage.start : position].view(layout.dtype)
        shape = (words.size // layout.words,)
        entries.append(Entry(storage.name, storage.dtype, shape, encode(words, layout)))
        places.append(storage.start)
        if progress is not None:
            progress("encoding", position, len(data))
    others = np.concatenate([*rest, whole[position:]])
    layout = FORMATS["U8"]
    entries.append(Entry(REST, "U8", (others.size,), encode(others, layout, dense=True)))
    if progress is not None:
        progress("encoding", len(data), len(data))
    checkpoint = {
        "kind": KIND,
        "bytes": len(data),
        "starts": places,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return Contents(entries, checkpoint=checkpoint)


def _storages(data: bytes, file: Path) -> list[_Storage]:
    """The archive's records of storages that lie in it as they are, in the order of their bytes."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            records = [
                (PurePosixPath(info.filename), *_place(data, info))
                for info in archive.infolist()
                if info.compress_type == zipfile.ZIP_STORED
            ]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        if data.startswith(_OLD):
            raise CheckpointError(
                f"{file}: has the format of torch before 1.6; load it and torch.save it again"
            ) from error
        raise CheckpointError(
            f"{file}: is no checkpoint, or damaged ({' '.join(str(error).split())[:80]}); "
            "expected what torch.save wrote"
        ) from error
    pickles = [record for record in records if record[0].name == "data.pkl"]
    if not pickles:
        raise CheckpointError(f"{file}: is a zip archive without data.pkl, expected what torch.save wrote")
    path, start, size = pickles[0]
    folder = path.parent / "data"
    dtypes = storage_dtypes(data[start : start + size])
    found: dict[str, _Storage] = {}
    end = 0
    for path, start, size in sorted(records, key=lambda record: record[1]):
        overlaps = start < end or start + size > len(data)  # damaged, or made to mislead
        if path.parent != folder or str(path) in found or overlaps:
            continue  # it stays among the other bytes
        dtype = dtypes.get(path.name, "U8")
        if size % (FORMATS[dtype].width * FORMATS[dtype].words):
            dtype = "U8"
        found[str(path)] = _Storage(str(path), dtype, start, size)
        end = start + size
    return list(found.values())


def _place(data: bytes, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Where a record's bytes begin, by its local header, and how many there are."""
    name, extra = struct.unpack_from("<HH", data, info.header_offset + _LOCAL - 4)
    return info.header_offset + _LOCAL + name + extra, info.file_size


def _put_together(contents: Contents, source: str) -> bytes:
    total, starts, digest = _checkpoint(contents, source)
    *storages, others = contents.entries
    rest = decoded(others, source)
    whole = np.empty(total, np.uint8)
    position = taken = 0
    for start, entry in zip([*starts, total], [*storages, None], strict=True):
        between = start - position
        whole[position:start] = rest[taken : taken + between]
        position, taken = start, taken + between
        if entry is not None:
            whole[start : start + entry.bytes] = decoded(entry, source).view(np.uint8)
            position += entry.bytes
    if hashlib.sha256(whole.data).hexdigest() != digest:
        raise CheckpointError(
            f"{source}: does not give back the checkpoint that it was made from; pack it again"
        )
    return whole.tobytes()


def _checkpoint(contents: Contents, source: str) -> tuple[int, list[int], str]:
    """Size, places of the storages and digest of the checkpoint; CheckpointError where they cannot be."""
    found: Mapping[str, Any] = contents.checkpoint or {}
    total, starts, digest = (found.get(key) for key in ("bytes", "starts", "sha256"))
    sizes = [entry.bytes for entry in contents.entries]
    if (
        found.get("kind") == KIND
        and isinstance(total, int)
        and isinstance(starts, list)
        and all(type(start) is int for start in starts)
        and isinstance(digest, str)
        and len(sizes) == len(starts) + 1
        and contents.entries[-1].name == REST
        and sum(sizes) == total
    ):
        ends = [0, *(start + size for start, size in zip(starts, sizes, strict=False))]
        if all(end <= start for end, start in zip(ends, [*starts, total], strict=True)):
            return total, starts, digest
    raise CheckpointError(f"{source}: describes a checkpoint that cannot be; pack it again")

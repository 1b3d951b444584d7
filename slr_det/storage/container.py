"""The file: a header with a checksum, zstd frames, and in them a safetensors file with a table of what it holds.

The bytes of like kind of all tensors lie together there (masks, gaps, each plane of each dtype), so that a model of
many small layers compresses like one of a few large ones. docs/storage.md describes the file byte by byte. Reading
takes no memory that the file's own size does not justify.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from slr_det.errors import CheckpointError
from slr_det.storage.frames import compress, decompress
from slr_det.storage.sparse import FORMATS, Bytes, Encoded, Words, decode

VERSION = 1
"""Version of the format that this package writes, and the only one that it reads."""

MAGIC = b"\x89SLR\r\n\x1a\n"
TABLE = "table"
FREE, RATIO = 256 << 20, 1024
"""A file may unpack to this many bytes, and to this many more for each byte that it has itself."""

FREE_TEXT, TEXT_RATIO = 4 << 20, 32
"""The same for each of its two texts, whose objects take many times their bytes."""

Progress = Callable[[str, int, int], None]
"""Called with the step's name, the bytes done and all bytes."""

_HEADER = struct.Struct("<8sIIQQQ")  # magic, version, zero, bytes: unpacked, content, frames
_DIGEST = 32
_MOST_AXES = 64
_INDEXES = ("mask", "gaps")


@dataclass(frozen=True)
class Entry:
    """One stored tensor.

    Attributes:
        name: Its name, unique in the file.
        dtype: A name in :data:`slr_det.storage.sparse.FORMATS`.
        shape: Sizes along each axis; none for a single number.
        encoded: Its bits.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    encoded: Encoded

    @property
    def words(self) -> int:
        """Words of all entries together."""
        return math.prod(self.shape) * FORMATS[self.dtype].words

    @property
    def bytes(self) -> int:
        """Bytes of the tensor when unpacked."""
        return self.words * FORMATS[self.dtype].width

    def decode(self) -> Words:
        """The tensor's words, 1-D; ValueError where the parts contradict each other."""
        return decode(self.encoded, self.words, FORMATS[self.dtype])


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        entries: The tensors, in the order in which they were saved.
        metadata: The user's own, plain JSON values.
        checkpoint: How to lay out the checkpoint that was packed; None for a file of tensors.
    """

    entries: Sequence[Entry]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] | None = None


def write(contents: Contents, progress: Progress | None = None) -> bytes:
    """The whole file's bytes. ``contents.metadata`` must be plain JSON values."""
    table = {
        "tensors": [
            {
                "name": entry.name,
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "encoding": entry.encoded.encoding,
                "nonzero": entry.encoded.nonzero,
                "base": entry.encoded.base,
                "index": sum(part.size for kind, part in entry.encoded.parts.items() if kind in _INDEXES),
            }
            for entry in contents.entries
        ],
        "metadata": dict(contents.metadata),
        "checkpoint": None if contents.checkpoint is None else dict(contents.checkpoint),
    }
    text = json.dumps(table, allow_nan=False, separators=(",", ":"))
    pools: dict[str, list[Bytes]] = {TABLE: [np.frombuffer(text.encode("utf-8"), np.uint8)]}
    for entry in contents.entries:
        for kind, part in entry.encoded.parts.items():
            planes = {kind: part} if kind in _INDEXES else _named_planes(entry.dtype, part)
            for name, plane in planes.items():
                pools.setdefault(name, []).append(plane)
    parts = {name: np.concatenate(pools[name]) for name in sorted(pools)}
    pools.clear()
    content = safetensors.numpy.save(parts, metadata={"format": f"slr_det.storage/{VERSION}"})
    sizes = [part.size for part in parts.values()]
    parts.clear()
    frames = compress(
        content,
        [len(content) - sum(sizes), *sizes],
        lambda done: progress("compressing", done, len(content)) if progress else None,
    )
    return seal(frames, len(content), sum(entry.bytes for entry in contents.entries))


def seal(frames: bytes, content: int, unpacked: int, version: int = VERSION) -> bytes:
    """Put the header and the checksum in front of compressed content."""
    header = _HEADER.pack(MAGIC, version, 0, unpacked, content, len(frames))
    return header + hashlib.sha256(header + frames).digest() + frames


def read(path: str | Path, limit: int | None = None) -> Contents:
    """Read a file, its tensors still encoded.

    Args:
        path: The file.
        limit: The most bytes that it may unpack to; None for 256 MiB and 1024 times its own size.

    Raises:
        CheckpointError: One line: no such file, none of this format, of another version, truncated, damaged, or one
            that would take more memory than ``limit``.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            head = stream.read(_HEADER.size + _DIGEST)
            unpacked, content, frames = _check_header(head, size, file, limit)
            data = stream.read(frames)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror or error})") from error
    return _parse(head, data, (unpacked, content), str(file), limit)


def read_bytes(data: bytes, source: str, limit: int | None = None) -> Contents:
    """:func:`read` for a file that is in memory; ``source`` is what messages call it."""
    start = _HEADER.size + _DIGEST
    unpacked, content, _ = _check_header(data[:start], len(data), source, limit)
    return _parse(data[:start], data[start:], (unpacked, content), source, limit)


def _parse(head: bytes, frames: bytes, sizes: tuple[int, int], source: str, limit: int | None) -> Contents:
    """What follows a header that has been checked; ``sizes`` are the bytes unpacked and of content."""
    found = hashlib.sha256(head[: _HEADER.size])
    found.update(frames)
    if found.digest() != head[_HEADER.size :]:
        raise CheckpointError(f"{source}: is damaged (its checksum is wrong); copy or pack it again")
    try:
        most = FREE_TEXT + TEXT_RATIO * (len(head) + len(frames)) if limit is None else limit
        contents = _contents(decompress(frames, sizes[1]), most)
        declared = sum(entry.bytes for entry in contents.entries)
        if declared != sizes[0]:
            raise ValueError(f"unpacks to {declared} bytes, but its header says {sizes[0]}")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source}: {_one_line(error)}; pack it again") from error
    return contents


def decoded(entry: Entry, source: str) -> Words:
    """The words of one tensor of the file ``source``; CheckpointError where its parts contradict each other."""
    try:
        return entry.decode()
    except ValueError as error:
        raise CheckpointError(
            f"{source}: tensor {entry.name!r:.80} {_one_line(error)}; pack it again"
        ) from error


def _check_header(head: bytes, size: int, source: str | Path, limit: int | None) -> tuple[int, int, int]:
    if head[: len(MAGIC)] != MAGIC[: len(head)] or not head:
        raise CheckpointError(f"{source}: is no packed model; expected a file that slr_det.pack wrote")
    if len(head) < _HEADER.size + _DIGEST:
        raise CheckpointError(f"{source}: is truncated ({size} bytes); copy it again")
    _, version, zero, unpacked, content, frames = _HEADER.unpack(head[: _HEADER.size])
    if version != VERSION or zero:
        raise CheckpointError(
            f"{source}: has version {version} of the format, expected {VERSION}; another version of slr_det wrote it"
        )
    if size != len(head) + frames:
        what = "is truncated" if size < len(head) + frames else "has something behind its end"
        raise CheckpointError(
            f"{source}: {what} ({size} bytes, expected {len(head) + frames}); copy it again"
        )
    allowed = FREE + RATIO * size if limit is None else limit
    if max(unpacked, content) > allowed:
        raise CheckpointError(
            f"{source}: would unpack to {max(unpacked, content)} bytes, more than the {allowed} that are allowed "
            f"for a file of {size}; set a higher limit if you trust it"
        )
    return unpacked, content, frames


def _contents(content: bytearray, most: int) -> Contents:
    length = int.from_bytes(content[:8], "little")
    if length > min(most, len(content)):
        raise ValueError(
            f"has a header of {length} bytes inside, more than the {min(most, len(content))} allowed"
        )
    try:
        parts = {name: _part(name, part) for name, part in _deserialize(bytes(content))}
    except safetensors.SafetensorError as error:
        raise ValueError(f"holds no safetensors file ({_one_line(error)})") from error
    if TABLE not in parts:
        raise ValueError(f"holds no part '{TABLE}'")
    if parts[TABLE].size > most:
        raise ValueError(f"has a table of {parts[TABLE].size} bytes, more than the {most} allowed")
    table = json.loads(parts.pop(TABLE).tobytes().decode("utf-8"), parse_constant=_refuse)
    kinds = {"tensors": list, "metadata": dict, "checkpoint": dict | None}
    if not isinstance(table, dict) or table.keys() != kinds.keys():
        raise ValueError(f"has a table without exactly {', '.join(kinds)}")
    for key, kind in kinds.items():
        if not isinstance(table[key], kind):
            raise ValueError(f"has a table in which {key} is of the wrong kind")
    pools = _Pools(parts)
    entries = [_entry(number, row, pools) for number, row in enumerate(table["tensors"])]
    pools.finish()
    if len({entry.name for entry in entries}) != len(entries):
        raise ValueError("names a tensor twice")
    return Contents(entries, table["metadata"], table["checkpoint"])


class _Pools:
    """The parts of a file, which its tensors use up one after the other."""

    def __init__(self, parts: Mapping[str, Bytes]) -> None:
        self._parts = parts
        self._used = dict.fromkeys(parts, 0)

    def take(self, name: str, count: int) -> Bytes:
        """The next ``count`` bytes of a part; ValueError where there are fewer."""
        used = self._used.get(name, 0)
        left = self._parts[name].size - used if name in self._parts else 0
        if not 0 <= count <= left:
            raise ValueError(f"asks for {count} bytes of '{name}', of which {left} are left")
        if not count:
            return np.zeros(0, np.uint8)
        self._used[name] = used + count
        return self._parts[name][used : used + count]

    def finish(self) -> None:
        """ValueError where bytes are left over."""
        for name, part in sorted(self._parts.items()):
            if part.size != self._used[name]:
                raise ValueError(f"holds {part.size - self._used[name]} bytes of {name!r:.40} too many")


def _deserialize(content: bytes) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    return found


def _part(name: str, part: Mapping[str, Any]) -> Bytes:
    if part["dtype"] != "U8":
        raise ValueError(f"holds the part {name!r:.40} with dtype {part['dtype']}, expected U8")
    return np.frombuffer(part["data"], np.uint8)


def _named_planes(dtype: str, values: Bytes) -> dict[str, Bytes]:
    """Planes by the names of their parts: those of one dtype lie together, the most significant bytes first."""
    return {f"{dtype}.{number}": plane for number, plane in enumerate(values)}


def _entry(number: int, row: Any, pools: _Pools) -> Entry:
    """One row of the table, with its bytes taken out of ``pools``."""
    kinds = {
        **{"name": str, "dtype": str, "shape": list},
        **{"encoding": str, "nonzero": int, "base": int, "index": int},
    }
    where = f"describes tensor {number}"
    if not isinstance(row, dict) or row.keys() != kinds.keys():
        raise ValueError(f"{where} without exactly {', '.join(kinds)}")
    for key, kind in kinds.items():
        if not isinstance(row[key], kind) or isinstance(row[key], bool):
            raise ValueError(f"{where} with {key} {row[key]!r:.40}")
    if row["dtype"] not in FORMATS:
        raise ValueError(f"{where} with the unknown dtype {row['dtype']!r:.40}")
    shape = row["shape"]
    sound = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 63 for n in shape)
    if not sound or len(shape) > _MOST_AXES or math.prod(shape) >= 1 << 60:
        raise ValueError(f"{where} with the impossible shape {shape!s:.60}")
    width, count, index = FORMATS[row["dtype"]].width, row["nonzero"], row["index"]
    own = {"values": np.stack([pools.take(f"{row['dtype']}.{plane}", count) for plane in range(width)])}
    if row["encoding"] in _INDEXES:
        own[row["encoding"]] = pools.take(row["encoding"], index)
    elif index:
        raise ValueError(f"{where} with {index} bytes of an index that its encoding lacks")
    encoded = Encoded(row["encoding"], row["nonzero"], row["base"], own)
    return Entry(row["name"], row["dtype"], tuple(shape), encoded)


def _refuse(name: str) -> float:
    raise ValueError(f"has {name} in its table, which is no JSON number")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]

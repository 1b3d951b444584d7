"""One tensor as bytes that compress well: which entries are not zero, and the planes of bytes of their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slr_det.storage.frames import estimate

Bytes = NDArray[np.uint8]
Words = NDArray[Any]
"""Bit patterns: a 1-D array of uint8, uint16, uint32 or uint64, little-endian."""

ESCAPE = 255
"""A byte of gaps that says: skip 255 entries and read on."""

_MASK_FROM = 0.25  # from this share of nonzeros on, gaps never beat a mask


@dataclass(frozen=True)
class Format:
    """How a dtype's entries are laid out.

    Attributes:
        width: Bytes of a word.
        words: Words of an entry: 2 for complex numbers.
        real: Whether a word is a floating-point number with its sign in the highest bit.
    """

    width: int
    words: int = 1
    real: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """The words' numpy dtype."""
        return np.dtype(f"<u{self.width}")


#: By safetensors' names of dtypes, and in its manner for those it lacks.
FORMATS = {
    "F64": Format(8, real=True),
    "F32": Format(4, real=True),
    "F16": Format(2, real=True),
    "BF16": Format(2, real=True),
    "F8_E4M3": Format(1),
    "F8_E5M2": Format(1),
    "C128": Format(8, 2, real=True),
    "C64": Format(4, 2, real=True),
    "I64": Format(8),
    "I32": Format(4),
    "I16": Format(2),
    "I8": Format(1),
    "U64": Format(8),
    "U32": Format(4),
    "U16": Format(2),
    "U8": Format(1),
    "BOOL": Format(1),
}


@dataclass(frozen=True)
class Encoded:
    """One tensor, encoded.

    Attributes:
        encoding: ``dense``, ``mask`` or ``gaps``.
        nonzero: Words that are stored: all of them in a dense encoding, else those whose bits are not all zero.
        base: What was subtracted from every stored word.
        parts: ``values`` (width, nonzero), the most significant bytes first, and ``mask`` or ``gaps``.
    """

    encoding: str
    nonzero: int
    base: int
    parts: Mapping[str, Bytes]


def encode(words: Words, layout: Format, *, dense: bool = False) -> Encoded:
    """The smallest of the three encodings.

    Args:
        words: The bit patterns, 1-D. A zero is a word without any bit: -0.0 is a value like any other.
        layout: Their layout.
        dense: Store every word, whatever it is.
    """
    size = words.size
    count = size if dense else int(np.count_nonzero(words))
    if dense or count * layout.width + _least_index(count, size) >= size * layout.width:
        return _dense(words, layout)
    nonzero = words != 0
    index = _index(nonzero, count)
    values, base = _planes(words[nonzero], layout)
    (kind, positions), *_ = index.items()
    if layout.width == 1:  # whole bytes of few kinds may compress better where they stand
        whole = _dense(words, layout)
        if estimate(whole.parts["values"]) <= estimate(values) + estimate(positions):
            return whole
    return Encoded(kind, count, base, {kind: positions, "values": values})


def decode(encoded: Encoded, size: int, layout: Format) -> Words:
    """The words again.

    Args:
        encoded: Parts of any content; nothing about them is taken for granted.
        size: The number of words.
        layout: Their layout.

    Raises:
        ValueError: The parts contradict each other or ``size``: half a sentence that says how.
    """
    kinds = {"dense": ["values"], "mask": ["mask", "values"], "gaps": ["gaps", "values"]}
    if encoded.encoding not in kinds:
        raise ValueError(f"has the unknown encoding {encoded.encoding!r:.40}")
    if sorted(encoded.parts) != kinds[encoded.encoding]:
        raise ValueError(f"has the parts {sorted(encoded.parts)}, expected {kinds[encoded.encoding]}")
    count, values = encoded.nonzero, encoded.parts["values"]
    if not 0 <= count <= size or (encoded.encoding == "dense" and count != size):
        raise ValueError(f"has {count} stored values for {size} entries")
    if not 0 <= encoded.base < 1 << 8 * layout.width:
        raise ValueError(f"has a base that {8 * layout.width} bits do not hold")
    if values.shape != (layout.width, count):
        raise ValueError(f"has values of shape {list(values.shape)}, expected {[layout.width, count]}")
    if encoded.encoding == "dense":
        return _words(values, encoded.base, layout)
    if encoded.encoding == "mask":
        where: NDArray[Any] = _read_mask(encoded.parts["mask"], size, count)
    else:
        where = _read_gaps(encoded.parts["gaps"], size, count)
    words = np.zeros(size, layout.dtype)
    words[where] = _words(values, encoded.base, layout)
    return words


def _least_index(count: int, size: int) -> int:
    """Bytes of the smaller index, before any compression."""
    return min(-(-size // 8), count + size // ESCAPE)


def _dense(words: Words, layout: Format) -> Encoded:
    values, base = _planes(words, layout)
    return Encoded("dense", words.size, base, {"values": values})


def _index(nonzero: NDArray[np.bool_], count: int) -> dict[str, Bytes]:
    mask = np.packbits(nonzero)
    if count > _MASK_FROM * nonzero.size:
        return {"mask": mask}
    gaps = _gaps(np.flatnonzero(nonzero))
    return {"gaps": gaps} if estimate(gaps) <= estimate(mask) else {"mask": mask}


def _gaps(positions: NDArray[np.int64]) -> Bytes:
    """How many zeros precede each position, in bytes: 255 as often as it fits, then the rest."""
    gaps = np.diff(positions, prepend=-1) - 1
    times = gaps // ESCAPE
    if not times.any():
        return gaps.astype(np.uint8)
    found = np.full(gaps.size + int(times.sum()), ESCAPE, np.uint8)
    found[np.cumsum(times + 1) - 1] = gaps - ESCAPE * times
    return found


def _read_gaps(gaps: Bytes, size: int, count: int) -> NDArray[np.int64]:
    if gaps.ndim != 1 or gaps.size > count + size // ESCAPE:
        raise ValueError(f"has {gaps.size} bytes of gaps for {count} values among {size} entries")
    ends = gaps != ESCAPE
    if int(np.count_nonzero(ends)) != count or (gaps.size and not ends[-1]):
        raise ValueError(f"has gaps for {int(np.count_nonzero(ends))} values, expected {count}")
    positions: NDArray[np.int64] = np.cumsum(gaps, dtype=np.int64)[ends]
    positions += np.arange(count)
    if count and positions[-1] >= size:
        raise ValueError(f"has gaps that lead to entry {positions[-1]} of {size}")
    return positions


def _read_mask(mask: Bytes, size: int, count: int) -> NDArray[np.bool_]:
    if mask.shape != (-(-size // 8),):
        raise ValueError(f"has a mask of {mask.size} bytes for {size} entries")
    if size % 8 and int(mask[-1]) & ((1 << (8 - size % 8)) - 1):
        raise ValueError(f"has a mask with bits behind entry {size}")
    where = np.unpackbits(mask, count=size).view(np.bool_)
    if int(np.count_nonzero(where)) != count:
        raise ValueError(f"has a mask of {int(np.count_nonzero(where))} values, expected {count}")
    return where


def _planes(words: Words, layout: Format) -> tuple[Bytes, int]:
    """The words' bytes, plane by plane, and the base that was subtracted.

    A real number's sign moves behind its mantissa, so that the highest plane holds the exponent alone; and words
    count from the smallest magnitude, which for a pruned tensor is its threshold: hardly any exponents are left.
    """
    base = 0
    if layout.real and words.size:
        words = (words << 1) | (words >> (8 * layout.width - 1))
        base = int(words.min()) & ~1
        words -= words.dtype.type(base)
    planes = np.ascontiguousarray(words).view(np.uint8).reshape(-1, layout.width).T[::-1]
    return np.ascontiguousarray(planes), base


def _words(planes: Bytes, base: int, layout: Format) -> Words:
    joined = np.empty((planes.shape[1], layout.width), np.uint8)
    joined[:] = planes[::-1].T
    words: Words = joined.view(layout.dtype).reshape(-1)
    if layout.real:
        words += words.dtype.type(base)
        words = (words >> 1) | (words << (8 * layout.width - 1))
    return words

"""Zstandard around the content: frames of at most a mebibyte, each by the setting that makes it smallest.

What remains of a pruned tensor is noise with a skewed distribution. There matches only cost, and what helps is the
entropy coder; so the first setting hardly looks for matches. Pickles, masks with structure and constants have matches,
which the other settings find. docs/storage.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import numpy as np
import zstandard
from numpy.typing import NDArray

FRAME = 1 << 20
"""Bytes of content in a frame; the last one may have fewer."""

_WINDOW = 20  # log2 of a frame: no frame refers to more
_ENTROPY = zstandard.ZstdCompressionParameters(
    window_log=_WINDOW,
    chain_log=6,
    hash_log=6,
    search_log=1,
    min_match=7,
    target_length=0,
    strategy=zstandard.STRATEGY_FAST,
    write_content_size=True,
)
_USUAL, _THOROUGH = 3, 15
_WORTHWHILE = 0.9  # where the usual setting gains this much, there are matches: look harder for them


def compress(
    content: bytes, sections: Sequence[int] | None = None, progress: Callable[[int], None] = lambda done: None
) -> bytes:
    """``content`` as frames, one behind the other.

    Args:
        content: Any bytes.
        sections: The sizes of its sections, whose statistics differ: no frame is in two of them.
        progress: Told how many bytes are done.
    """
    entropy = zstandard.ZstdCompressor(compression_params=_ENTROPY)
    usual, thorough = (zstandard.ZstdCompressor(level=level) for level in (_USUAL, _THOROUGH))
    view = memoryview(content)
    frames = []
    ends = list(accumulate([len(view)] if sections is None else sections))
    starts = [at for begin, end in pairwise([0, *ends]) for at in range(begin, end, FRAME)]
    for start, end in pairwise([*starts, len(view)]):
        piece = view[start:end]
        tried = [entropy.compress(piece), usual.compress(piece)]
        if len(tried[1]) < _WORTHWHILE * len(tried[0]):
            tried.append(thorough.compress(piece))
        frames.append(min(tried, key=len))
        progress(end)
    return b"".join(frames)


def decompress(frames: bytes, size: int) -> bytearray:
    """The content again: takes ``size`` bytes of memory and one frame, whatever the frames claim.

    Raises:
        ValueError: They are damaged, or hold more or fewer than ``size`` bytes; half a sentence.
    """
    content = bytearray(size)
    view = memoryview(content)
    done = 0
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW)
    try:
        with decompressor.stream_reader(frames, read_across_frames=True) as reader:
            while done < size:
                read = reader.readinto(view[done : done + FRAME])
                if not read:
                    raise ValueError(f"holds {done} bytes of content, expected {size}")
                done += read
            if reader.read(1):
                raise ValueError(f"holds more than the {size} bytes of content that it declares")
    except zstandard.ZstdError as error:
        raise ValueError(f"holds damaged content ({' '.join(str(error).split())[:100]})") from error
    return content


def estimate(part: NDArray[np.uint8]) -> int:
    """About how many bytes ``part`` will take, compressed."""
    return len(zstandard.ZstdCompressor(compression_params=_ENTROPY).compress(part.tobytes()))

"""Passes over the magnitudes of one tensor, as integers, without a temporary of the tensor's size.

The bits of a finite float without the sign bit, read as an integer, rank like its magnitude; an infinity ranks
above every number and a NaN above infinity, so comparisons of these *keys* are a total order for every input.
On the host a key is made and compared one cache-sized chunk at a time (NumPy's loops beat PyTorch's here, several
times for those that write bools); on an accelerator in large chunks, where each step is one kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

INTEGERS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
HOST_CHUNK = 1 << 16  # 256 KiB of float32 keys: stays in a core's second-level cache
DEVICE_CHUNK = 1 << 25

Keys = NDArray[np.integer[Any]]


def largest_key(dtype: torch.dtype) -> int:
    """All bits but the sign bit of a float type."""
    return int(torch.iinfo(INTEGERS[dtype]).max)


def magnitude_keys(tensor: Tensor) -> Tensor:
    """The keys of a whole tensor, an integer tensor of its shape."""
    return tensor.view(INTEGERS[tensor.dtype]) & largest_key(tensor.dtype)


def row_chunks(tensor: Tensor, multiple: int = 1) -> Iterator[slice]:
    """Slices of dim 0 that cut a tensor into parts small enough to work on, each a multiple of ``multiple`` rows."""
    size = HOST_CHUNK * 4 if tensor.device.type == "cpu" else DEVICE_CHUNK
    rows = max(1, size * tensor.shape[0] // max(1, tensor.numel()) // multiple) * multiple
    return (slice(start, start + rows) for start in range(0, tensor.shape[0], rows))


def squares(part: Tensor) -> Tensor:
    """The squares of a part in float64, where those of float32 values are exact."""
    return part.to(torch.float64, copy=True).square_()


class Scan(Protocol):
    """What selecting the largest entries asks about one tensor."""

    def sample(self, start: int, stride: int) -> Keys:
        """The keys of entries start, start + stride, ..."""

    def between(self, low: int, high: int) -> tuple[int, Keys]:
        """How many keys are above ``low``, and those strictly between ``low`` and ``high``."""

    def above(self, key: int) -> int:
        """How many keys are above ``key``."""

    def histogram(self, prefix: int, shift: int, bits: int) -> Keys:
        """Of the keys that continue ``prefix``, how many have each value of the ``bits`` bits above ``shift``."""

    def mark(self, threshold: int, ties: int | None) -> tuple[Tensor, int]:
        """Bool mask of the keys above ``threshold`` and of the first ``ties`` (None: all) equal to it.

        Also returns how many of the latter there were.
        """


def scan(flat: Tensor) -> Scan:
    """A scan of a contiguous 1-d float tensor, on the host or on the device where it lies."""
    return _HostScan(flat) if flat.device.type == "cpu" else _DeviceScan(flat)


class _HostScan:
    """Chunks of keys in one small buffer."""

    def __init__(self, flat: Tensor) -> None:
        self._bits: Keys = flat.view(INTEGERS[flat.dtype]).numpy()
        self._largest = self._bits.dtype.type(largest_key(flat.dtype))

    def _chunks(self) -> Iterator[tuple[int, Keys]]:
        buffer = np.empty(min(HOST_CHUNK, self._bits.size), self._bits.dtype)
        for start in range(0, self._bits.size, HOST_CHUNK):
            part = self._bits[start : start + HOST_CHUNK]
            yield start, np.bitwise_and(part, self._largest, out=buffer[: part.size])

    def sample(self, start: int, stride: int) -> Keys:
        return self._bits[start::stride] & self._largest

    def between(self, low: int, high: int) -> tuple[int, Keys]:
        above, found = 0, []
        first, second = (np.empty(min(HOST_CHUNK, self._bits.size), bool) for _ in range(2))
        for _, keys in self._chunks():
            over = np.greater(keys, low, out=first[: keys.size])
            above += int(np.count_nonzero(over))
            inside = np.logical_and(over, np.less(keys, high, out=second[: keys.size]), out=over)
            found.append(keys[np.flatnonzero(inside)])
        return above, np.concatenate(found)

    def above(self, key: int) -> int:
        return sum(int(np.count_nonzero(keys > key)) for _, keys in self._chunks())

    def histogram(self, prefix: int, shift: int, bits: int) -> Keys:
        counts = np.zeros(1 << bits, np.int64)
        for _, keys in self._chunks():
            digits = (keys >> shift) - (prefix << bits)
            digits = digits[(digits >= 0) & (digits < 1 << bits)]
            counts += np.bincount(digits, minlength=1 << bits)
        return counts

    def mark(self, threshold: int, ties: int | None) -> tuple[Tensor, int]:
        mask = np.empty(self._bits.size, bool)
        seen = 0
        for start, keys in self._chunks():
            part = mask[start : start + keys.size]
            if ties is None:
                np.greater_equal(keys, threshold, out=part)
                continue
            np.greater(keys, threshold, out=part)
            if seen < ties:
                equal = np.flatnonzero(keys == threshold)
                part[equal[: ties - seen]] = True
                seen += equal.size
        return torch.from_numpy(mask), min(seen, ties or 0)


class _DeviceScan:
    """The same in whole-tensor steps; results come to the host once per pass."""

    def __init__(self, flat: Tensor) -> None:
        self._flat = flat

    def _chunks(self) -> Iterator[Tensor]:
        return (magnitude_keys(part) for part in torch.split(self._flat, DEVICE_CHUNK))

    def sample(self, start: int, stride: int) -> Keys:
        return _host(magnitude_keys(self._flat[start::stride]))

    def between(self, low: int, high: int) -> tuple[int, Keys]:
        above: list[Tensor] = []
        found: list[Tensor] = []
        for keys in self._chunks():
            over = keys > low
            above.append(over.sum())
            found.append(keys[over & (keys < high)])
        return int(torch.stack(above).sum()), _host(torch.cat(found))

    def above(self, key: int) -> int:
        return int(torch.stack([(keys > key).sum() for keys in self._chunks()]).sum())

    def histogram(self, prefix: int, shift: int, bits: int) -> Keys:
        counts = self._flat.new_zeros(1 << bits, dtype=torch.int64)
        for keys in self._chunks():
            digits = (keys >> shift) - (prefix << bits)
            digits = digits[(digits >= 0) & (digits < 1 << bits)]
            counts += torch.bincount(digits, minlength=1 << bits)
        return _host(counts)

    def mark(self, threshold: int, ties: int | None) -> tuple[Tensor, int]:
        masks, seen = [], 0
        for keys in self._chunks():
            if ties is None:
                masks.append(keys >= threshold)
                continue
            mask = keys > threshold
            if seen < ties:
                equal = (keys == threshold).nonzero().squeeze(1)
                mask[equal[: ties - seen]] = True
                seen += equal.numel()
            masks.append(mask)
        return torch.cat(masks), min(seen, ties or 0)


def _host(keys: Tensor) -> Keys:
    array: Keys = keys.cpu().numpy()
    return array


def keep_entries(tensor: Tensor, mask: Tensor, out: Tensor) -> Tensor:
    """``out`` <- ``tensor`` where ``mask`` is True, +0.0 elsewhere (a product would leave -0.0, and NaN for inf * 0).

    Args:
        tensor: Floats of any shape and layout.
        mask: Bool tensor of the same shape.
        out: Tensor of the same shape and dtype to write to; may be ``tensor`` itself.

    Returns:
        ``out``.
    """
    with torch.no_grad():
        parts = (tensor.detach(), mask, out.detach())
        integer = INTEGERS.get(tensor.dtype)
        on_host = all(part.device.type == "cpu" and part.is_contiguous() for part in parts)
        if integer is not None and out.dtype == tensor.dtype and on_host:
            # Bits times 0 or 1: a third of the time that torch.where takes on one thread.
            source, keep, target = (
                parts[0].view(integer).numpy(),
                mask.numpy(),
                parts[2].view(integer).numpy(),
            )
            np.multiply(source, keep, out=target)
        else:
            torch.where(mask, parts[0], parts[0].new_zeros(()), out=parts[2])
    return out

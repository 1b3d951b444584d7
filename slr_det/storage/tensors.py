"""Tensors by name, in one small file and back, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slr_det.errors import DataError
from slr_det.files import atomic_write
from slr_det.storage.container import Contents, Entry, Progress, decoded, read, write
from slr_det.storage.sparse import FORMATS, Words, encode

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex128: "C128",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TORCH = {name: dtype for dtype, name in DTYPES.items()}


def save(
    tensors: Mapping[str, Tensor],
    path: str | Path,
    metadata: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write tensors to ``path``, losslessly.

    Args:
        tensors: Any shapes, strides and devices, of the dtypes in :data:`DTYPES`. Tensors that share memory are stored
            one by one.
        path: The file; it is replaced as a whole or not at all.
        metadata: What else to keep: plain JSON values (tuples come back as lists).
        progress: Called while it works.

    Returns:
        ``path``.

    Raises:
        DataError: A name is no string, a value is no tensor, a tensor has no plain values (sparse, quantised, on no
            device), or the metadata are no JSON.
        StorageError: The file cannot be written; what was there is intact.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise DataError(f"{name!r:.80} is a {type(tensor).__name__}, expected a tensor")
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    done = 0
    entries = []
    for name, tensor in tensors.items():
        entries.append(_entry(name, tensor))
        done += entries[-1].bytes
        if progress is not None:
            progress("encoding", done, total)
    return atomic_write(path, write(Contents(entries, _metadata(metadata or {})), progress))


def load(path: str | Path, *, limit: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save` wrote.

    From a packed checkpoint it reads the storages, 1-D, by the names of their records: what views of them the model
    has, only the checkpoint itself says, which :func:`slr_det.storage.unpack` gives back.

    Args:
        path: The file.
        limit: The most bytes that it may unpack to; None for 256 MiB and 1024 times the file's size.

    Returns:
        The tensors, on the CPU, and the metadata.

    Raises:
        CheckpointError: One line: no such file, or one that is foreign, damaged, or larger than allowed.
    """
    contents = read(path, limit)
    return tensors_of(contents, str(path)), dict(contents.metadata)


def tensors_of(contents: Contents, source: str) -> dict[str, Tensor]:
    """The tensors of the file ``source``; CheckpointError where the parts of one contradict each other."""
    return {entry.name: _tensor(entry, decoded(entry, source)) for entry in contents.entries}


def _entry(name: str, tensor: Tensor) -> Entry:
    if not isinstance(name, str):
        raise DataError(f"a tensor's name is {name!r:.40}, expected a string")
    plain = tensor.layout == torch.strided and tensor.dtype in DTYPES and tensor.device.type != "meta"
    if not plain:
        raise DataError(
            f"tensor {name!r:.80} is {tensor.dtype} with layout {tensor.layout} on {tensor.device}; expected a dense "
            "tensor of numbers"
        )
    dtype = DTYPES[tensor.dtype]
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    layout = FORMATS[dtype]
    words: Words = flat.view(torch.uint8).numpy().view(layout.dtype)
    return Entry(name, dtype, tuple(tensor.shape), encode(words, layout))


def _tensor(entry: Entry, words: Words) -> Tensor:
    if not words.size:
        return torch.empty(entry.shape, dtype=_TORCH[entry.dtype])
    return torch.from_numpy(words.view(np.uint8)).view(_TORCH[entry.dtype]).reshape(entry.shape)


def _metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"metadata are no plain JSON values ({error})") from error
    found: dict[str, Any] = json.loads(text)
    return found

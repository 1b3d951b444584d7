"""Files of rank 0 for the ranks that lack them: nodes need not share a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_CHUNK = 1 << 26  # bytes


def described(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Path, size and SHA-256 of those of the paths that are files, each once."""
    found = []
    for path in dict.fromkeys(str(path) for path in paths):
        if Path(path).is_file():
            found.append({"path": path, "size": Path(path).stat().st_size, "sha256": _digest(Path(path))})
    return found


def fetch(files: Sequence[Mapping[str, Any]], scratch: Path, device: torch.device) -> dict[str, Path]:
    """Bring files of rank 0 to every rank; all ranks call this together, within a process group.

    A rank that has the very same file at the same path keeps to it; a file that any rank lacks is sent.

    Args:
        files: What :func:`described` gave on rank 0.
        scratch: Where a rank puts what it lacks.
        device: Of the tensors that are exchanged.

    Returns:
        Where each file is for this rank, by its path on rank 0.
    """
    lacking = [not _same(file) for file in files]
    flags = torch.tensor([int(lacks) for lacks in lacking], dtype=torch.int32, device=device)
    if files:
        dist.all_reduce(flags, dist.ReduceOp.MAX)
    places: dict[str, Path] = {}
    for number, (file, lacks, sent) in enumerate(zip(files, lacking, flags.tolist(), strict=True)):
        path = Path(file["path"])
        target = scratch / str(number) / path.name if lacks else None
        places[file["path"]] = target or path
        if sent:
            _send(path, int(file["size"]), target, device)
    return places


def _send(source: Path, size: int, target: Path | None, device: torch.device) -> None:
    first = dist.get_rank() == 0
    if target is not None:
        target.parent.mkdir(parents=True)
    # Every rank takes part in a broadcast; those that have the file drop what arrives.
    name = source if first else target
    with Path(name or "/dev/null").open("rb" if first else "wb") as file:
        for begin in range(0, size, _CHUNK):
            count = min(_CHUNK, size - begin)
            if first:
                content = torch.frombuffer(bytearray(file.read(count)), dtype=torch.uint8).to(device)
            else:
                content = torch.empty(count, dtype=torch.uint8, device=device)
            dist.broadcast(content, 0)
            if target is not None:
                file.write(content.cpu().numpy().tobytes())


def _same(file: Mapping[str, Any]) -> bool:
    path = Path(file["path"])
    if dist.get_rank() == 0:
        return True
    return path.is_file() and path.stat().st_size == file["size"] and _digest(path) == file["sha256"]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Where generated data sets live: made once for each set of parameters, in a cache folder, as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slr_det.errors import ConfigError, StorageError


def cache_dir() -> Path:
    """Return ``$SLR_DET_CACHE``, or ``~/.cache/slr_det`` where that is unset."""
    return Path(os.environ.get("SLR_DET_CACHE") or Path.home() / ".cache" / "slr_det").expanduser().absolute()


def check_counts(what: str, name: str, unit: str, counts: Sequence[int], splits: Sequence[str]) -> list[str]:
    """Return one problem for every count below 1: ``what: name: 0 train unit, expected at least 1``."""
    return [
        f"{what}: {name}: {count} {split} {unit}, expected at least 1"
        for split, count in zip(splits, counts, strict=True)
        if count < 1
    ]


def frames_to_make(what: str, frames: Sequence[int], splits: Sequence[str], seed: int) -> None:
    """Raise ConfigError for a set that has no frames in a split, or a negative seed."""
    problems = check_counts(what, "frames", "frames", frames, splits)
    if seed < 0:
        problems.append(f"{what}: seed: {seed}, expected 0 or more")
    if problems:
        raise ConfigError(problems)


def generated_folder(
    root: str | Path | None,
    name: str,
    parameters: Mapping[str, Any],
    write: Callable[[Path, tqdm[Any]], None],
    *,
    last_file: str,
    what: str,
    total: int,
    unit: str = "frame",
    progress: bool | None = None,
) -> Path:
    """Find a generated set in the cache, or make it.

    It appears only once it is complete; two processes may make the same set at once. A damaged one, without its last
    file, is replaced.

    Args:
        root: Folder that holds the sets, default :func:`cache_dir`.
        name: First part of the set's name, with the version of its generator.
        parameters: What the set depends on; a key of it is the second part of the name.
        write: Writes the set into a folder, and moves the bar on.
        last_file: What the set lacks if it is not complete.
        what: What the set is called in messages and in the bar.
        total: What the bar counts up to.
        unit: What it counts.
        progress: Show a bar; None shows it on a terminal only.

    Raises:
        StorageError: The folder cannot be written.
    """
    key = hashlib.sha256(json.dumps(dict(parameters), sort_keys=True).encode()).hexdigest()[:10]
    base = Path(root).expanduser().absolute() if root is not None else cache_dir()
    folder = base / f"{name}-{key}"
    try:
        if not (folder / last_file).is_file():
            folder.parent.mkdir(parents=True, exist_ok=True)
            hidden = None if progress is None else not progress
            with tqdm(total=total, desc=f"generating {what}", unit=unit, disable=hidden) as bar:
                _make(folder, last_file, lambda scratch: write(scratch, bar))
    except OSError as error:
        raise StorageError(
            f"cannot write the generated data ({what}) to {folder} ({error.strerror or error}): "
            "set SLR_DET_CACHE to a folder with space that can be written"
        ) from error
    return folder


def _make(folder: Path, last_file: str, write: Callable[[Path], None]) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(scratch)
        scratch.chmod(0o755)
        try:
            scratch.rename(folder)
        except OSError:
            # Another process finished first; its set is the same. A damaged leftover is replaced.
            if not (folder / last_file).is_file():
                shutil.rmtree(folder)
                scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)

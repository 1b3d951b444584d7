"""Folders of links beside a user's data, so that nothing is ever written into the data themselves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from slr_det.data.reading import load_yaml
from slr_det.errors import DataError, StorageError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
DATA_FILE = "data.yaml"

#: Raised whenever the same data would give another mirror.
_VERSION = 2
_EXIF_ORIENTATION = 274
_SIDEWAYS = frozenset({5, 6, 7, 8})


def image_files(folder: Path) -> list[Path]:
    """Return the images in a folder and below, sorted, hidden ones left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) in pixels as a viewer shows the image (EXIF turns applied), from the header alone.

    Raises:
        DataError: the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            sideways = image.format in ("JPEG", "MPO") and image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image") from error
    # ultralytics replaces Image.open by one that, for an unreadable image, imports a decoder that may be missing.
    except (OSError, SyntaxError, ValueError, ImportError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from error
    return (height, width) if sideways else (width, height)


def fingerprint(what: str, files: Iterable[Path]) -> str:
    """Return a short key that changes when a file is added, removed, resized or touched."""
    digest = hashlib.sha256(f"{_VERSION} {what}".encode())
    for file in files:
        state = file.stat()
        digest.update(f"{file} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:10]


def link_names(files: Sequence[str]) -> list[str]:
    """Return a file name for each path, made unique where two stems agree (labels are found by the stem).

    >>> link_names(["a/1.jpg", "b/1.jpg", "2.png"])
    ['1-0.jpg', '1-1.jpg', '2.png']
    """
    stems = Counter(Path(file).stem for file in files)
    names = []
    for number, file in enumerate(files):
        path = Path(file)
        name = path.name
        if stems[path.stem] > 1:
            name = f"{path.stem}-{number}{path.suffix}"
            while Path(name).stem in stems:
                name = f"{Path(name).stem}_{path.suffix}"
        names.append(name)
    return names


def link(source: Path, target: Path) -> None:
    """Make a symbolic link to a file, or a copy where the system allows no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source.absolute())
    except OSError:
        shutil.copyfile(source, target)


def reuse(target: Path) -> Path | None:
    """Return the data file of a finished mirror, or None where there is none or it was made in another place."""
    file = target / DATA_FILE
    if file.is_file() and load_yaml(file).get("path") == str(target):
        return file
    return None


@contextlib.contextmanager
def building(target: Path) -> Iterator[Path]:
    """Give a scratch folder that takes the name ``target`` only when the block ends without an error.

    Where another process has finished the same mirror meanwhile, that one stays.

    Raises:
        StorageError: the folder cannot be written.
    """
    scratch: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        yield scratch
        if reuse(target) is None:
            shutil.rmtree(target, ignore_errors=True)
            scratch.rename(target)
    except OSError as error:
        raise StorageError(
            f"{target}: cannot be written ({error.strerror or error}); choose a work folder with space"
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def write_data_file(scratch: Path, target: Path, content: Mapping[str, Any]) -> None:
    """Write the data YAML of a mirror whose ``images/train`` and ``images/val`` are in place."""
    document = {"path": str(target), "train": "images/train", "val": "images/val", **content}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    (scratch / DATA_FILE).write_text(text, encoding="utf-8")


def write_index(file: Path, ids: Mapping[str, Any]) -> None:
    """Write image ids by link name."""
    file.write_text(json.dumps(ids), encoding="utf-8")

"""Small classification data sets in the real formats, written on the spot."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RECORD = 3073


def pixels(seed: int, height: int = 32, width: int = 32) -> NDArray[np.uint8]:
    """Noise that is another for each seed, (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(seed: int, height: int = 32, width: int = 32, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(seed, height, width)).save(stream, kind, **options)
    return stream.getvalue()


def image_folder(per_class: int, classes: str = "abc", val: str = "val", **options: Any) -> dict[str, bytes]:
    """Contents by name of a data set in ImageFolder layout; image i of the whole set has the noise of seed i."""
    names = [f"{s}/{c}/{i:03d}.png" for s in ("train", val) for c in classes for i in range(per_class)]
    return {name: encode(seed, **options) for seed, name in enumerate(names)}


def write(folder: Path, contents: Mapping[str, bytes]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pack(path: Path, contents: Mapping[str, bytes]) -> Path:
    """A tar archive, compressed as its name says."""
    kind = path.suffix.removeprefix(".").replace("tgz", "gz")
    with tarfile.open(path, f"w:{kind}" if kind != "tar" else "w") as tar:  # type: ignore[call-overload]
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def cifar10_binary(per_batch: int = 20) -> dict[str, bytes]:
    """CIFAR-10's six batches: record i of the whole set has label i mod 10 and the noise of seed i."""
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    contents = {}
    for batch, name in enumerate(names):
        seeds = range(batch * per_batch, (batch + 1) * per_batch)
        contents[name] = b"".join(
            bytes([seed % 10]) + pixels(seed).transpose(2, 0, 1).tobytes() for seed in seeds
        )
    words = "airplane automobile bird cat deer dog frog horse ship truck".split()
    return {**contents, "batches.meta.txt": ("\n".join(words) + "\n\n").encode()}

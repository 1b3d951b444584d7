"""Which images of a split can be read? The others are named and left out, up to a limit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from slr_det.data import pictures
from slr_det.data.splits import FileSplit, MemorySplit
from slr_det.data.tree import Tree
from slr_det.errors import DataError

#: Share of a split's images that may be unreadable.
LIMIT = 0.01

_NAMED = 3
#: Images per task of a thread: one task an image would cost more than the look at it.
_CHUNK = 256


@dataclass
class ImageScan:
    """The images of one split on their way into memory, or into a list of files.

    Attributes:
        tree: Where they are.
        folder: The split's folder.
        names: Image names; those that turn out corrupt go.
        labels: int64, (N,), beside ``names``.
        sizes: The sizes seen, (height, width) in pixels.
        corrupt: What is wrong, by name.
    """

    tree: Tree
    folder: str
    names: list[str]
    labels: NDArray[np.int64]
    sizes: set[tuple[int, int]] = field(default_factory=set)
    corrupt: dict[str, str] = field(default_factory=dict)
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = len(self.names)

    def inspect(self) -> None:
        """Look at the header and the end of every image, in threads, since a disk or network answers slowly."""
        good = np.ones(len(self.names), dtype=bool)
        for index, seen in enumerate(self._look()):
            if isinstance(seen, str):
                self.corrupt[self.names[index]] = seen
                good[index] = False
            else:
                self.sizes.add(seen)
        self._keep(good)

    def decode(self, size: tuple[int, int]) -> MemorySplit:
        """Decode every image, all of one size, (height, width) in pixels."""
        pixels = np.empty((len(self.names), *size, 3), dtype=np.uint8)
        good = np.ones(len(self.names), dtype=bool)
        for index, name in enumerate(self._bar("decoding")):
            try:
                image = pictures.decode(self.tree.path(name), self.tree.encoded(name))
            except DataError:
                self.corrupt[name] = "cannot be decoded"
                good[index] = False
            else:
                pixels[index] = np.asarray(image)
        self._keep(good)
        images = torch.from_numpy(pixels if good.all() else pixels[good])
        return MemorySplit(images.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(self.labels))

    def files(self) -> FileSplit:
        """Return the images as files that are decoded later."""
        encoded = [self.tree.encoded(name) for name in self.names]
        held = tuple(content for content in encoded if content is not None)
        return FileSplit(
            tuple(self.tree.path(name) for name in self.names),
            torch.from_numpy(self.labels),
            held if len(held) == len(encoded) else None,
        )

    def judge(self, classes: Sequence[str], say: Callable[[str], object]) -> None:
        """Name the corrupt images, or refuse the split.

        Raises:
            DataError: more than 1 % of the images are corrupt, or all of a class.
        """
        if not self.corrupt:
            return
        named = [f"{self.tree.path(name)}: {why}" for name, why in list(self.corrupt.items())[:_NAMED]]
        count = f"{len(self.corrupt)} of {self.total} images"
        if len(self.corrupt) > LIMIT * self.total:
            raise DataError(
                f"{self.tree.path(self.folder)}: {count} cannot be read, more than {LIMIT:.0%} ({'; '.join(named)}"
                f"{'; ...' if len(self.corrupt) > _NAMED else ''}); replace or delete them"
            )
        left = np.bincount(self.labels, minlength=len(classes))
        if not left.all():
            raise DataError(
                f"{self.tree.path(self.folder)}: no image of class '{classes[int(left.argmin())]}' can be read "
                f"({named[0]}); replace them"
            )
        for line in named:
            say(f"{line}; skipped")
        if len(self.corrupt) > _NAMED:
            say(f"{self.tree.path(self.folder)}: {count} cannot be read and are skipped")

    def _keep(self, good: NDArray[np.bool_]) -> None:
        self.names = [name for name, ok in zip(self.names, good, strict=True) if ok]
        self.labels = self.labels[good]

    def _look(self) -> Iterator[tuple[int, int] | str]:
        chunks = [self.names[start : start + _CHUNK] for start in range(0, len(self.names), _CHUNK)]
        with (
            ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads,
            tqdm(total=len(self.names), desc=f"looking at {self.folder}", unit="img", disable=None) as bar,
        ):
            for seen in threads.map(self._look_at, chunks):
                bar.update(len(seen))
                yield from seen

    def _look_at(self, names: Sequence[str]) -> list[tuple[int, int] | str]:
        return [pictures.inspect(self.tree.path(name), self.tree.encoded(name)) for name in names]

    def _bar(self, what: str) -> Iterator[str]:
        yield from tqdm(self.names, desc=f"{what} {self.folder}", unit="img", disable=None)

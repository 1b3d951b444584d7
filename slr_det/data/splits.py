"""What a classification data set is once it was read: its classes, two splits, and the scale of its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slr_det.data.pictures import decode, to_tensor

if TYPE_CHECKING:
    from PIL import Image

#: Mean and standard deviation per channel (red, green, blue; values in [0, 1]) of ImageNet's training images.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class MemorySplit:
    """Small images of one size, all in memory.

    Attributes:
        images: uint8, (N, channels, height, width).
        labels: int64, (N,), indices into the classes.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Tensor:
        """Return image ``index`` as uint8 (channels, height, width): a view, not a copy."""
        return self.images[index]

    def take(self, indices: NDArray[np.int64]) -> MemorySplit:
        """Return the split of these images only, in this order."""
        chosen = torch.from_numpy(indices)
        return MemorySplit(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True, eq=False)
class FileSplit:
    """Images that are decoded when they are asked for.

    Attributes:
        paths: One name an image. For a member of an archive it is ``ARCHIVE/MEMBER``, which no file has.
        labels: int64, (N,), indices into the classes.
        encoded: The files' bytes where they came out of an archive, else None.
    """

    paths: tuple[str, ...]
    labels: Tensor
    encoded: tuple[bytes, ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, index: int) -> Image.Image:
        """Decode image ``index`` in RGB, its pixels as stored (EXIF turns are not applied).

        Raises:
            DataError: the file cannot be decoded; the message names it. Scanning looks at headers and ends only.
        """
        return decode(self.paths[index], None if self.encoded is None else self.encoded[index])

    def image(self, index: int) -> Tensor:
        """Return image ``index`` as uint8 (3, height, width); raises as :meth:`open`."""
        return to_tensor(self.open(index))

    def take(self, indices: NDArray[np.int64]) -> FileSplit:
        """Return the split of these images only, in this order."""
        encoded = None if self.encoded is None else tuple(self.encoded[i] for i in indices)
        return FileSplit(
            tuple(self.paths[i] for i in indices), self.labels[torch.from_numpy(indices)], encoded
        )


#: Both have ``len()``, ``labels``, ``image(index)`` and ``take(indices)``.
Split = MemorySplit | FileSplit


@dataclass(frozen=True)
class ClassificationData:
    """A classification data set, ready to train on.

    Attributes:
        classes: Class names; a label is an index into them.
        train: Training images.
        val: Images for validation.
        channels: Channels of every image: 3, or 1 for the digits.
        size: (height, width) in pixels, None where images differ.
        mean: Per channel, of pixels in [0, 1]; goes with ``std`` into :func:`slr_det.data.augment.normalise`.
        std: Per channel, of pixels in [0, 1].
        skipped: Names of the images that could not be read and are in neither split.
    """

    classes: tuple[str, ...]
    train: Split
    val: Split
    channels: int
    size: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: tuple[str, ...] = ()

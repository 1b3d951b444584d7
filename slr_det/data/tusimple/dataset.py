"""TuSimple as a data set of PyTorch: frames of a network's size and targets at its row anchors."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from slr_det.data.augment import normalise
from slr_det.data.pictures import decode, to_tensor
from slr_det.data.tusimple.anchors import (
    ANCHOR_HEIGHT,
    GRIDING,
    LABEL_SIZE,
    ROW_ANCHORS,
    marks_to_targets,
)
from slr_det.data.tusimple.augment import Augmentation, draw_motion, move_image, move_marks
from slr_det.data.tusimple.folder import TuSimpleFolder, check_shape
from slr_det.data.tusimple.labels import LaneRow
from slr_det.errors import ConfigError

#: Mean and standard deviation of ImageNet's colours, of pixels in [0, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# The auxiliary head sees an eighth of the picture's height and width.
_STRIDE = 8


#: Pixels and packed marks by the place of the label, the name of the picture and the network's size: 921,600 marks are
#: some ten thousand bytes.
Cache = dict[tuple[str, str, tuple[int, int]], tuple[bytes, bytes]]


class LaneItem(NamedTuple):
    """What a network gets of one frame; PyTorch's own collation makes batches of it.

    Attributes:
        image: (3, height, width) float32, normalised as ImageNet's pictures.
        target: (rows, 4) int64, the cell of each lane at each row anchor, or the number of cells for "no lane here".
        segmentation: (height / 8, width / 8) int64, 1 to 4 on the lanes and else 0, for the auxiliary head.
        row: Number of the frame's label in ``rows`` of the data set.
    """

    image: Tensor
    target: Tensor
    segmentation: Tensor
    row: int


class TuSimpleDataset(Dataset[LaneItem]):
    """The frames of a split.

    A frame is scaled to the size of the network, whatever its own. For training it may be turned and shifted, and its
    lanes with it; that depends on ``seed``, the epoch and the index alone, so it is the same for any number of workers
    and processes and after a resume: call :meth:`set_epoch` before each epoch (also workers that persist see it).
    Lanes are extended downwards to the border of the picture, with and without training, as upstream does.

    Args:
        folder: The data set on disk.
        split: ``train``, ``val`` or ``test``.
        size: Height and width that the network takes, multiples of 8.
        row_anchors: Heights in a picture 288 pixels high, ascending.
        griding: Number of cells across the picture.
        training: Vary the frames.
        augmentation: How training frames are varied; None: not at all.
        seed: 0 or more.
        cache: Where to keep what is read, the pictures at the network's size, so that no file is decoded twice; data
            sets of the same files may share one. None: nowhere.

    Attributes:
        rows: The label of each frame.

    Raises:
        ConfigError: a size, anchors, number of cells or seed out of range, or an unknown split.
        DataError: as :meth:`TuSimpleFolder.split` says.
    """

    def __init__(
        self,
        folder: TuSimpleFolder,
        split: str,
        size: tuple[int, int] = (288, 800),
        *,
        row_anchors: Sequence[int] = ROW_ANCHORS,
        griding: int = GRIDING,
        training: bool = False,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        cache: Cache | None = None,
    ) -> None:
        _check(size, row_anchors, griding, seed)
        self.folder = folder
        self.rows = folder.split(split)
        self.size = size
        self.row_anchors = tuple(row_anchors)
        self.griding = griding
        self.augmentation = augmentation if training else None
        self.seed = seed
        self.cache = cache
        # In shared memory, so that workers which live for several epochs see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0 on, whose variations of the frames come next."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.rows)

    def __getitem__(self, index: int) -> LaneItem:
        """Read and prepare a frame; DataError names an image that is missing, damaged or of other proportions."""
        index = range(len(self.rows))[index]
        row = self.rows[index]
        image, marks = self._read(row) if self.cache is None else self._remembered(row, self.cache)
        height, width = self.size
        if self.augmentation is not None:
            generator = np.random.default_rng([self.seed, int(self._epoch), index])
            motion = draw_motion(self.augmentation, generator)
            image, marks = move_image(image, motion), move_marks(marks, motion)
        small = Image.fromarray(marks).resize((width // _STRIDE, height // _STRIDE), Image.Resampling.NEAREST)
        return LaneItem(
            normalise(to_tensor(image)[None], MEAN, STD)[0],
            torch.from_numpy(marks_to_targets(marks, self.row_anchors, self.griding)),
            torch.from_numpy(np.array(small, dtype=np.int64)),
            index,
        )

    def _read(self, row: LaneRow) -> tuple[Image.Image, NDArray[np.uint8]]:
        """The picture of a frame at the network's size, and its marks."""
        path = self.folder.image(row)
        image = decode(str(path))
        check_shape(path, image.size)
        return image.resize(self.size[::-1], Image.Resampling.BILINEAR), self.folder.marks(row)

    def _remembered(self, row: LaneRow, cache: Cache) -> tuple[Image.Image, NDArray[np.uint8]]:
        key = (row.where, row.raw_file, self.size)
        if key not in cache:
            image, marks = self._read(row)
            cache[key] = image.tobytes(), zlib.compress(marks.tobytes(), 1)
        pixels, packed = cache[key]
        unpacked = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(LABEL_SIZE[::-1])
        return Image.frombytes("RGB", self.size[::-1], pixels), unpacked


def _check(size: tuple[int, int], row_anchors: Sequence[int], griding: int, seed: int) -> None:
    problems = []
    if any(length < _STRIDE or length % _STRIDE for length in size):
        problems.append(f"size: {size[0]} x {size[1]}, expected height and width in multiples of {_STRIDE}")
    anchors = list(row_anchors)
    if not anchors or anchors != sorted(set(anchors)) or anchors[0] < 0 or anchors[-1] >= ANCHOR_HEIGHT:
        problems.append(f"row_anchors: {anchors}, expected ascending numbers from 0 to {ANCHOR_HEIGHT - 1}")
    if griding < 2:
        problems.append(f"griding: {griding}, expected 2 cells or more")
    if seed < 0:
        problems.append(f"seed: {seed}, expected 0 or more")
    if problems:
        raise ConfigError([f"TuSimple data set: {problem}" for problem in problems])

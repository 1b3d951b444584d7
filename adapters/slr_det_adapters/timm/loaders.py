"""Batches of images: small ones cropped and flipped as a whole batch in memory, photographs by timm's transforms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from slr_det.data.augment import augment_batch, normalise
from slr_det.data.classification import ClassificationData, FileSplit, MemorySplit, Split
from slr_det.data.image_scan import LIMIT
from slr_det.errors import DataError
from slr_det_adapters.randomness import reseed, untouched_generators
from slr_det_adapters.timm import models
from slr_det_adapters.timm.arguments import Arguments
from slr_det_adapters.timm.cards import Card
from slr_det_adapters.timm.datasets import warn

#: Images that a forward pass without gradients takes at once, where they are small.
_SMALL_IMAGES = 250
#: Images per batch of statistics, at most.
_STATISTICS = 256

Batch = dict[str, Tensor]


class Images(Dataset[Any]):
    """Items of a split: an index where images are in memory, else one transformed photograph and its label.

    The scan of a data set looks at an image's header and end; what cannot be decoded shows here. In training the next
    image that can takes its place. In evaluation it counts for nothing: a black image with the label -1 stands for it,
    so that batches keep their size. The workers of a loader share the marks of what was met.

    Args:
        split: The images.
        transform: Turns a photograph into the model's input, (channels, height, width); None for images in memory.
        blank: Stands for what cannot be decoded.
        replace: Whether another image takes its place.
        shared: Whether other processes read the images.
    """

    def __init__(
        self,
        split: Split,
        transform: Callable[[Any], Tensor] | None,
        blank: Tensor,
        *,
        replace: bool,
        shared: bool,
    ) -> None:
        self.split = split
        self.transform = transform
        self.blank = blank
        self.replace = replace
        self.unreadable = torch.zeros(len(split) if isinstance(split, FileSplit) else 0, dtype=torch.uint8)
        if shared:
            self.unreadable.share_memory_()  # type: ignore[no-untyped-call]
        self._named: set[int] = set()

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.split, MemorySplit) or self.transform is None:
            return index
        for step in range(len(self.split) if self.replace else 1):
            place = (index + step) % len(self.split)
            try:
                return self.transform(self.split.open(place)), self.split.labels[place]
            except DataError:
                self.unreadable[place] = 1
                if self._too_many(int(torch.count_nonzero(self.unreadable))):
                    break  # the process that gets the batch stops the run, see judge()
        return self.blank, torch.tensor(-1)

    def _too_many(self, count: int) -> bool:
        return count > LIMIT * len(self.split)

    def judge(self) -> None:
        """Name what was newly found unreadable; DataError once that is more than 1 % of the split."""
        if not isinstance(self.split, FileSplit) or int(self.unreadable.sum()) == len(self._named):
            return
        # Looked at once: workers go on writing, and what they find after this is judged with the next batch.
        found = {int(place) for place in self.unreadable.nonzero()}
        reason = ""
        for place in sorted(found - self._named):
            try:
                self.split.open(place)
            except DataError as error:
                reason = str(error)
                warn(f"{reason}; left out", every_process=True)
        self._named |= found
        if self._too_many(len(found)):
            raise DataError(
                f"{len(found)} of {len(self.split)} images cannot be decoded, more than {LIMIT:.0%}: {reason}"
            )


class Loader(DataLoader[Any]):
    """A loader that judges its images in the process that asks for them: an error of a worker is no single line."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            if isinstance(self.dataset, Images):
                self.dataset.judge()
            yield batch


class Collate:
    """Put items into a batch: ``images`` (uint8 from memory, or float and normalised) and ``labels``."""

    def __init__(self, split: Split, arguments: Arguments, train: bool) -> None:
        self.split = split
        self.augment = train and arguments.augment == "basic"
        self.pad, self.flip = arguments.pad, arguments.flip

    def __call__(self, items: Sequence[Any]) -> Batch:
        if not isinstance(self.split, MemorySplit):
            return {
                "images": torch.stack([image for image, _ in items]),
                "labels": torch.stack([label for _, label in items]),
            }
        index = torch.as_tensor(items)
        images = self.split.images[index]
        if self.augment:
            # The seed comes from torch's own generator, which every epoch starts afresh.
            seed = int(torch.randint(1 << 62, ()))
            images = augment_batch(images, torch.Generator().manual_seed(seed), self.pad, self.flip)
        return {"images": images, "labels": self.split.labels[index]}


def images_of(split: Split, card: Card, arguments: Arguments, *, train: bool) -> Images:
    """The items of a split, for training or for evaluation."""
    files = isinstance(split, FileSplit)
    return Images(
        split,
        _transform(card, arguments, train) if files else None,
        torch.zeros(card.channels, *card.size),
        replace=train,
        shared=files and arguments.workers > 0,
    )


def loader(
    images: Images,
    arguments: Arguments,
    *,
    train: bool,
    sampler: Any = None,
    batch: int = 0,
    drop_last: bool = False,
) -> Loader:
    """A loader over images, augmented where ``train`` says so.

    Args:
        images: The items, of :func:`images_of` with the same ``train``.
        arguments: Batch size, augmentation and workers.
        train: For training, or for statistics of training.
        sampler: Order of the items; None for their own.
        batch: Images per batch; 0 for the arguments' in training, and for evaluation at least 250 small ones.
        drop_last: Leave out an incomplete last batch.
    """
    small = isinstance(images.split, MemorySplit)
    usual = max(arguments.batch, _SMALL_IMAGES) if small and not train else arguments.batch
    return Loader(
        images,
        batch_size=batch or usual,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=0 if small else arguments.workers,
        collate_fn=Collate(images.split, arguments, train),
    )


def _transform(card: Card, arguments: Arguments, train: bool) -> Callable[[Any], Tensor]:
    from timm.data import create_transform

    augment = train and arguments.augment == "basic"
    made_for = models.made_for(card.model)
    made: Callable[[Any], Tensor] = create_transform(
        (card.channels, *card.size),
        is_training=augment,
        hflip=0.5 if arguments.flip else 0.0,
        color_jitter=None,
        interpolation="bilinear" if augment else made_for.interpolation,
        mean=card.mean,
        std=card.std,
        crop_pct=made_for.crop,
    )
    return made


def prepared(images: Tensor, card: Card, channels_last: bool) -> Tensor:
    """Float images at the model's size: what is uint8 is scaled, normalised and resized; the rest is so already."""
    if images.dtype == torch.uint8:
        images = normalise(images, card.mean, card.std)
        if tuple(images.shape[-2:]) != card.size:
            images = functional.interpolate(
                images, size=card.size, mode="bilinear", antialias=True, align_corners=False
            )
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def shuffled(
    data: ClassificationData, arguments: Arguments, card: Card, images: int, seed: int
) -> Iterator[Batch]:
    """Augmented training batches in an order of their own, about ``images`` in all: for batch-norm statistics.

    Augmented as in training, because the weights have only ever seen such batches: statistics of centred images
    are those of another distribution. The batches are of about the same size, because each counts the same.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.train), generator=generator)[:images].tolist()
    most = _STATISTICS if isinstance(data.train, MemorySplit) else min(arguments.batch, _STATISTICS)
    size = math.ceil(len(order) / math.ceil(len(order) / most))
    items = images_of(data.train, card, arguments, train=True)
    with untouched_generators():
        reseed(seed)
        yield from loader(items, arguments, train=True, sampler=order, batch=size)

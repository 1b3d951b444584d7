"""Batches of images: small ones cropped and flipped as a whole batch in memory, photographs by timm's transforms."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from slr_det.data.augment import augment_batch, normalise
from slr_det.data.classification import ClassificationData, open_classification
from slr_det.data.splits import FileSplit, MemorySplit, Split
from slr_det.errors import DataError
from slr_det_adapters.timm.arguments import Arguments
from slr_det_adapters.timm.models import Card

_MOST_CORRUPT = 0.01  # share of the images asked for so far
_BEFORE_JUDGING = 200

Batch = dict[str, Tensor]


@functools.lru_cache(maxsize=2)
def open_data(data: str, train_images: int, val_images: int) -> ClassificationData:
    """The data set, kept in memory between the phases of a run."""
    return open_classification(
        data, train_images=train_images or None, val_images=val_images or None, say=_say
    )


def _say(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"warning: {line}")


def data_of(data: str, arguments: Arguments) -> ClassificationData:
    """The data set with the subset that the arguments ask for."""
    return open_data(data, arguments.train_images, arguments.val_images)


@dataclass
class Images(Dataset[Any]):
    """Items of a split: an index where images are in memory, else one transformed photograph and its label.

    An image that cannot be decoded gives way to the next one that can, is named once, and is an error once more
    than 1 % of those asked for were such.
    """

    split: Split
    transform: Callable[[Any], Tensor] | None

    def __post_init__(self) -> None:
        self.asked = 0
        self.corrupt: set[int] = set()

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.split, MemorySplit) or self.transform is None:
            return index
        self.asked += 1
        for step in range(len(self.split)):
            place = (index + step) % len(self.split)
            if place in self.corrupt:
                continue
            try:
                picture = self.split.open(place)
            except DataError as error:
                self._count(place, error)
                continue
            return self.transform(picture), self.split.labels[place]
        raise DataError("no image of the data set can be decoded; check the files")

    def _count(self, place: int, error: DataError) -> None:
        self.corrupt.add(place)
        _say(f"{error}; skipped ({len(self.corrupt)} so far)")
        if len(self.corrupt) > _MOST_CORRUPT * max(self.asked, _BEFORE_JUDGING):
            raise DataError(
                f"{len(self.corrupt)} of {self.asked} images cannot be decoded, more than 1 %: {error}; mend or "
                "remove the files"
            )


class Collate:
    """Put items into a batch: ``images`` (uint8 from memory, or float and normalised) and ``labels``."""

    def __init__(self, split: Split, arguments: Arguments, card: Card, train: bool) -> None:
        self.split = split
        self.size = card.size
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


def loader(
    data: ClassificationData,
    arguments: Arguments,
    card: Card,
    *,
    train: bool,
    split: Split | None = None,
    sampler: Any = None,
    batch: int | None = None,
    drop_last: bool = False,
) -> DataLoader[Any]:
    """A loader over the training or the validation images (or ``split``), augmented where ``train`` says so."""
    chosen = split if split is not None else (data.train if train else data.val)
    transform = _transform(card, arguments, train) if isinstance(chosen, FileSplit) else None
    return DataLoader(
        Images(chosen, transform),
        batch_size=batch or (arguments.batch if train else max(arguments.batch, 250)),
        sampler=sampler,
        drop_last=drop_last,
        num_workers=arguments.workers if isinstance(chosen, FileSplit) else 0,
        collate_fn=Collate(chosen, arguments, card, train),
    )


def _transform(card: Card, arguments: Arguments, train: bool) -> Callable[[Any], Tensor]:
    from timm.data import create_transform, resolve_data_config

    wanted = resolve_data_config({}, pretrained_cfg={"crop_pct": 0.875})
    augment = train and arguments.augment == "basic"
    made: Callable[[Any], Tensor] = create_transform(
        (card.channels, *card.size),
        is_training=augment,
        hflip=0.5 if arguments.flip else 0.0,
        color_jitter=0.0,
        interpolation="bilinear" if augment else wanted["interpolation"],
        mean=card.mean,
        std=card.std,
        crop_pct=wanted["crop_pct"],
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
    are those of another distribution.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.train), generator=generator)[:images].tolist()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield from loader(data, arguments, card, train=True, sampler=order, batch=min(len(order), 256))

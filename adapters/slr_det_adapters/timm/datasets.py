"""The data set of a run: read once and whole, so that all phases share it, and the part of it that a phase asks for."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys

from tqdm import tqdm

from slr_det.data.classification import ClassificationData, Split, open_classification
from slr_det.data.subset import Subset
from slr_det.errors import CheckpointError
from slr_det_adapters.timm.arguments import Arguments
from slr_det_adapters.timm.cards import Card


@functools.lru_cache(maxsize=1)
def open_data(data: str) -> ClassificationData:
    """The whole data set; the last one that was asked for stays in memory until :func:`forget`."""
    return open_classification(data, say=warn)


def forget() -> None:
    """Read again what is asked for next: a new run sees the files as they are now."""
    open_data.cache_clear()


def data_of(data: str, arguments: Arguments) -> ClassificationData:
    """The data set with the subset that the arguments ask for.

    Raises:
        DataError: There is no data set, or it is damaged.
        ConfigError: Fewer images are asked for than there are classes.
    """
    whole = open_data(data)
    subset = Subset(arguments.train_images or None, arguments.val_images or None)
    count = len(whole.classes)
    subset.require(count)

    def part(split: Split, wanted: int | None) -> Split:
        if wanted is None or wanted >= len(split):
            return split  # itself, not a copy of every image
        choose = subset.train if split is whole.train else subset.val
        return split.take(choose(split.labels.numpy(), count))

    return dataclasses.replace(
        whole, train=part(whole.train, subset.train_images), val=part(whole.val, subset.val_images)
    )


def require_fit(card: Card, data: ClassificationData, model: str, source: str) -> None:
    """Refuse a model whose outputs are not the data's classes, or whose input is not its images.

    Classes of other names in the same number are taken to be the same ones in the same order, and named in a warning.
    """
    if len(card.classes) != len(data.classes):
        raise CheckpointError(
            f"model={model} predicts {len(card.classes)} classes but data={source} has {len(data.classes)}; train it "
            "on that data first with dense_epochs=N"
        )
    if card.channels != data.channels:
        raise CheckpointError(
            f"model={model} takes images of {card.channels} channels but those of data={source} have "
            f"{data.channels}; choose other data, or another model"
        )
    if card.classes != data.classes:
        place = next(
            i for i, pair in enumerate(zip(card.classes, data.classes, strict=True)) if len({*pair}) > 1
        )
        warn(
            f"class {place} is '{card.classes[place]}' in model={model} and '{data.classes[place]}' in data={source}; "
            "taken to be the same, by its place among the classes"
        )


def warn(line: str, *, every_process: bool = False) -> None:
    """Print a warning in one line, above an open progress bar; of several processes the first does, or every one."""
    if every_process or os.environ.get("RANK", "0") == "0":
        tqdm.write(f"warning: {line}", file=sys.stderr)

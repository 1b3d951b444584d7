"""Which images of a split take part, where a user wants fewer than there are?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slr_det.errors import ConfigError


@dataclass(frozen=True)
class Subset:
    """How many images a user wants.

    Attributes:
        train_images: Images for training at most, None for all.
        val_images: Images for validation at most, None for all.
        seed: Seed of the choice.

    Raises:
        ConfigError: a number below 1, a negative seed.
    """

    train_images: int | None = None
    val_images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"{key}: {value!r}, expected a whole number from 1, or None for all"
            for key, value in (("train_images", self.train_images), ("val_images", self.val_images))
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1)
        ]
        if self.seed < 0:
            problems.append(f"seed: {self.seed}, expected 0 or more")
        if problems:
            raise ConfigError(problems)

    def require(self, classes: int) -> None:
        """Raise ConfigError where a split would be too small to hold an image of each class."""
        wanted = (("train_images", self.train_images), ("val_images", self.val_images))
        problems = [
            f"{key}: {value}, expected at least {classes}, one image per class"
            for key, value in wanted
            if value is not None and value < classes
        ]
        if problems:
            raise ConfigError(problems)

    def train(self, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
        """Return the indices of the training images, as :func:`stratified`."""
        return stratified(labels, classes, self.train_images, (self.seed, 0))

    def val(self, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
        """Return the indices of the images for validation, as :func:`stratified`."""
        return stratified(labels, classes, self.val_images, (self.seed, 1))


def stratified(
    labels: NDArray[np.int64], classes: int, wanted: int | None, seed: Sequence[int]
) -> NDArray[np.int64]:
    """Choose images so that every class gets an equal share.

    The same arguments choose the same images on every machine. Per class they are the first of a permutation (PCG64),
    so a larger share holds a smaller one.

    Args:
        labels: Class index per image, (N,).
        classes: Number of classes.
        wanted: Number of images; None, or as many as there are, takes all.
        seed: Seed of the permutations, which differ between classes.

    Returns:
        Indices in ascending order. What a small class cannot give, and a remainder, go to the other classes in order.
    """
    if wanted is None or wanted >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    counts = np.bincount(labels, minlength=classes)
    chosen = []
    for label, share in enumerate(_shares(counts.tolist(), wanted)):
        order = np.random.Generator(np.random.PCG64([*seed, label])).permutation(int(counts[label]))
        chosen.append(np.flatnonzero(labels == label)[order[:share]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _shares(counts: Sequence[int], wanted: int) -> list[int]:
    """Split ``wanted`` evenly over classes that hold ``counts``; it is at most their sum."""
    shares = [0] * len(counts)
    while wanted:
        roomy = [label for label, count in enumerate(counts) if shares[label] < count]
        each, rest = divmod(wanted, len(roomy))
        for position, label in enumerate(roomy):
            more = min(each + (position < rest), counts[label] - shares[label])
            shares[label] += more
            wanted -= more
    return shares

"""The arguments of the classifier trainer: names, defaults, ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from slr_det_adapters.settings import AT_LEAST_0, AT_LEAST_1, BELOW_1, Rule, TrainerSettings

AUGMENT = ("basic", "none")


@dataclass(frozen=True)
class Arguments(TrainerSettings):
    """How a classifier is trained and evaluated: what every trainer takes, and this.

    Attributes:
        label_smoothing: In [0, 1).
        channels_last: Memory layout of convolutions; faster on most processors.
        augment: ``basic`` (random crop and flip; for photographs a random resized crop) or ``none``.
        pad: Pixels of zero padding before the random crop of small images.
        flip: Whether images may be mirrored; digits and text may not.
        size: Side of the images that the model sees, in pixels; 0 for the data's (or the model's) own.
        train_images: Train on that many images only, the same number of each class; 0 for all.
        val_images: Evaluate on that many images only, the same number of each class; 0 for all.
        epoch_val_images: How many images the score of an epoch is taken on; 0 for all.
        recalibration_images: Training images that batch-norm statistics are re-estimated on.
    """

    label_smoothing: float = 0.0
    channels_last: bool = True
    augment: str = "basic"
    pad: int = 4
    flip: bool = True
    size: int = 0
    train_images: int = 0
    val_images: int = 0
    epoch_val_images: int = 0
    recalibration_images: int = 2048

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {**TrainerSettings.CHOICES, "augment": AUGMENT}
    RULES: ClassVar[Mapping[str, Rule]] = {
        **TrainerSettings.RULES,
        "label_smoothing": BELOW_1,
        "recalibration_images": AT_LEAST_1,
        **dict.fromkeys(("pad", "size", "train_images", "val_images", "epoch_val_images"), AT_LEAST_0),
    }

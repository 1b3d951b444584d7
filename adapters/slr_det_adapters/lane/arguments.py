"""The arguments of the lane trainer: names, defaults, ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from slr_det.data.tusimple import LABEL_SIZE, Augmentation
from slr_det_adapters.settings import AT_LEAST_0, AT_LEAST_1, Rule, TrainerSettings


def _up_to(most: int) -> Rule:
    return lambda value: 0 <= value <= most, f"0 to {most}"


@dataclass(frozen=True)
class Arguments(TrainerSettings):
    """How a parsingNet is trained and evaluated: what every trainer takes, and this.

    Defaults are those of Ultra-Fast-Lane-Detection's ``configs/tusimple.py``, which has 100 steps of warm-up besides.

    Attributes:
        rotation: Training frames are turned by up to that many degrees either way.
        up_down: Training frames are shifted up or down by up to that many of the 720 pixels of a label.
        left_right: Training frames are shifted to the left or right by up to that many of the 1280 pixels of a label.
        cache: Keep the frames in memory at the network's size (0.7 MB each at 288 x 800), which saves decoding them in
            every epoch and phase; each worker has a memory of its own, for an epoch.
        train_frames: Train on the first so many frames only; 0 for all.
        val_frames: Evaluate on the first so many frames only; 0 for all.
        epoch_val_frames: How many frames, spread over all, the score of an epoch is taken on; 0 for all.
        recalibration_frames: Training frames that batch-norm statistics are re-estimated on.
        predictions: File that an evaluation writes the lanes into, in the benchmark's format; empty for none.
        channels_last: Memory layout of convolutions; faster on most processors.
    """

    lr: float = 4e-4
    batch: int = 32
    optimizer: str = "adam"
    weight_decay: float = 1e-4
    rotation: int = 6
    up_down: int = 100
    left_right: int = 200
    cache: bool = False
    train_frames: int = 0
    val_frames: int = 0
    epoch_val_frames: int = 200
    recalibration_frames: int = 500
    predictions: str = ""
    channels_last: bool = True

    RULES: ClassVar[Mapping[str, Rule]] = {
        **TrainerSettings.RULES,
        "rotation": _up_to(180),
        "up_down": _up_to(LABEL_SIZE[1] - 1),
        "left_right": _up_to(LABEL_SIZE[0] - 1),
        "recalibration_frames": AT_LEAST_1,
        **dict.fromkeys(("train_frames", "val_frames", "epoch_val_frames"), AT_LEAST_0),
    }

    def augmentation(self) -> Augmentation:
        """How training frames are varied."""
        return Augmentation(self.rotation, self.up_down, self.left_right)

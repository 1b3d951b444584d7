"""The arguments of the PointPillars trainer: names, defaults, ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from slr_det.data.kitti.augment import Augmentation
from slr_det.metrics.kitti_rules import OVERLAPS
from slr_det_adapters.settings import ABOVE_0, AT_LEAST_0, AT_LEAST_1, BELOW_1, Rule, TrainerSettings


@dataclass(frozen=True)
class Arguments(TrainerSettings):
    """How a PointPillars is trained and evaluated: what every trainer takes, and this. Defaults are OpenPCDet's.

    Attributes:
        overlap: What a detection must share with an object: ``standard`` (3D IoU 0.7 for cars, 0.5 for the others),
            ``loose``, or ``0.5`` for every class.
        paste: Objects of each class that are pasted into a training frame (gt-sampling); 0 for none.
        flip: Whether training frames are mirrored, left and right.
        rotation: Training frames are turned about the scanner by up to that many degrees either way.
        scaling: Training frames are scaled by up to that share either way.
        camera_only: Leave out points that the camera does not see: only what it sees is labelled.
        train_frames: Train on the first so many frames only; 0 for all.
        val_frames: Evaluate on the first so many frames only; 0 for all.
        epoch_val_frames: How many frames, spread over all, the score of an epoch is taken on; 0 for all.
        recalibration_frames: Training frames that batch-norm statistics are re-estimated on.
        score: Least score of a detection; 0 for what the model's configuration says.
        predictions: Folder that an evaluation writes its detections into, in KITTI's format; empty for none.
        bn_momentum: Share of a batch in the running statistics of batch norms; 0.01 lags behind in runs of a few
            hundred steps, where 0.1 is better.
        channels_last: Memory layout of convolutions. Faster; on a CPU torch's batch norms then differ in the third
            digit while they train.
    """

    lr: float = 0.003
    batch: int = 4
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    schedule: str = "onecycle"
    clip: float = 10.0
    overlap: str = "standard"
    paste: int = 15
    flip: bool = True
    rotation: float = 45.0
    scaling: float = 0.05
    camera_only: bool = True
    train_frames: int = 0
    val_frames: int = 0
    epoch_val_frames: int = 200
    recalibration_frames: int = 200
    score: float = 0.0
    predictions: str = ""
    bn_momentum: float = 0.01
    channels_last: bool = True

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {**TrainerSettings.CHOICES, "overlap": tuple(OVERLAPS)}
    RULES: ClassVar[Mapping[str, Rule]] = {
        **TrainerSettings.RULES,
        **dict.fromkeys(("score", "scaling"), BELOW_1),
        "bn_momentum": (lambda value: 0 < value <= 1, "a number in (0, 1]"),
        "recalibration_frames": AT_LEAST_1,
        **dict.fromkeys(("paste", "rotation"), AT_LEAST_0),
        **dict.fromkeys(("train_frames", "val_frames", "epoch_val_frames"), AT_LEAST_0),
        "lr": ABOVE_0,
    }

    def augmentation(self, classes: tuple[str, ...]) -> Augmentation:
        """How training frames are varied."""
        turn = math.radians(self.rotation)
        return Augmentation(
            objects=dict.fromkeys(classes, self.paste) if self.paste else {},
            flips=("x",) if self.flip else (),
            rotation=(-turn, turn),
            scaling=(1.0 - self.scaling, 1.0 + self.scaling),
        )

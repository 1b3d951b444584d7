"""Small runs of the PointPillars command line, shared by its tests: a tiny network on eight generated frames."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slr_det.data.kitti_world import world_dataset
from slr_det.pointpillars import main

# A model of OpenPCDet's with 6,632 weights, in the form of its YAML files.
NETWORK = """\
CLASS_NAMES: [Car, Pedestrian, Cyclist]
DATA_CONFIG:
  POINT_CLOUD_RANGE: [0, -10.24, -3, 20.48, 10.24, 1]
  DATA_PROCESSOR:
    - NAME: transform_points_to_voxels
      VOXEL_SIZE: [0.32, 0.32, 4]
      MAX_POINTS_PER_VOXEL: 8
      MAX_NUMBER_OF_VOXELS: {train: 2000, test: 2000}
MODEL:
  NAME: PointPillar
  VFE: {NAME: PillarVFE, WITH_DISTANCE: false, USE_ABSLOTE_XYZ: true, USE_NORM: true, NUM_FILTERS: [8]}
  MAP_TO_BEV: {NAME: PointPillarScatter, NUM_BEV_FEATURES: 8}
  BACKBONE_2D:
    NAME: BaseBEVBackbone
    LAYER_NUMS: [1, 1]
    LAYER_STRIDES: [2, 2]
    NUM_FILTERS: [8, 16]
    UPSAMPLE_STRIDES: [1, 2]
    NUM_UPSAMPLE_FILTERS: [8, 8]
  DENSE_HEAD:
    NAME: AnchorHeadSingle
    CLASS_AGNOSTIC: false
    USE_DIRECTION_CLASSIFIER: true
    DIR_OFFSET: 0.78539
    DIR_LIMIT_OFFSET: 0.0
    NUM_DIR_BINS: 2
    ANCHOR_GENERATOR_CONFIG:
      - &car
        class_name: Car
        anchor_sizes: [[3.9, 1.6, 1.56]]
        anchor_rotations: [0, 1.57]
        anchor_bottom_heights: [-1.78]
        feature_map_stride: 2
        matched_threshold: 0.6
        unmatched_threshold: 0.45
      - {<<: *car, class_name: Pedestrian, anchor_sizes: [[0.8, 0.6, 1.73]], anchor_bottom_heights: [-0.6]}
      - {<<: *car, class_name: Cyclist, anchor_sizes: [[1.76, 0.6, 1.73]], anchor_bottom_heights: [-0.6]}
    TARGET_ASSIGNER_CONFIG: {NAME: AxisAlignedTargetAssigner, POS_FRACTION: -1.0, BOX_CODER: ResidualCoder}
    LOSS_CONFIG:
      LOSS_WEIGHTS:
        {cls_weight: 1.0, loc_weight: 2.0, dir_weight: 0.2, code_weights: [1, 1, 1, 1, 1, 1, 1]}
  POST_PROCESSING:
    SCORE_THRESH: 0.1
    NMS_CONFIG: {NMS_TYPE: nms_gpu, NMS_THRESH: 0.01, NMS_PRE_MAXSIZE: 4096, NMS_POST_MAXSIZE: 100}
"""

#: How the tiny network learns its few frames by heart, in a few seconds.
PLAIN: dict[str, Any] = {"batch": 2, "lr": 0.01, "overlap": "loose", "bn_momentum": 0.1, "threads": 1}
PLAIN |= {"paste": 0, "flip": False, "rotation": 0, "scaling": 0}
#: Every variation of the frames, and everything whose state a resume has to carry.
FULL: dict[str, Any] = {
    "batch": 2,
    "lr": 0.005,
    "paste": 2,
    "ema": 0.9,
    "accumulate": 2,
    "warmup_epochs": 0.5,
}
FULL |= {"bn_momentum": 0.1, "threads": 1}
DENSE_EPOCHS = 25


def words(arguments: dict[str, Any]) -> list[str]:
    """Arguments as they are written on a command line."""
    return [f"{key}={value}" for key, value in arguments.items()]


def make_world(folder: Path) -> Path:
    """Eight generated frames, evaluated on six of them: what is learnt by heart has a score."""
    made = world_dataset(folder, frames=(8, 1), progress=False)
    (made / "ImageSets" / "val.txt").write_text("".join(f"{frame:06d}\n" for frame in range(6)))
    return made


def copied(world: Path, folder: Path) -> Path:
    """A data set of its own, whose files a test may damage."""
    shutil.copytree(world, folder)
    return folder


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The error lines printed since the last look; there must be no traceback."""
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return [line for line in errors.splitlines() if line.startswith("error:")]


def run(project: Path, *arguments: str) -> Path:
    """Start a run called ``run`` that has to succeed, and return its folder."""
    assert main([*arguments, f"project={project}", "name=run"]) == 0
    return project / "run"


def weights(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers in a checkpoint, opened as anybody would."""
    found: dict[str, Tensor] = torch.load(path)["model_state"]
    return found


def assert_same(one: Path, other: Path) -> None:
    """Two checkpoints hold the same bits."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    different = [key for key, value in first.items() if not torch.equal(value, second[key])]
    assert not different, f"{one.name}: {different[:3]}"

"""The KITTI data of a run: the folder, its classes, and the frames that a phase asks for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slr_det.data.generated import cache_dir
from slr_det.data.kitti.database import ObjectDatabase, object_database
from slr_det.data.kitti.dataset import Frame, KittiDataset
from slr_det.data.kitti.frames import KittiFolder
from slr_det.data.kitti_world import world_dataset
from slr_det.data.loading import FrameLoader
from slr_det.errors import CheckpointError, ConfigError, DataError, nearest
from slr_det.metrics.kitti_rules import BENCHMARK, canonical
from slr_det.models.pointpillars import PointPillarsConfig, pillars_of
from slr_det.yamlio import read_yaml
from slr_det_adapters.pointpillars.arguments import Arguments
from slr_det_adapters.pointpillars.voxels import voxelize

#: The data set that is generated on the spot.
WORLD = "world"
#: Numbers that a scan has of each point.
POINT_FEATURES = 4
_CACHE = "kitti-objects"

#: A batch: ``features``, ``coordinates``, ``counts`` and ``frames`` of the pillars, ``boxes`` and ``ids`` by frame.
Batch = dict[str, Any]


@dataclass(frozen=True)
class KittiData:
    """A KITTI data set and the classes that a model is to find in it."""

    folder: KittiFolder
    classes: tuple[str, ...]


def find_data(data: str) -> Path:
    """The folder or the file that a user names; ``world`` is generated where it is not in the cache.

    A folder of that name counts as ``./world`` only: a run on it is in one, and may be where this is called.

    Raises:
        DataError: There is no such file or folder.
    """
    if data == WORLD:
        return world_dataset()
    path = Path(data).expanduser()
    if path.exists():
        return path
    raise DataError(
        f"data={data}: no such folder or file{nearest(data, [WORLD])}; expected a folder with KITTI's training/, a "
        f"YAML file with path: and classes:, or '{WORLD}' (generated)"
    )


def open_data(data: str) -> KittiData:
    """Read what :func:`find_data` found: a folder in KITTI's layout, or a YAML file that says which, and the classes.

    Raises:
        DataError: It has not KITTI's layout, or the file does not say where it is or which classes count.
    """
    path = Path(data)
    if path.is_dir():
        return KittiData(KittiFolder.open(path), BENCHMARK)
    try:
        content = read_yaml(path)
    except ConfigError as error:
        raise DataError(str(error)) from error
    if not isinstance(content, Mapping) or not isinstance(content.get("path"), str):
        raise DataError(f"{path}: expected 'path:' with a folder in KITTI's layout, and perhaps 'classes:'")
    root = Path(content["path"]).expanduser()
    named = content.get("classes", list(BENCHMARK))
    if not isinstance(named, list) or not named or not all(isinstance(name, str) for name in named):
        raise DataError(f"{path}: classes is {named!r}, expected a list such as [Car, Pedestrian]")
    try:
        classes = canonical(named)
    except ConfigError as error:
        raise DataError(f"{path}: classes: {error}") from error
    return KittiData(KittiFolder.open(root if root.is_absolute() else path.parent / root), classes)


def require_fit(config: PointPillarsConfig, data: KittiData, model: str, source: str) -> None:
    """Refuse a model that wants other points than the data have, or finds other classes than are to be searched for."""
    if config.point_features != POINT_FEATURES:
        raise CheckpointError(
            f"model={model} takes {config.point_features} numbers of each point, but the scans of data={source} have "
            f"{POINT_FEATURES}: x, y, z and intensity; write these into used_feature_list, or leave it out"
        )
    if tuple(name.lower() for name in config.classes) != tuple(name.lower() for name in data.classes):
        raise CheckpointError(
            f"model={model} finds {', '.join(config.classes)} but data={source} is searched for "
            f"{', '.join(data.classes)}; give data=FILE.yaml with 'path: FOLDER' and "
            f"'classes: [{', '.join(config.classes)}]', or train a model for these classes with dense_epochs=N"
        )


def training_frames(
    data: KittiData, config: PointPillarsConfig, arguments: Arguments, seed: int
) -> KittiDataset:
    """The training frames, varied as the arguments say."""
    augmentation = arguments.augmentation(data.classes)
    database = _database(data) if augmentation.objects else None
    frames = KittiDataset(
        data.folder,
        "train",
        data.classes,
        config.point_range,
        training=True,
        augmentation=augmentation,
        database=database,
        seed=seed,
        camera_only=arguments.camera_only,
    )
    if arguments.train_frames:
        frames.frames = frames.frames[: arguments.train_frames]
    return frames


def _database(data: KittiData) -> ObjectDatabase:
    """The objects to paste; of several processes the first collects them, the others read what it wrote."""
    first = os.environ.get("RANK", "0") == "0"
    if not first:
        torch.distributed.barrier()
    found = object_database(data.folder, "train", cache_dir() / _CACHE)
    if first and torch.distributed.is_initialized():
        torch.distributed.barrier()
    return found


def plain_frames(
    data: KittiData, split: str, config: PointPillarsConfig, arguments: Arguments, most: int
) -> KittiDataset:
    """Frames of a split as they were recorded, the first ``most`` of them; 0 for all."""
    frames = KittiDataset(
        data.folder, split, data.classes, config.point_range, camera_only=arguments.camera_only
    )
    if most:
        frames.frames = frames.frames[:most]
    return frames


class Collate:
    """Puts frames into a batch, cut into pillars.

    Args:
        config: Of the model.
        training: Whether the number of pillars is that of training.
    """

    def __init__(self, config: PointPillarsConfig, training: bool) -> None:
        self.config = config
        self.training = training

    def __call__(self, frames: Sequence[Frame]) -> Batch:
        """Make the batch; plain containers, which mmengine moves to the device."""
        pillars = pillars_of(
            [frame.points for frame in frames], self.config, voxelize, training=self.training
        )
        boxes: list[Tensor] = [frame.boxes for frame in frames]
        return {
            "features": pillars.features,
            "coordinates": pillars.coordinates,
            "counts": pillars.counts,
            "frames": pillars.frames,
            "boxes": boxes,
            "ids": [frame.frame_id for frame in frames],
        }


def loader(
    frames: Any,
    config: PointPillarsConfig,
    arguments: Arguments,
    *,
    training: bool,
    sampler: Any = None,
    drop_last: bool = False,
) -> FrameLoader:
    """Batches of frames; a file that is malformed is one line, whatever process reads it."""
    return FrameLoader(
        frames,
        batch_size=arguments.batch,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=arguments.workers,
        collate_fn=Collate(config, training),
        generator=torch.Generator(),
    )

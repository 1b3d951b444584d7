"""KITTI as a data set of PyTorch: scans and boxes in the lidar frame, varied for training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from slr_det.data.kitti.augment import Augmentation, Scene, vary
from slr_det.data.kitti.boxes import lidar_boxes
from slr_det.data.kitti.calibration import Calibration
from slr_det.data.kitti.database import ObjectDatabase
from slr_det.data.kitti.frames import KittiFolder
from slr_det.data.kitti.labels import DONT_CARE
from slr_det.data.kitti.sampling import Ground, ObjectSampler
from slr_det.errors import ConfigError
from slr_det.pointcloud.boxes import in_range, wrap_angle


class Frame(NamedTuple):
    """What a network gets of one frame.

    Attributes:
        frame_id: Number of the frame as its files have it, such as ``000042``.
        points: (P, 4) float32, x, y, z in metres (lidar frame) and reflectance; P may be 0.
        boxes: (N, 8) float32, x, y, z, dx, dy, dz, heading in [-π, π) and the class, from 1 on in the order of the
            data set's classes; N may be 0.
    """

    frame_id: str
    points: Tensor
    boxes: Tensor


class KittiDataset(Dataset[Frame]):
    """The frames of a split.

    Every frame is cropped to what the camera sees, as only that is labelled, and to the range of the network. For
    training, objects are pasted in, the scene is mirrored, turned and scaled, boxes whose centre is then out of range
    are left out, and the points are shuffled. All of that depends on ``seed``, the epoch and the index alone, so it is
    the same for any number of workers and processes and after a resume: call :meth:`set_epoch` before each epoch
    (also workers that persist see it). A frame without points or boxes is given as it is; OpenPCDet would put a random
    other one in its place.

    Args:
        folder: The data set on disk.
        split: Name of the split, such as ``train``.
        classes: Types that count as objects, in the order of the network's classes.
        point_range: Lowest x, y, z, then highest x, y, z in metres; limits included.
        training: Shuffle the points and vary the frames; otherwise every frame is as it was recorded, and boxes are
            kept wherever they are.
        augmentation: How training frames are varied; None: not at all.
        database: Objects to paste; None: none are pasted.
        seed: 0 or more.
        camera_only: Crop to what the camera sees (FOV_POINTS_ONLY).

    Raises:
        ConfigError: no classes or one twice, a range that is none, or a negative seed.
        DataError: as :meth:`KittiFolder.split` says.
    """

    def __init__(
        self,
        folder: KittiFolder,
        split: str,
        classes: Sequence[str],
        point_range: Sequence[float],
        *,
        training: bool = False,
        augmentation: Augmentation | None = None,
        database: ObjectDatabase | None = None,
        seed: int = 0,
        camera_only: bool = True,
    ) -> None:
        _check(classes, point_range, seed)
        self.folder = folder
        self.frames = folder.split(split)
        self.classes = tuple(classes)
        self.point_range = tuple(map(float, point_range))
        self.training = training
        self.augmentation = augmentation if training else None
        self.seed = seed
        self.camera_only = camera_only
        self._sampler = (
            ObjectSampler(database, self.classes, self.augmentation, seed)
            if self.augmentation is not None and database is not None
            else None
        )
        # In shared memory, so that workers which live for several epochs see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0 on, whose variations of the frames come next."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        """Read and prepare a frame; DataError names a file that is missing or malformed."""
        index = range(len(self.frames))[index]
        frame = self.frames[index]
        calibration = self.folder.calibration(frame)
        scene = self._read(frame, calibration)
        if self.training:
            epoch = int(self._epoch)
            generator = np.random.default_rng([self.seed, epoch, index])
            if self._sampler is not None:
                scene = self._sampler.paste(scene, epoch, index, self._ground(frame, calibration))
            if self.augmentation is not None:
                scene = vary(scene, self.augmentation, generator)
            return self._finish(frame, scene, generator)
        return self._finish(frame, scene, None)

    def _read(self, frame: str, calibration: Calibration) -> Scene:
        points = self.folder.points(frame)
        if self.camera_only:
            points = points[calibration.in_view(points, self.folder.image_shape(frame))]
        objects = self.folder.objects(frame)
        objects = objects.take([name != DONT_CARE for name in objects.names])
        return Scene(points, lidar_boxes(objects, calibration), np.array(objects.names, dtype=np.str_))

    def _ground(self, frame: str, calibration: Calibration) -> Ground | None:
        plane = self.folder.road_plane(frame)
        return None if plane is None else Ground(plane, calibration)

    def _finish(self, frame: str, scene: Scene, shuffle: np.random.Generator | None) -> Frame:
        labels = [self.classes.index(name) + 1 if name in self.classes else 0 for name in scene.names]
        boxes = torch.cat((torch.from_numpy(scene.boxes), torch.tensor(labels)[:, None].float()), dim=1)
        boxes = boxes[boxes[:, 7] > 0]
        boxes[:, 6] = wrap_angle(boxes[:, 6], 0.5, 2 * math.pi)
        points = torch.from_numpy(scene.points)
        points = points[in_range(points, self.point_range)]
        if shuffle is not None:
            boxes = boxes[in_range(boxes, self.point_range)]
            points = points[torch.from_numpy(shuffle.permutation(len(points)))]
        return Frame(frame, points, boxes)


def collate(frames: list[Frame]) -> list[Frame]:
    """Make a batch: the list as it is, since scans and lists of boxes differ in length."""
    return frames


def _check(classes: Sequence[str], point_range: Sequence[float], seed: int) -> None:
    problems = []
    if not classes or len(set(classes)) < len(classes):
        problems.append(f"classes: {', '.join(classes) or 'none'}, expected at least one, each once")
    if len(point_range) != 6 or not all(point_range[i] < point_range[i + 3] for i in range(3)):
        problems.append(f"point_range: {list(point_range)}, expected lowest x, y, z, then highest x, y, z")
    if seed < 0:
        problems.append(f"seed: {seed}, expected 0 or more")
    if problems:
        raise ConfigError([f"KITTI data set: {problem}" for problem in problems])

"""The ground-truth database: every labelled object of a split with the points inside its box, for gt-sampling."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from slr_det.data.kitti.boxes import lidar_boxes
from slr_det.data.kitti.frames import PARTS, KittiFolder
from slr_det.data.kitti.labels import DONT_CARE, KittiObjects
from slr_det.errors import DataError
from slr_det.files import atomic_open
from slr_det.pointcloud.boxes import points_in_boxes

_LOG = logging.getLogger(__name__)

#: Raised whenever the same frames would give another database.
_VERSION = 1

#: Least height of the 2D box in pixels, largest truncation and occlusion: easy, moderate, hard.
_LEVELS = ((40.0, 0.15, 0), (25.0, 0.3, 1), (25.0, 0.5, 2))


def difficulty(objects: KittiObjects) -> npt.NDArray[np.int8]:
    """Return each object's level (N,): 0 easy, 1 moderate, 2 hard, -1 harder than KITTI evaluates.

    As OpenPCDet's database has it: the height of the 2D box counts its last pixel (bottom - top + 1), and limits are
    met by equality. The evaluator's rule differs in both.
    """
    height = objects.boxes_2d[:, 3] - objects.boxes_2d[:, 1] + 1
    level = np.full(len(objects), -1, np.int8)
    for index, (least, truncated, occluded) in reversed(list(enumerate(_LEVELS))):
        meets = (height >= least) & (objects.truncated <= truncated) & (objects.occluded <= occluded)
        level[meets] = index
    return level


@dataclass(frozen=True, eq=False)
class ObjectDatabase:
    """M objects with their points.

    Attributes:
        names: (M,) str, KITTI types; DontCare is left out.
        frames: (M,) str, the frame each object comes from.
        boxes: (M, 7) float32, in the lidar frame.
        difficulties: (M,) int8, see :func:`difficulty`.
        points: (T, 4) float32, x, y, z relative to the centre of the object's box (not turned) and reflectance; those
            of the first object first.
        offsets: (M + 1,) int64, the points of object i are ``points[offsets[i] : offsets[i + 1]]``.
    """

    names: npt.NDArray[np.str_]
    frames: npt.NDArray[np.str_]
    boxes: npt.NDArray[np.float32]
    difficulties: npt.NDArray[np.int8]
    points: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return M."""
        return len(self.names)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(M,), how many points each object has."""
        return np.diff(self.offsets)

    def points_of(self, index: int) -> npt.NDArray[np.float32]:
        """Return the points (P, 4) of an object, relative to its centre; a view, not to be changed."""
        return self.points[self.offsets[index] : self.offsets[index + 1]]

    def usable(self, name: str, min_points: int, dropped: Sequence[int]) -> npt.NDArray[np.int64]:
        """Return the indices of the objects of a type with at least ``min_points`` points, some levels left out.

        Args:
            name: KITTI type.
            min_points: Least number of points.
            dropped: Levels that are left out, such as -1.
        """
        kept = (self.names == name) & (self.counts >= min_points) & ~np.isin(self.difficulties, dropped)
        return np.flatnonzero(kept)

    def summary(self) -> dict[str, int]:
        """Return how many objects of each type there are, the most frequent type first."""
        names, counts = np.unique(self.names, return_counts=True)
        return {str(names[i]): int(counts[i]) for i in np.argsort(-counts, kind="stable")}


def object_database(
    folder: KittiFolder, split: str, cache: str | Path, *, progress: bool | None = None
) -> ObjectDatabase:
    """Collect the objects of a split, or read them from the cache.

    The cache holds one file per split and state of the data: its name has a key of the frames' names and of the sizes
    and times of their files, so that it is built again when the split or a file changes. It appears only once it is
    complete; two processes may build it at once. A damaged one is built again.

    Args:
        folder: The data set. Nothing is written into it.
        split: Name of the split, ``train`` for training.
        cache: Folder for the file, made where it is missing.
        progress: Show a progress bar while the database is built; None shows it on a terminal only.

    Raises:
        DataError: a scan, label or calib file is missing or malformed.
        StorageError: the file cannot be written.
    """
    frames = folder.split(split)
    file = Path(cache).expanduser().absolute() / f"objects-{split}-{_key(folder, frames)}.npz"
    if file.is_file():
        try:
            return load_database(file)
        except DataError as error:
            _LOG.warning("%s; it is built again", error)
    database = collect(folder, frames, progress=progress)
    with atomic_open(file) as stream:
        np.savez(stream, version=np.array(_VERSION), **_arrays(database))
    return database


def collect(folder: KittiFolder, frames: Sequence[str], *, progress: bool | None = None) -> ObjectDatabase:
    """Cut the objects of some frames out of their scans; arguments and errors as :func:`object_database`."""
    names: list[str] = []
    sources: list[str] = []
    boxes, levels, clouds = [np.zeros((0, 7), np.float32)], [np.zeros(0, np.int8)], []
    for frame in tqdm(
        frames, desc="collecting objects", unit="frame", disable=None if progress is None else not progress
    ):
        objects = folder.objects(frame)
        objects = objects.take([name != DONT_CARE for name in objects.names])
        points = folder.points(frame)
        found = lidar_boxes(objects, folder.calibration(frame))
        inside = points_in_boxes(torch.from_numpy(points), torch.from_numpy(found)).numpy()
        for box, mask in zip(found, inside, strict=True):
            cloud = points[mask]
            cloud[:, :3] -= box[:3]
            clouds.append(cloud)
        names += objects.names
        sources += [frame] * len(objects)
        boxes.append(found)
        levels.append(difficulty(objects))
    return ObjectDatabase(
        names=np.array(names, dtype=np.str_),
        frames=np.array(sources, dtype=np.str_),
        boxes=np.concatenate(boxes),
        difficulties=np.concatenate(levels),
        points=np.concatenate([np.zeros((0, 4), np.float32), *clouds]),
        offsets=np.cumsum([0, *map(len, clouds)], dtype=np.int64),
    )


def load_database(file: str | Path) -> ObjectDatabase:
    """Read a file that :func:`object_database` wrote.

    Raises:
        DataError: it is missing, damaged or of another version.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: no readable database of objects ({error})") from error
    version = int(arrays.pop("version", np.array(0)))
    if version != _VERSION or not _fits(arrays):
        raise DataError(f"{file}: no database of objects of version {_VERSION}")
    return ObjectDatabase(**arrays)


def _arrays(database: ObjectDatabase) -> dict[str, Any]:
    return {name: getattr(database, name) for name in ObjectDatabase.__dataclass_fields__}


def _fits(arrays: Mapping[str, npt.NDArray[np.generic]]) -> bool:
    if arrays.keys() != ObjectDatabase.__dataclass_fields__.keys():
        return False
    count = len(arrays["names"])
    lengths = {"frames": count, "boxes": count, "difficulties": count, "offsets": count + 1}
    return all(len(arrays[name]) == length for name, length in lengths.items()) and bool(
        arrays["offsets"][-1] == len(arrays["points"])
    )


def _key(folder: KittiFolder, frames: Sequence[str]) -> str:
    """Return a short key that changes when a frame comes or goes or one of its files is resized or touched."""
    digest = hashlib.sha256(f"{_VERSION}\n".encode())
    for frame in frames:
        for part in PARTS:
            state = folder.file(part, frame).stat()
            digest.update(f"{part} {frame} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]

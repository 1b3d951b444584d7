"""What OpenPCDet derives from a KITTI data set, made in a folder of the run: nothing is written into the data."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import pickle
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from slr_det.data.kitti.frames import KittiFolder
from slr_det.errors import DataError, StorageError
from slr_det.files import atomic_open, atomic_write
from slr_det_adapters.openpcdet.inject import Checkout

SPLITS = ("train", "val")
_READY = "ready.json"
_DATASET = "pcdet.datasets.kitti.kitti_dataset"
_DATABASE = "kitti_dbinfos_train.pkl"
_AT_ONCE = 64  # frames between two steps of the bar
_BYTES_PER_POINT = 16
_LOG = logging.getLogger(__name__)


def prepare(data: str, workdir: Path) -> Path:
    """Make the folder that OpenPCDet takes for its data: the user's frames by a link, and split files of our own.

    Every label, calibration and scan is looked at once, so that what is wrong is said now and by name. Frames without
    any label line are left out, in both splits: OpenPCDet cannot read them.

    Raises:
        DataError: This is no KITTI data set, or one of its files is damaged.
        StorageError: The folder cannot be made.
    """
    folder = KittiFolder.open(data)
    listed = {split: folder.split(split) for split in SPLITS}
    every = sorted({frame for frames in listed.values() for frame in frames})
    labelled = _labelled(folder, every)
    splits = {split: [frame for frame in frames if frame in labelled] for split, frames in listed.items()}
    for split, frames in splits.items():
        if not frames:
            raise DataError(f"{folder.frames}: no frame of the split '{split}' has a label; check label_2")
    if len(labelled) < len(every):
        _LOG.warning("%s: %d frames without a label are left out", folder.frames, len(every) - len(labelled))
    identity = json.dumps([str(folder.frames.resolve()), splits]).encode()
    root = workdir / f"kitti-{hashlib.sha256(identity).hexdigest()[:12]}"
    for split, frames in splits.items():
        atomic_write(root / "ImageSets" / f"{split}.txt", "".join(f"{frame}\n" for frame in frames))
    link = root / "training"
    if not link.exists():
        try:
            link.unlink(missing_ok=True)  # one that leads nowhere any more
            link.symlink_to(folder.frames.resolve(), target_is_directory=True)
        except OSError as error:
            raise StorageError(
                f"{link}: cannot be made as a symbolic link ({error.strerror}); choose another folder as project=..."
            ) from error
    return root.resolve()


def _labelled(folder: KittiFolder, frames: list[str]) -> set[str]:
    found = set()
    for frame in frames:
        folder.calibration(frame)
        scan = folder.file("velodyne", frame)
        if scan.stat().st_size % _BYTES_PER_POINT:
            folder.points(frame)  # says what is wrong
        if len(folder.objects(frame).names):
            found.add(frame)
    return found


def complete(root: Path, config: Any, checkout: Checkout) -> None:
    """Let OpenPCDet make its info files and its database of objects in ``root``, unless they are there.

    Args:
        root: From :func:`prepare`.
        config: A live configuration, whose names the files get.
        checkout: OpenPCDet.
    """
    names = {
        split: config.DATA_CONFIG.INFO_PATH[mode][0]
        for split, mode in zip(SPLITS, ("train", "test"), strict=True)
    }
    marker = root / _READY
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == names:
        return
    make = checkout.seam(_DATASET, "KittiDataset")
    # It imports Path only when its file is run as a program.
    vars(sys.modules[_DATASET]).setdefault("Path", Path)
    folder = KittiFolder.open(root)
    with contextlib.redirect_stdout(io.StringIO()):  # a line for each frame
        dataset = make(config.DATA_CONFIG, config.CLASS_NAMES, training=False, root_path=root)
        # From the header of a picture, and KITTI's usual size where there is none.
        dataset.get_image_shape = lambda frame: np.array(folder.image_shape(frame), dtype=np.int32)
        for split, name in names.items():
            dataset.set_split(split)
            infos = [
                info
                for part in _parts(dataset.sample_id_list, split)
                for info in dataset.get_infos(
                    num_workers=2, has_label=True, count_inside_pts=True, sample_id_list=part
                )
            ]
            with atomic_open(root / name) as file:
                pickle.dump(infos, file)
        dataset.set_split("train")
        dataset.create_groundtruth_database(root / names["train"], split="train")
    _with_every_class(root / _DATABASE, config.CLASS_NAMES)
    atomic_write(marker, json.dumps(names))


def _parts(frames: list[str], split: str) -> Iterator[list[str]]:
    with tqdm(total=len(frames), desc=f"OpenPCDet infos ({split})", unit="frame", dynamic_ncols=True) as bar:
        for start in range(0, len(frames), _AT_ONCE):
            part = frames[start : start + _AT_ONCE]
            yield part
            bar.update(len(part))


def _with_every_class(path: Path, classes: list[str]) -> None:
    """A class without an object has no entry, which OpenPCDet takes for a broken file."""
    with path.open("rb") as file:
        entries = pickle.load(file)  # written by this process a moment ago
    for name in classes:
        entries.setdefault(name, [])
    with atomic_open(path) as file:
        pickle.dump(entries, file)


def adjust(config: Any, root: Path) -> None:
    """Turn off, in place, what the data cannot serve: road planes, which KITTI offers as a separate download."""
    if (root / "training" / "planes").is_dir():
        return
    for entry in config.DATA_CONFIG.DATA_AUGMENTOR.AUG_CONFIG_LIST:
        if entry.NAME == "gt_sampling" and entry.get("USE_ROAD_PLANE", False):
            entry.USE_ROAD_PLANE = False
            warn_once(f"{root / 'training'} has no planes/: sampled objects keep the height that they had")


@cache
def warn_once(sentence: str) -> None:
    """Once per process: each phase of a run meets the same data."""
    _LOG.warning(sentence)


def guard_empty_frames(dataset: Any) -> None:
    """Let frames without a point in range pass, at which OpenPCDet stops: it counts a batch's frames by their pillars.

    In training another frame takes the place, as OpenPCDet does for a frame without boxes. In evaluation the frame
    gets two pillars of one point each, at the origin, which say nothing (of one, OpenPCDet loses a dimension).
    """
    inner = dataset.prepare_data

    def prepare_data(data_dict: dict[str, Any]) -> dict[str, Any]:
        try:
            found: dict[str, Any] = inner(data_dict=data_dict)
        except RecursionError:
            raise DataError(
                f"{dataset.root_path}: no frame has an object and a point in POINT_CLOUD_RANGE"
            ) from None
        if "voxels" not in found or len(found["voxels"]):
            return found
        if dataset.training:
            other: dict[str, Any] = dataset[np.random.randint(len(dataset))]
            return other
        for key in ("voxels", "voxel_coords", "voxel_num_points"):
            found[key] = np.zeros((2, *found[key].shape[1:]), dtype=found[key].dtype)
        found["voxel_coords"][1, -1] = 1
        found["voxel_num_points"] += 1
        return found

    dataset.prepare_data = prepare_data


def samplers(dataset: Any, checkout: Checkout) -> list[Any]:
    """The samplers of ground-truth objects in a training set."""
    kind = checkout.seam("pcdet.datasets.augmentor.database_sampler", "DataBaseSampler")
    return [step for step in dataset.data_augmentor.data_augmentor_queue if isinstance(step, kind)]


def drop_empty_groups(dataset: Any, checkout: Checkout) -> None:
    """Sample no class that the database has no object of: OpenPCDet would stop at the first frame."""
    for sampler in samplers(dataset, checkout):
        for name in [name for name in sampler.sample_groups if not sampler.db_infos[name]]:
            del sampler.sample_groups[name]
            warn_once(
                f"{dataset.root_path}: no object of class {name} has enough points: none is sampled into frames"
            )


def restart_samplers(dataset: Any, checkout: Checkout) -> None:
    """Let every epoch begin with a fresh order of the sampled objects; no checkpoint holds where the last one ended."""
    for sampler in samplers(dataset, checkout):
        for name, group in sampler.sample_groups.items():
            group["pointer"] = len(sampler.db_infos[name])
            group["indices"] = np.arange(len(sampler.db_infos[name]))

"""Data sets in ImageFolder layout: ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``, in a folder or an archive."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from slr_det.data.image_scan import ImageScan
from slr_det.data.splits import IMAGENET_MEAN, IMAGENET_STD, ClassificationData, Split
from slr_det.data.subset import Subset
from slr_det.data.tree import Tree, join
from slr_det.errors import DataError, nearest

TRAIN_FOLDER = "train"
#: Names of the folder for validation; the first that exists counts.
VAL_FOLDERS = ("val", "valid", "validation", "test")
#: Images of one size up to this side, and of this many bytes decoded, are held in memory.
MEMORY_SIDE = 64
MEMORY_BYTES = 2**30

_NAMED = 3


def is_here(tree: Tree, at: str) -> bool:
    """Whether the folder ``at`` has a ``train`` folder."""
    return TRAIN_FOLDER in tree.folders(at)


def load(tree: Tree, at: str, subset: Subset, say: Callable[[str], object]) -> ClassificationData:
    """Find the images and their classes, look at each, and decode them where they are small and of one size.

    Classes are the folders in ``train``, sorted; images may lie deeper in them, other files are ignored. Every image
    becomes RGB.

    Args:
        tree: Where the images are.
        at: The folder that holds ``train``.
        subset: How many images; they are chosen before any is looked at.
        say: Takes a line for each of the first corrupt images, and one with their number.

    Raises:
        DataError: no folder for validation, a class without images, other classes in it than in ``train``, or more
            than 1 % of a split's images cannot be read.
        ConfigError: fewer images are wanted than there are classes.
    """
    val_folder = next((name for name in VAL_FOLDERS if name in tree.folders(at)), None)
    if val_folder is None:
        raise DataError(
            f"{tree.path(at)}: {TRAIN_FOLDER}/ but no {'/, '.join(VAL_FOLDERS[:-1])}/ or {VAL_FOLDERS[-1]}/ beside "
            f"it{_likeliest(tree.folders(at))}; put a part of the images aside, in folders of the same classes"
        )
    found = [_by_class(tree, join(at, folder)) for folder in (TRAIN_FOLDER, val_folder)]
    _require_same(tree.path(at), (TRAIN_FOLDER, val_folder), found[0], found[1])
    classes = tuple(found[0])
    subset.require(len(classes))
    scans = []
    for folder, images, choose in zip(
        (TRAIN_FOLDER, val_folder), found, (subset.train, subset.val), strict=True
    ):
        names = [name for by_class in images.values() for name in by_class]
        labels = np.repeat(np.arange(len(classes)), [len(by_class) for by_class in images.values()])
        chosen = choose(labels, len(classes))
        scans.append(ImageScan(tree, join(at, folder), [names[i] for i in chosen], labels[chosen]))
    for scan in scans:
        scan.inspect()
    sizes = {size for scan in scans for size in scan.sizes}
    size = sizes.pop() if len(sizes) == 1 else None
    small = size is not None and _fits_memory(size, sum(len(scan.names) for scan in scans))
    splits: list[Split] = []
    for scan in scans:
        splits.append(scan.decode(size) if size is not None and small else scan.files())
        scan.judge(classes, say)
    return ClassificationData(
        classes,
        splits[0],
        splits[1],
        channels=3,
        size=size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        skipped=tuple(tree.path(name) for scan in scans for name in scan.corrupt),
    )


def _fits_memory(size: tuple[int, int], images: int) -> bool:
    return max(size) <= MEMORY_SIDE and 3 * size[0] * size[1] * images <= MEMORY_BYTES


def _likeliest(folders: Sequence[str]) -> str:
    alike = [name for name in folders if name != TRAIN_FOLDER and nearest(name, VAL_FOLDERS)]
    return f" (there is {alike[0]}/)" if alike else ""


def _by_class(tree: Tree, folder: str) -> dict[str, list[str]]:
    """Image names per class folder; none may be empty."""
    classes = tree.folders(folder)
    if len(classes) < 2:
        loose = len(tree.images(folder))
        raise DataError(
            f"{tree.path(folder)}: {len(classes)} class folders and {loose} images, expected a folder of images for "
            "each of two classes or more"
        )
    found = {name: tree.images(join(folder, name)) for name in classes}
    empty = [name for name, images in found.items() if not images]
    if empty:
        more = f" ({len(empty)} such folders: {_some(empty)})" if len(empty) > 1 else ""
        raise DataError(
            f"{tree.path(join(folder, empty[0]))}: a class folder without images{more}; add images of the class or "
            "remove the folder from both splits"
        )
    return found


def _require_same(
    where: str, folders: tuple[str, str], train: dict[str, list[str]], val: dict[str, list[str]]
) -> None:
    only = ([name for name in train if name not in val], [name for name in val if name not in train])
    said = [
        f"only in {folder}/: {_some(names)}" for folder, names in zip(folders, only, strict=True) if names
    ]
    if said:
        raise DataError(
            f"{where}: the classes differ; {' and '.join(said)}; both need the same class folders"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:_NAMED]) + more

"""What a user names as classification data, turned into classes and two splits.

Understood are ``digits`` (scikit-learn's), a folder in ImageFolder layout, CIFAR-10 in binary form, and tar archives of
either. Nothing is written: archives are read into memory.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from slr_det.data import archive, cifar10, digits, image_folder
from slr_det.data.splits import ClassificationData, FileSplit, MemorySplit, Split
from slr_det.data.subset import Subset
from slr_det.data.tree import FolderTree, Tree, join
from slr_det.errors import DataError, nearest

__all__ = ["ClassificationData", "FileSplit", "MemorySplit", "Split", "open_classification"]

_LOG = logging.getLogger(__name__)
_DIGITS = "digits"
_EXPECTED = (
    "expected train/CLASS/*.jpg with val/, validation/ or test/ beside train/, or CIFAR-10 in binary form "
    "(data_batch_1.bin to 5, test_batch.bin)"
)


def open_classification(
    data: str | Path,
    *,
    train_images: int | None = None,
    val_images: int | None = None,
    seed: int = 0,
    say: Callable[[str], object] | None = None,
) -> ClassificationData:
    """Return the classes and the training and validation images of what the user named.

    Images of one size up to 64 x 64 pixels, under 1 GiB in all, are decoded into memory; larger ones are looked at and
    decoded when they are asked for.

    Args:
        data: ``digits``; a folder with ``train/CLASS/`` and ``val/CLASS/`` (or ``valid``, ``validation``, ``test``); a
            folder with CIFAR-10's binary batches; or a ``.tar``, ``.tar.gz``, ``.tgz``, ``.tar.xz`` or ``.tar.bz2`` of
            either. Each may lie one folder deeper, where that is the only folder.
        train_images: Images for training at most: an equal number per class, as far as they go round.
        val_images: Images for validation at most, chosen likewise.
        seed: Seed of the choice; the same on every machine. It moves no image from one split to the other.
        say: Takes a line for each of the first corrupt images, default a warning of the logger
            ``slr_det.data.classification``.

    Raises:
        DataError: nothing is there, or what is there is no data set; the message names file and reason.
        ConfigError: a number of images below 1 or below the number of classes, or a negative seed.
        MissingExtraError: ``digits`` without scikit-learn.
    """
    subset = Subset(train_images, val_images, seed)
    if str(data) == _DIGITS:
        return _take(digits.load(), subset)
    tree = _tree(data)
    for at in _places(tree):
        if cifar10.is_here(tree, at):
            return _take(cifar10.load(tree, at), subset)
        if image_folder.is_here(tree, at):
            return image_folder.load(tree, at, subset, say or _LOG.warning)
    raise _unknown(tree)


def _take(found: ClassificationData, subset: Subset) -> ClassificationData:
    classes = len(found.classes)
    subset.require(classes)
    train = subset.train(found.train.labels.numpy(), classes)
    val = subset.val(found.val.labels.numpy(), classes)
    return dataclasses.replace(found, train=found.train.take(train), val=found.val.take(val))


def _tree(data: str | Path) -> Tree:
    path = Path(data).expanduser().absolute()
    if path.is_dir():
        return FolderTree(path)
    if not path.exists():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"data '{data}': no such file or folder{nearest(path.name, [*siblings, _DIGITS])}; expected a folder, a "
            f"tar archive ({', '.join(archive.SUFFIXES)}) or '{_DIGITS}'"
        )
    if not path.name.lower().endswith(archive.SUFFIXES):
        raise DataError(
            f"data '{data}': a file '{path.suffix}', expected a folder or a tar archive "
            f"({', '.join(archive.SUFFIXES)}); unpack it and give the folder"
        )
    return archive.read_archive(path)


def _places(tree: Tree) -> Iterator[str]:
    """Where a data set may start: at the root, or in the one folder that archives tend to hold."""
    yield ""
    folders = tree.folders("")
    if len(folders) == 1 or "cifar-10-batches-bin" in folders:
        yield "cifar-10-batches-bin" if "cifar-10-batches-bin" in folders else folders[0]


def _unknown(tree: Tree) -> DataError:
    for at in _places(tree):
        if "data_batch_1" in tree.files(at):
            return DataError(
                f"{tree.path(join(at, 'data_batch_1'))}: CIFAR-10's Python version, which is not opened because a "
                "pickle can run code; fetch the binary version (cifar-10-binary.tar.gz)"
            )
    folders = tree.folders("")
    seen = [f"{name}/" for name in folders] + tree.files("")
    hint = nearest(image_folder.TRAIN_FOLDER, folders)
    listed = f"it holds {', '.join(seen[:5])}{', ...' if len(seen) > 5 else ''}" if seen else "it is empty"
    return DataError(f"{tree.root}: no classification data ({listed}){hint}; {_EXPECTED}")

"""CIFAR-10 in its binary form: five training batches and a test batch of records of 1 + 3072 bytes."""

from __future__ import annotations

import numpy as np
import torch

from slr_det.data.splits import IMAGENET_MEAN, IMAGENET_STD, ClassificationData, MemorySplit
from slr_det.data.tree import Tree, join
from slr_det.errors import DataError

TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
NAMES_FILE = "batches.meta.txt"
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_RECORD = 1 + _PIXELS


def is_here(tree: Tree, at: str) -> bool:
    """Whether the folder ``at`` has a batch in binary form."""
    return any(name in (*TRAIN_FILES, TEST_FILE) for name in tree.files(at))


def load(tree: Tree, at: str) -> ClassificationData:
    """Read all six batches into memory.

    A record is a label and 3,072 pixels: red, green, blue, each row by row
    (https://www.cs.toronto.edu/~kriz/cifar.html). Batches may hold fewer records than the usual 10,000.

    Raises:
        DataError: a batch is missing, is no whole number of records, or holds a label without a name.
    """
    missing = [name for name in (*TRAIN_FILES, TEST_FILE) if name not in tree.files(at)]
    if missing:
        raise DataError(
            f"{tree.path(at)}: CIFAR-10 in binary form needs {', '.join(missing)} too; copy all five training batches "
            "and the test batch"
        )
    classes = _class_names(tree, at)
    train = [_batch(tree, join(at, name), classes) for name in TRAIN_FILES]
    images, labels = (
        torch.cat(tensors) for tensors in zip(*((s.images, s.labels) for s in train), strict=True)
    )
    return ClassificationData(
        classes,
        MemorySplit(images, labels),
        _batch(tree, join(at, TEST_FILE), classes),
        channels=3,
        size=(_SIDE, _SIDE),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _class_names(tree: Tree, at: str) -> tuple[str, ...]:
    if NAMES_FILE not in tree.files(at):
        return CLASSES
    name = join(at, NAMES_FILE)
    lines = tree.read(name).decode("utf-8", errors="replace").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) != len(CLASSES):
        raise DataError(
            f"{tree.path(name)}: {len(set(names))} different class names, expected {len(CLASSES)}, one a line"
        )
    return names


def _batch(tree: Tree, name: str, classes: tuple[str, ...]) -> MemorySplit:
    content = tree.read(name)
    if not content or len(content) % _RECORD:
        raise DataError(
            f"{tree.path(name)}: {len(content):,} bytes, expected a multiple of {_RECORD:,} (10,000 records are "
            f"{10_000 * _RECORD:,} bytes); the file is damaged or incomplete: fetch it again"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, _RECORD)
    labels = records[:, 0].astype(np.int64)
    wrong = np.flatnonzero(labels >= len(classes))
    if wrong.size:
        raise DataError(
            f"{tree.path(name)}: record {wrong[0]} has label {labels[wrong[0]]}, expected 0 to {len(classes) - 1}; "
            "is it a batch of CIFAR-10?"
        )
    pixels = records[:, 1:].reshape(-1, 3, _SIDE, _SIDE).copy()
    return MemorySplit(torch.from_numpy(pixels), torch.from_numpy(labels))

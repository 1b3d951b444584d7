"""What upstream trains and evaluates on, made in a folder of the run: nothing is written into the data."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from slr_det.data.pictures import decode, inspect
from slr_det.data.tusimple.folder import TuSimpleFolder, check_shape
from slr_det.data.tusimple.labels import NO_POINT, LaneRow, write_rows
from slr_det.errors import DataError, StorageError
from slr_det.files import atomic_write

#: Upstream's names: the list to train on, the images to evaluate on, and their labels.
TRAIN, TEST, TEST_LABELS = "train_gt.txt", "test.txt", "test_label.json"
#: Where the pictures of lanes are that the list to train on names.
LABELS = "labels"
#: The heights that upstream predicts lanes at.
HEIGHTS = np.arange(160, 720, 10)

_SOURCE, _ROWS, _PROBLEM = "source.json", "train.jsonl", "train_problem.txt"
_SLOTS = 4
_UNREADABLE_HEIGHT = 288
_LOG = logging.getLogger(__name__)


def prepare(data: str, workdir: Path) -> Path:
    """Make the folder that upstream takes for its data: the user's images by links, and lists of our own.

    Every label is looked at once, so that what is wrong is said now. Pictures of lanes are drawn by :func:`complete`.

    Raises:
        DataError: This is no TuSimple data set, or there is nothing to evaluate on.
        StorageError: The folder cannot be made.
    """
    folder = TuSimpleFolder.open(data)
    problem, rows = "", ""
    try:
        train = folder.split("train")
    except DataError as error:
        problem = str(error)  # evaluation does without
    else:
        rows = "".join(json.dumps(_plain(row, folder)) + "\n" for row in train)
    val = folder.split("val")
    evaluated = [
        LaneRow(name, _at_upstream_heights(row), HEIGHTS)
        for row, name in zip(val, _names(val, folder), strict=True)
    ]
    shorter = sum(len(row.h_samples) < len(HEIGHTS) for row in val)
    if shorter:
        _LOG.warning(
            "%s: %d rows have fewer than the %d heights that upstream predicts; they count as without a point there",
            folder.root,
            shorter,
            len(HEIGHTS),
        )
    source = json.dumps({"data": str(folder.root), "converted": folder.converted})
    bases = [str(base.resolve()) for base in folder.bases]
    truths = [[row.raw_file, row.lanes.tolist()] for row in evaluated]
    identity = json.dumps([source, bases, rows, problem, truths]).encode()
    root = workdir / f"tusimple-{hashlib.sha256(identity).hexdigest()[:12]}"
    atomic_write(root / _ROWS, rows)
    atomic_write(root / _PROBLEM, problem)
    atomic_write(root / TEST, "".join(f"{row.raw_file}\n" for row in evaluated))
    write_rows(root / TEST_LABELS, evaluated)
    for number, base in enumerate(bases):
        _link(root / _base_name(number), base)
    atomic_write(root / _SOURCE, source)
    return root.resolve()


def complete(root: Path) -> None:
    """Draw the pictures of lanes that upstream trains on, and write their list, unless it is there.

    Raises:
        DataError: There are no rows to train on, or an image is damaged, or of a size that upstream cannot use.
        StorageError: The disk is full.
    """
    if (root / TRAIN).is_file():
        return
    problem = (root / _PROBLEM).read_text(encoding="utf-8")
    if problem:
        raise DataError(problem)
    source = json.loads((root / _SOURCE).read_text(encoding="utf-8"))
    folder = TuSimpleFolder.open(source["data"], converted=source["converted"])
    rows = [json.loads(line) for line in (root / _ROWS).read_text(encoding="utf-8").splitlines()]
    lines = []
    (root / LABELS).mkdir(exist_ok=True)
    for number, plain in enumerate(
        tqdm(rows, desc="labels", unit="frame", dynamic_ncols=True, disable=len(rows) < _SLOTS * 16)
    ):
        marks = folder.marks(_row(plain))
        width, height = _size(root / plain["image"])
        picture = Image.fromarray(marks)
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.NEAREST)
        label = f"{LABELS}/{number:06d}.png"
        try:
            picture.save(root / label)
        except OSError as error:
            raise StorageError(
                f"{root / label}: cannot be written ({error.strerror or error}); free some space or choose another "
                "folder as project=..."
            ) from error
        present = " ".join(str(int((marks == slot).any())) for slot in range(1, _SLOTS + 1))
        lines.append(f"{plain['image']} {label} {present}\n")
    atomic_write(root / TRAIN, "".join(lines))


def read_picture(path: str) -> Image.Image:
    """In place of upstream's ``loader_func``: an image in RGB or a picture of lanes.

    Raises:
        DataError: An image is damaged or has other proportions than the labels; its name is in it.
    """
    if Path(path).parent.name != LABELS:
        picture = decode(path)
        check_shape(Path(path).resolve(), picture.size)
        return picture
    with Image.open(path) as picture:
        picture.load()
    return picture


def _names(rows: Sequence[LaneRow], folder: TuSimpleFolder) -> list[str]:
    """The images of rows as paths from the folder that is prepared."""
    return [_name(row, folder) for row in rows]


def _name(row: LaneRow, folder: TuSimpleFolder) -> str:
    path = folder.image(row)
    base = next(n for n, place in enumerate(folder.bases) if path.is_relative_to(place))
    name = f"{_base_name(base)}/{path.relative_to(folder.bases[base]).as_posix()}"
    if name.split() != [name]:
        raise DataError(
            f"{row.where}: '{row.raw_file}': upstream cannot read names with spaces; rename the image"
        )
    return name


def _base_name(number: int) -> str:
    # Upstream tells predictions apart by what follows the word clips.
    return f"clips-{number}"


def _plain(row: LaneRow, folder: TuSimpleFolder) -> dict[str, Any]:
    return {
        "image": _name(row, folder),
        "lanes": row.lanes.tolist(),
        "h_samples": row.h_samples.tolist(),
        "segmentation": row.segmentation,
        "where": row.where,
    }


def _row(plain: dict[str, Any]) -> LaneRow:
    heights = np.array(plain["h_samples"], dtype=np.int64)
    lanes = np.array(plain["lanes"]).reshape(-1, len(heights)) if len(heights) else np.zeros((0, 0), np.int64)
    return LaneRow(plain["image"], lanes, heights, None, plain["where"], plain["segmentation"])


def _at_upstream_heights(row: LaneRow) -> Any:
    """The lanes at HEIGHTS; heights that the row has not are without a point."""
    if np.array_equal(row.h_samples, HEIGHTS):
        return row.lanes
    if not np.isin(row.h_samples, HEIGHTS).all():
        raise DataError(
            f"{row.where}: h_samples {row.h_samples[0]}, .. {row.h_samples[-1]}; upstream's evaluation predicts lanes "
            f"at {HEIGHTS[0]}, {HEIGHTS[1]}, .. {HEIGHTS[-1]} alone; use backend=embedded for these labels"
        )
    lanes = np.full((len(row.lanes), len(HEIGHTS)), NO_POINT, dtype=row.lanes.dtype)
    lanes[:, np.searchsorted(HEIGHTS, row.h_samples)] = row.lanes
    return lanes


def _size(path: Path) -> tuple[int, int]:
    """Width and height of an image, from its header."""
    found = inspect(str(path))
    if isinstance(found, str):
        raise DataError(f"{path.resolve()}: {found}; replace or delete this image")
    height, width = found
    check_shape(path.resolve(), (width, height))
    if height == _UNREADABLE_HEIGHT:
        raise DataError(
            f"{path.resolve()}: is {height} pixels high, which upstream's data set cannot read; scale it"
        )
    return width, height


def _link(link: Path, target: str) -> None:
    if link.exists():
        return
    try:
        link.unlink(missing_ok=True)  # one that leads nowhere any more
        link.symlink_to(target, target_is_directory=True)
    except OSError as error:
        raise StorageError(
            f"{link}: cannot be made as a symbolic link ({error.strerror}); choose another folder as project=..."
        ) from error

"""A folder in TuSimple's layout: which frames it has, and what belongs to each."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slr_det.data.reading import read_text
from slr_det.data.tusimple.anchors import LABEL_SIZE, SLOTS, slot_marks
from slr_det.data.tusimple.labels import LaneRow, read_rows
from slr_det.data.tusimple.marks import read_marks
from slr_det.errors import ConfigError, DataError, nearest

#: The parts of a data set that can be asked for.
SPLITS = ("train", "val", "test")
#: List of upstream's conversion: an image, the picture of its lanes, and which of the four slots have one.
CONVERTED = "train_gt.txt"

_LAYOUT = "clips/ with label_data_*.json for training and test_label.json, or upstream's train_gt.txt"
# Part of the training frames that may be missing.
_MAY_BE_MISSING = 0.01
_LOG = logging.getLogger(__name__)


class TuSimpleFolder:
    """Labelled frames in TuSimple's layout. Nothing is written into it, and images are read when they are asked for.

    Coordinates of labels are pixels of a picture 1280 wide and 720 high. Images may have another size, as long as they
    show the same: they are scaled, and so are the pictures of upstream's converted lists.

    Args:
        root: The folder.
        bases: Folders that hold label files and that names of images are relative to, in the order in which they are
            looked into.
        converted: Train on upstream's converted list instead of the JSON labels.
    """

    def __init__(self, root: Path, bases: Sequence[Path], *, converted: bool = False) -> None:
        self.root = root
        self.bases = tuple(bases)
        self.converted = converted
        self._no_validation_told = False

    @classmethod
    def open(cls, root: str | Path, *, converted: bool | None = None) -> TuSimpleFolder:
        """Find the label files of a data set.

        Args:
            root: Folder that holds clips/ and the label files, or train_set/ and test_set/ that do, as the benchmark's
                archives are named.
            converted: Train on ``train_gt.txt``; None: only where there are no JSON labels to train on.

        Raises:
            DataError: there is no such folder, or it has no labels (or no ``train_gt.txt`` where ``converted``).
        """
        folder = Path(root).expanduser().absolute()
        if not folder.is_dir():
            siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
            raise DataError(
                f"{folder}: no such folder{nearest(folder.name, siblings)}; expected a TuSimple data set"
            )
        bases = [base for base in (folder, folder / "train_set", folder / "test_set") if base.is_dir()]
        found = cls(folder, bases)
        has_list = any((base / CONVERTED).is_file() for base in bases)
        if not has_list and not found._label_files("label_data*") + found._label_files("test_label*"):
            raise DataError(f"{folder}: no labels ({_seen(folder)}), expected {_LAYOUT}")
        if converted and not has_list:
            raise DataError(f"{folder}: no {CONVERTED}, expected the list that upstream's conversion writes")
        found.converted = has_list and (converted or not found._label_files("label_data*"))
        return found

    def split(self, name: str) -> list[LaneRow]:
        """Return the rows of a part of the data set, in the order of the files.

        * ``train``: the rows of every ``label_data*.json`` but ``label_data_val*.json``; with a ``train.txt``, those
          that it names (one image a line); with a ``val.txt`` alone, those that it does not name.
        * ``val``: those that ``val.txt`` names; else ``label_data_val*.json``; else the test rows; else, with a
          warning, the training rows.
        * ``test``: the rows of every ``test_label*.json``.

        A row without any lane is kept: a picture without lanes. A training row whose image is missing is left out.
        One warning says the former for all rows, and one for each image the latter.

        Raises:
            ConfigError: another name.
            DataError: there are no rows, a label file is malformed (file and line are named), labels are for a larger
                picture than 1280 x 720, ``train.txt`` or ``val.txt`` names an image without a label, more than 1 % of
                the training images are missing, or any other image is, or a clip to be scored is there twice.
        """
        if name not in SPLITS:
            raise ConfigError(
                f"split '{name}': no such part{nearest(name, SPLITS)}; expected train, val or test"
            )
        rows = {"train": self._train, "val": self._val, "test": self._test}[name]()
        _check_heights(rows)
        if name != "train":
            _check_once(rows)
        laneless = [row for row in rows if row.segmentation is None and not np.any(row.lanes >= 0)]
        if laneless:
            _LOG.warning(
                "%s: %s has no lane%s; kept as a picture without lanes",
                laneless[0].where,
                laneless[0].raw_file,
                f", nor have {len(laneless) - 1} more rows" if len(laneless) > 1 else "",
            )
        return self._present(rows, training=name == "train")

    def image(self, row: LaneRow) -> Path:
        """Return the path of a row's image; DataError where there is none."""
        found = self._find(row.raw_file)
        if found is None:
            raise DataError(f"{row.where or self.root}: {self._missing(row)}")
        return found

    def marks(self, row: LaneRow) -> NDArray[np.uint8]:
        """Return the lanes of a row as a picture (720, 1280) uint8, 1 to 4 on the lane of that slot, else 0.

        Raises:
            DataError: the picture that a converted list names is missing, or is none.
        """
        if row.segmentation is None:
            return slot_marks(row.lanes, row.h_samples)
        path = self._find(row.segmentation)
        if path is None:
            raise DataError(
                f"{row.where}: {row.segmentation}: no such picture of lanes in {self.root}; convert the labels again"
            )
        marks = read_marks(path, SLOTS)
        if marks.shape != LABEL_SIZE[::-1]:
            check_shape(path, (marks.shape[1], marks.shape[0]))
            picture = Image.fromarray(marks).resize(LABEL_SIZE, Image.Resampling.NEAREST)
            marks = np.array(picture, dtype=np.uint8)
        return marks

    def _train(self) -> list[LaneRow]:
        if self.converted:
            return self._converted_rows()
        rows = _read(self._label_files("label_data*", without="label_data_val*"))
        if (named := self._list("train.txt")) is not None:
            return _named(named, rows)
        if (held_out := self._list("val.txt")) is not None:
            names = {row.raw_file for row in _named(held_out, rows)}
            rows = [row for row in rows if row.raw_file not in names]
        if not rows:
            raise DataError(f"{self.root}: no rows to train on ({_seen(self.root)}), expected {_LAYOUT}")
        return rows

    def _val(self) -> list[LaneRow]:
        if (named := self._list("val.txt")) is not None:
            return _named(named, _read(self._label_files("label_data*")))
        if files := self._label_files("label_data_val*") or self._label_files("test_label*"):
            return _read(files)
        rows = _read(self._label_files("label_data*"))
        if not rows:
            raise DataError(
                f"{self.root}: no rows to evaluate on, expected test_label.json, label_data_val.json or a val.txt "
                "beside JSON labels"
            )
        if not self._no_validation_told:
            _LOG.warning(
                "%s: neither val.txt nor test_label.json: evaluating on the training rows", self.root
            )
            self._no_validation_told = True
        return rows

    def _test(self) -> list[LaneRow]:
        files = self._label_files("test_label*")
        if not files:
            raise DataError(
                f"{self.root}: no test_label.json ({_seen(self.root)}); the benchmark gives the labels of its test "
                "clips under that name"
            )
        return _read(files)

    def _label_files(self, stem: str, without: str | None = None) -> list[Path]:
        """JSON files by name; where several folders have one of the same name, the first folder's."""
        files: dict[str, Path] = {}
        for base in self.bases:
            left_out = set(base.glob(f"{without}.json")) if without else set()
            for file in sorted(set(base.glob(f"{stem}.json")) - left_out):
                files.setdefault(file.name, file)
        return [files[name] for name in sorted(files)]

    def _list(self, name: str) -> list[tuple[str, str]] | None:
        """The images that a list names and where it does; None where there is no such list."""
        file = next((base / name for base in self.bases if (base / name).is_file()), None)
        if file is None:
            return None
        lines = enumerate(read_text(file).splitlines(), start=1)
        named = [(f"{file}:{number}", line.split()[0]) for number, line in lines if line.strip()]
        if not named:
            raise DataError(f"{file}: names no image, expected one a line as raw_file in the labels")
        return named

    def _converted_rows(self) -> list[LaneRow]:
        file = next(base / CONVERTED for base in self.bases if (base / CONVERTED).is_file())
        rows = []
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            if len(words) < 2:
                raise DataError(
                    f"{file}:{number}: '{line.strip():.60}', expected an image and the picture of its lanes"
                )
            nothing = np.zeros((0, 0), np.int64)
            rows.append(LaneRow(words[0], nothing, np.zeros(0, np.int64), None, f"{file}:{number}", words[1]))
        if not rows:
            raise DataError(
                f"{file}: lists no image, expected one and the picture of its lanes in every line"
            )
        return rows

    def _present(self, rows: list[LaneRow], *, training: bool) -> list[LaneRow]:
        missing = [row for row in rows if self._find(row.raw_file) is None]
        if not missing:
            return rows
        if not training or len(missing) > _MAY_BE_MISSING * len(rows):
            more = f"; {len(missing)} of {len(rows)} images are missing" if len(missing) > 1 else ""
            raise DataError(f"{missing[0].where}: {self._missing(missing[0])}{more}")
        for row in missing:
            _LOG.warning("%s: %s; training goes on without it", row.where, self._missing(row))
        gone = set(map(id, missing))
        return [row for row in rows if id(row) not in gone]

    def _find(self, name: str) -> Path | None:
        relative = name.lstrip("/")
        return next((base / relative for base in self.bases if (base / relative).is_file()), None)

    def _missing(self, row: LaneRow) -> str:
        return f"{row.raw_file}: no such image in {self.root}"


def check_shape(path: str | Path, size: tuple[int, int]) -> None:
    """Raise DataError where a picture of this width and height cannot show what a label of 1280 x 720 is for."""
    width, height = size
    if abs(width * LABEL_SIZE[1] - height * LABEL_SIZE[0]) > 0.02 * width * LABEL_SIZE[1]:
        raise DataError(
            f"{path}: {width} x {height} pixels, expected the proportions of {LABEL_SIZE[0]} x {LABEL_SIZE[1]}, which "
            "the labels are for, at any size"
        )


def _read(files: Iterable[Path]) -> list[LaneRow]:
    return [row for file in files for row in read_rows(file)]


def _named(named: list[tuple[str, str]], rows: list[LaneRow]) -> list[LaneRow]:
    by_name = {row.raw_file: row for row in rows}
    for where, name in named:
        if name not in by_name:
            raise DataError(f"{where}: {name} has no label{nearest(name, by_name)}")
    return [by_name[name] for _, name in named]


def _check_heights(rows: list[LaneRow]) -> None:
    for row in rows:
        if len(row.h_samples) and row.h_samples.max() >= LABEL_SIZE[1]:
            raise DataError(
                f"{row.where}: h_samples up to {row.h_samples.max()}, expected below {LABEL_SIZE[1]}: labels are for a "
                f"picture of {LABEL_SIZE[0]} x {LABEL_SIZE[1]} pixels"
            )


def _check_once(rows: list[LaneRow]) -> None:
    places: dict[str, str] = {}
    for row in rows:
        if row.raw_file in places:
            raise DataError(f"{row.where}: {row.raw_file} again, already in {places[row.raw_file]}")
        places[row.raw_file] = row.where


def _seen(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return f"found {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}" if names else "it is empty"

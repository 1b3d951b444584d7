"""CIFAR-10 in its binary form, from a folder and from an archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from image_sets import RECORD, cifar10_binary, pack, pixels, write

from slr_det.data.classification import MemorySplit, open_classification
from slr_det.data.splits import IMAGENET_MEAN, IMAGENET_STD
from slr_det.errors import DataError


@pytest.mark.parametrize("form", ["folder", "inner folder", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"])
def test_every_record_is_read(form: str, tmp_path: Path) -> None:
    contents = cifar10_binary()
    if form == "folder":
        place = write(tmp_path / "c", contents)
    elif form == "inner folder":
        place = write(tmp_path / "c", {"cifar-10-batches-bin/" + k: v for k, v in contents.items()})
        write(place, {"other/readme.html": b""})
    else:
        place = pack(tmp_path / f"c{form}", {"./cifar-10-batches-bin/" + k: v for k, v in contents.items()})
    data = open_classification(place)
    assert data.classes[0] == "airplane" and data.classes[9] == "truck"
    assert (data.channels, data.size, data.skipped) == (3, (32, 32), ())
    assert (data.mean, data.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert isinstance(data.train, MemorySplit) and isinstance(data.val, MemorySplit)
    wanted = torch.from_numpy(np.stack([pixels(seed) for seed in range(120)])).permute(0, 3, 1, 2)
    assert torch.equal(data.train.images, wanted[:100])
    assert torch.equal(data.val.images, wanted[100:])
    assert data.train.labels.tolist() == [i % 10 for i in range(100)]
    assert torch.equal(data.val.image(3), wanted[103])


def test_a_subset_is_stratified(tmp_path: Path) -> None:
    data = open_classification(write(tmp_path, cifar10_binary()), train_images=31, val_images=10)
    assert data.train.labels.bincount().tolist() == [4, *[3] * 9]
    assert data.val.labels.bincount().tolist() == [1] * 10
    assert isinstance(data.val, MemorySplit) and data.val.images.shape == (10, 3, 32, 32)


def test_names_of_classes_come_from_the_meta_file(tmp_path: Path) -> None:
    contents = cifar10_binary(1)
    names = [f"class {i}" for i in range(10)]
    write(tmp_path, {**contents, "batches.meta.txt": "\n".join(names).encode()})
    assert open_classification(tmp_path).classes == tuple(names)
    write(tmp_path, {"batches.meta.txt": b"one\ntwo\n"})
    with pytest.raises(DataError, match=r"batches\.meta\.txt: 2 different class names, expected 10"):
        open_classification(tmp_path)
    (tmp_path / "batches.meta.txt").unlink()
    assert open_classification(tmp_path).classes[3] == "cat"


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    contents = cifar10_binary(1)
    del contents["data_batch_3.bin"], contents["test_batch.bin"]
    with pytest.raises(DataError, match=r"needs data_batch_3\.bin, test_batch\.bin too"):
        open_classification(write(tmp_path, contents))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-1], r"data_batch_2\.bin: 6,145 bytes, expected a multiple of 3,073"),
        (lambda b: b"", r"data_batch_2\.bin: 0 bytes, expected a multiple of 3,073"),
        (
            lambda b: b[:RECORD] + b"\x0a" + b[RECORD + 1 :],
            r"2\.bin: record 1 has label 10, expected 0 to 9",
        ),
    ],
)
def test_a_damaged_batch_is_named(change: object, message: str, tmp_path: Path) -> None:
    contents = cifar10_binary(2)
    contents["data_batch_2.bin"] = change(contents["data_batch_2.bin"])  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        open_classification(write(tmp_path, contents))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    folder = write(tmp_path, cifar10_binary(1))
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(DataError, match=r"batches\.meta\.txt: cannot be read \(Input/output error\)"):
        open_classification(folder)

"""What is classification data, which part of it is taken, and how a batch is augmented."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from image_sets import image_folder, pack, write

from slr_det.data.augment import augment_batch, normalise
from slr_det.data.classification import MemorySplit, open_classification
from slr_det.data.subset import stratified
from slr_det.errors import ConfigError, DataError, MissingExtraError


def test_the_digits_are_split_the_same_way_every_time() -> None:
    data = open_classification("digits")
    assert isinstance(data.train, MemorySplit) and isinstance(data.val, MemorySplit)
    assert data.train.images.shape == (1297, 1, 8, 8) and data.val.images.shape == (500, 1, 8, 8)
    assert data.train.images.dtype == torch.uint8 and data.train.labels.dtype == torch.int64
    assert data.val.labels.bincount().tolist() == [50] * 10
    assert (data.classes, data.channels, data.size) == (tuple("0123456789"), 1, (8, 8))
    # A change of the split would make every figure that was measured on it wrong.
    assert data.val.labels[:16].tolist() == [0, 1, 3, 9, 8, 9, 0, 8, 9, 8, 1, 7, 3, 7, 8, 2]


def test_the_digits_are_the_source_scaled_to_bytes() -> None:
    source = pytest.importorskip("sklearn.datasets").load_digits()
    data = open_classification("digits")
    every = torch.cat([data.train.images, data.val.images])[:, 0]  # type: ignore[union-attr]
    labels = torch.cat([data.train.labels, data.val.labels])
    assert every.max() == 255 and every.min() == 0
    wanted = sorted(
        (int(label), [int(v * 255 / 16 + 0.5) for v in image.ravel()])
        for image, label in zip(source.images, source.target, strict=True)
    )
    found = sorted((int(label), image.ravel().tolist()) for image, label in zip(every, labels, strict=True))
    assert found == wanted
    train = data.train.images.double() / 255  # type: ignore[union-attr]
    assert data.mean == pytest.approx((float(train.mean()),), abs=1e-6)
    assert data.std == pytest.approx((float(train.std(correction=0)),), abs=1e-6)


def test_without_scikit_learn_the_digits_name_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r'uv pip install "slr-det\[classify\]"'):
        open_classification("digits")


def test_a_subset_has_equal_shares_and_a_larger_one_holds_a_smaller_one() -> None:
    every = open_classification("digits")
    some = open_classification("digits", train_images=200, val_images=53, seed=3)
    assert some.train.labels.bincount().tolist() == [20] * 10
    assert some.val.labels.bincount().tolist() == [6, 6, 6, 5, 5, 5, 5, 5, 5, 5]
    again = open_classification("digits", train_images=200, seed=3)
    other = open_classification("digits", train_images=200, seed=4)
    more = open_classification("digits", train_images=300, seed=3)
    rows = [
        {tuple(image.ravel().tolist()) for image in data.train.images}  # type: ignore[union-attr]
        for data in (every, some, again, other, more)
    ]
    assert rows[1] == rows[2] != rows[3]
    assert rows[1] < rows[4] < rows[0]
    assert len(open_classification("digits", train_images=5000).train) == 1297


def test_what_a_small_class_lacks_the_others_give() -> None:
    labels = np.array([0] * 2 + [1] * 9 + [2] * 9)
    for wanted, shares in ((12, [2, 5, 5]), (13, [2, 6, 5]), (20, [2, 9, 9]), (7, [2, 3, 2]), (3, [1, 1, 1])):
        chosen = stratified(labels, 3, wanted, (0,))
        assert np.bincount(labels[chosen]).tolist() == shares
        assert chosen.tolist() == sorted(set(chosen.tolist()))
    # The permutation itself, so that a figure from a subset can be made again.
    assert stratified(labels, 3, 6, (0,)).tolist() == [0, 1, 3, 5, 13, 19]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"train_images": 0, "val_images": -1}, r"train_images: 0, .* from 1.*; val_images: -1, "),
        ({"val_images": 9}, r"val_images: 9, expected at least 10, one image per class"),
        ({"seed": -1}, r"seed: -1, expected 0 or more"),
    ],
)
def test_a_wrong_number_of_images_is_named(wanted: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_classification("digits", **wanted)  # type: ignore[arg-type]


def test_what_is_no_data_set_is_named_with_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "cifar").mkdir()
    with pytest.raises(DataError, match=r"'.*cifra': no such file or folder \(did you mean 'cifar'\?\)"):
        open_classification(str(tmp_path / "cifra"))
    with pytest.raises(DataError, match=r"did you mean 'digits'"):
        open_classification(str(tmp_path / "digit"))
    with pytest.raises(
        DataError, match=r"cifar: no classification data \(it is empty\).*train/CLASS.*batch_1"
    ):
        open_classification(tmp_path / "cifar")
    write(tmp_path / "typo", {"trian/a/1.png": b"", "val/a/1.png": b"", "notes.txt": b""})
    with pytest.raises(DataError, match=r"it holds trian/, val/, notes\.txt\) \(did you mean 'trian'\?\)"):
        open_classification(tmp_path / "typo")
    write(tmp_path, {"set.zip": b"PK"})
    with pytest.raises(DataError, match=r"a file '\.zip', expected a folder or a tar archive .* unpack it"):
        open_classification(tmp_path / "set.zip")


def test_the_python_version_of_cifar_is_not_unpickled(tmp_path: Path) -> None:
    archive = pack(tmp_path / "py.tar.gz", {"cifar-10-batches-py/data_batch_1": b"\x80\x02}"})
    with pytest.raises(DataError, match=r"data_batch_1: CIFAR-10's Python version, .*cifar-10-binary"):
        open_classification(archive)


def test_a_data_set_may_lie_one_folder_deeper(tmp_path: Path) -> None:
    contents = image_folder(2)
    write(tmp_path / "outer" / "inner", contents)
    assert open_classification(tmp_path / "outer").classes == ("a", "b", "c")
    write(tmp_path / "outer" / "second", {"x": b""})
    with pytest.raises(DataError, match=r"it holds inner/, second/"):
        open_classification(tmp_path / "outer")


@pytest.mark.parametrize(("pad", "flip"), [(4, True), (3, False), (0, True), (0, False), (40, True)])
def test_a_batch_is_augmented_as_a_loop_over_its_images_would(pad: int, flip: bool) -> None:
    images = torch.randint(0, 256, (23, 3, 9, 12), dtype=torch.uint8)
    before = images.clone()
    state = torch.Generator().manual_seed(5)
    found = augment_batch(images, state, pad, flip)

    draws = torch.Generator().manual_seed(5)
    offsets = torch.randint(0, 2 * pad + 1, (2, 23), generator=draws) if pad else torch.zeros(2, 23).long()
    coins = torch.rand(23, generator=draws) < 0.5 if flip else torch.zeros(23).bool()
    wanted = torch.zeros_like(images)
    for n in range(23):
        for y in range(9):
            for x in range(12):
                row, column = y + int(offsets[0, n]) - pad, x + int(offsets[1, n]) - pad
                if 0 <= row < 9 and 0 <= column < 12:
                    wanted[n, :, y, 11 - x if coins[n] else x] = images[n, :, row, column]
    assert found.dtype == torch.uint8
    assert torch.equal(found, wanted)
    assert torch.equal(images, before)
    assert torch.equal(state.get_state(), draws.get_state())


def test_crops_reach_every_offset_and_half_the_images_are_mirrored() -> None:
    images = torch.zeros(4000, 1, 5, 7, dtype=torch.uint8)
    images[:, :, 2, 3] = 255
    moved = augment_batch(images, torch.Generator().manual_seed(0), 1, False)
    places = moved.flatten(1).argmax(1)
    assert places.unique().tolist() == [y * 7 + x for y in (1, 2, 3) for x in (2, 3, 4)]
    images[:] = torch.arange(35, dtype=torch.uint8).view(5, 7)
    mirrored = augment_batch(images, torch.Generator().manual_seed(0), 0, True)
    assert 0.47 < float((mirrored[:, 0, 0, 0] == 6).float().mean()) < 0.53


def test_pixels_are_normalised_per_channel() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    found = normalise(images, (0.5, 0.1, 0.25), (0.5, 0.2, 0.25))
    assert found.dtype == torch.float32 and found.shape == (2, 3, 4, 4)
    assert found[1, :, 3, 3].tolist() == pytest.approx([-1.0, 0.5, 3.0])
    assert images[0, 1, 0, 0] == 51

"""ImageFolder layout: which images and classes are found, what is held in memory, and what corrupt files do."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from image_sets import encode, image_folder, pack, pixels, write
from PIL import Image
from sample_sets import sample

from slr_det.data import archive
from slr_det.data import image_folder as layout
from slr_det.data.classification import FileSplit, MemorySplit, open_classification
from slr_det.data.splits import IMAGENET_MEAN
from slr_det.errors import ConfigError, DataError


@pytest.mark.parametrize("form", ["folder", ".tar", ".tar.xz"])
def test_small_images_of_one_size_are_decoded_into_memory(form: str, tmp_path: Path) -> None:
    contents = image_folder(3, val="test")
    place = write(tmp_path / "d", contents) if form == "folder" else pack(tmp_path / f"d{form}", contents)
    data = open_classification(place)
    assert isinstance(data.train, MemorySplit) and isinstance(data.val, MemorySplit)
    wanted = torch.from_numpy(np.stack([pixels(seed) for seed in range(18)])).permute(0, 3, 1, 2)
    assert torch.equal(data.train.images, wanted[:9]) and torch.equal(data.val.images, wanted[9:])
    assert data.train.images.is_contiguous()
    assert data.train.labels.tolist() == data.val.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert (data.classes, data.channels, data.size) == (("a", "b", "c"), 3, (32, 32))
    assert data.mean == IMAGENET_MEAN


@pytest.mark.parametrize("form", ["folder", ".tar"])
def test_large_images_are_decoded_when_they_are_asked_for(form: str, tmp_path: Path) -> None:
    contents = image_folder(2, height=65, width=40)
    place = write(tmp_path / "d", contents) if form == "folder" else pack(tmp_path / f"d{form}", contents)
    data = open_classification(place)
    assert isinstance(data.train, FileSplit) and isinstance(data.val, FileSplit)
    assert data.size == (65, 40) and len(data.val) == 6
    assert data.val.paths[1] == f"{place}/val/a/001.png"
    assert np.array_equal(np.asarray(data.val.open(1)), pixels(7, 65, 40))
    assert torch.equal(data.val.image(1), torch.from_numpy(pixels(7, 65, 40)).permute(2, 0, 1))
    part = data.train.take(np.array([5, 0]))
    assert part.labels.tolist() == [2, 0]
    assert np.array_equal(np.asarray(part.open(0)), pixels(5, 65, 40))


def test_images_of_several_sizes_stay_files(tmp_path: Path) -> None:
    write(tmp_path, image_folder(2))
    write(tmp_path, {"val/c/001.png": encode(1, 32, 31)})
    data = open_classification(tmp_path)
    assert isinstance(data.train, FileSplit) and isinstance(data.val, FileSplit)
    assert data.size is None


def test_too_many_small_images_for_memory_stay_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, image_folder(2))
    monkeypatch.setattr(layout, "MEMORY_BYTES", 12 * 3 * 32 * 32 - 1)
    assert isinstance(open_classification(tmp_path).train, FileSplit)
    monkeypatch.setattr(layout, "MEMORY_BYTES", 12 * 3 * 32 * 32)
    assert isinstance(open_classification(tmp_path).train, MemorySplit)


def test_every_kind_of_image_becomes_rgb(tmp_path: Path) -> None:
    write(tmp_path, image_folder(1, "ab"))
    grey = Image.fromarray(pixels(0)[:, :, 0])
    grey.save(tmp_path / "train" / "a" / "1.png")
    Image.fromarray(np.dstack([pixels(1), pixels(2)[:, :, 0]])).save(tmp_path / "train" / "a" / "2.PNG")
    Image.fromarray(pixels(3)).convert("CMYK").save(tmp_path / "train" / "a" / "3.jpeg")
    Image.fromarray(pixels(4)).save(tmp_path / "train" / "a" / "4.bmp")
    # ImageNet has a few that are another format than their name says.
    (tmp_path / "train" / "a" / "5.jpg").write_bytes(encode(5))
    data = open_classification(tmp_path)
    assert isinstance(data.train, MemorySplit)
    images = data.train.images.permute(0, 2, 3, 1).numpy()
    assert data.train.labels.tolist() == [0] * 6 + [1]
    assert np.array_equal(images[1], np.repeat(pixels(0)[:, :, :1], 3, axis=2))
    assert np.array_equal(images[2], pixels(1))
    assert np.array_equal(images[4], pixels(4)) and np.array_equal(images[5], pixels(5))


def test_other_files_are_ignored_and_images_may_lie_deeper(tmp_path: Path) -> None:
    write(tmp_path, image_folder(1))
    write(
        tmp_path,
        {
            "train/a/deep/er/x.png": encode(90),
            "train/a/boxes.txt": b"n",
            "train/a/._000.png": b"resource fork",
            "train/readme.md": b"",
            "train/.cache/x.png": b"",
            "val/Thumbs.db": b"",
        },
    )
    data = open_classification(tmp_path)
    assert data.classes == ("a", "b", "c")
    assert data.train.labels.tolist() == [0, 0, 1, 2]
    assert torch.equal(data.train.image(1), torch.from_numpy(pixels(90)).permute(2, 0, 1))


def test_val_is_preferred_to_test(tmp_path: Path) -> None:
    write(tmp_path, image_folder(1))
    write(tmp_path, {"test/z/1.png": encode(1)})
    assert open_classification(tmp_path).classes == ("a", "b", "c")


def test_a_subset_is_chosen_before_any_image_is_looked_at(tmp_path: Path) -> None:
    write(tmp_path, image_folder(10))
    whole = open_classification(tmp_path, train_images=6, seed=1)
    assert whole.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    kept = {whole.train.image(i).numpy().tobytes() for i in range(6)}
    for file in (tmp_path / "train").rglob("*.png"):
        if torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).numpy().tobytes() not in kept:
            file.write_bytes(b"")
    again = open_classification(tmp_path, train_images=6, seed=1)
    assert {again.train.image(i).numpy().tobytes() for i in range(6)} == kept
    assert again.skipped == ()
    with pytest.raises(ConfigError, match=r"train_images: 2, expected at least 3"):
        open_classification(tmp_path, train_images=2)


def corrupt(kind: str) -> bytes:
    whole = encode(500, kind="JPEG")
    return {
        "empty": b"",
        "text": b"<html>404</html>",
        "cut jpeg": whole[: len(whole) // 2],
        "cut png": encode(500)[:-20],
        "header only": whole[:20],
    }[kind]


def damaged_png() -> bytes:
    content = bytearray(encode(500))
    content[200:260] = bytes(60)
    return bytes(content)


@pytest.mark.parametrize("form", ["memory", "files", ".tar"])
@pytest.mark.parametrize("kind", ["empty", "text", "cut jpeg", "cut png", "header only"])
def test_one_corrupt_image_in_a_hundred_is_named_and_skipped(form: str, kind: str, tmp_path: Path) -> None:
    contents = image_folder(50, "ab", height=70 if form == "files" else 8, width=8)
    contents["train/a/007.png"] = corrupt(kind)
    place = pack(tmp_path / f"d{form}", contents) if form == ".tar" else write(tmp_path / "d", contents)
    said: list[str] = []
    data = open_classification(place, say=said.append)
    assert len(data.train) == 99 and len(data.val) == 100
    assert data.train.labels.tolist() == [0] * 49 + [1] * 50
    assert data.skipped == (f"{place}/train/a/007.png",)
    assert len(said) == 1 and said[0].startswith(f"{place}/train/a/007.png: ") and "\n" not in said[0]
    assert np.array_equal(data.train.image(57).permute(1, 2, 0).numpy(), pixels(58, *(data.size or ())))


def test_an_image_damaged_inside_is_skipped_in_memory_and_named_by_open(tmp_path: Path) -> None:
    write(tmp_path / "small", {**image_folder(50, "ab"), "train/b/007.png": damaged_png()})
    said: list[str] = []
    data = open_classification(tmp_path / "small", say=said.append)
    assert data.skipped == (str(tmp_path / "small" / "train/b/007.png"),) and len(data.train) == 99
    assert torch.equal(data.train.image(57), torch.from_numpy(pixels(58)).permute(2, 0, 1))
    assert "cannot be decoded; skipped" in said[0]
    write(tmp_path / "large", {**image_folder(2, height=80), "train/b/001.png": damaged_png()})
    split = open_classification(tmp_path / "large").train
    assert isinstance(split, FileSplit)
    with pytest.raises(DataError, match=r"train/b/001\.png: cannot be decoded \(.*\); replace or delete"):
        split.open(3)
    (tmp_path / "large" / "train/b/000.png").unlink()
    with pytest.raises(DataError, match=r"train/b/000\.png: cannot be decoded \(No such file"):
        split.open(2)


def test_more_than_one_percent_of_corrupt_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path, image_folder(100, "ab", height=4, width=4))
    for number in range(2):
        (tmp_path / "val" / "a" / f"00{number}.png").write_bytes(b"")
    assert len(open_classification(tmp_path, say=list).skipped) == 2
    for number in range(4):
        (tmp_path / "val" / "b" / f"00{number}.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"val: 6 of 200 images cannot be read, more than 1% \(\S+a/000\.png: empty"
    ):
        open_classification(tmp_path)


def test_many_corrupt_images_are_counted_not_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, image_folder(250, "ab", height=2, width=2))
    for number in range(5):
        (tmp_path / "train" / "a" / f"00{number}.png").write_bytes(b"")
    data = open_classification(tmp_path)
    assert len(data.skipped) == 5 and len(data.train) == 495
    assert len(caplog.messages) == 4
    assert caplog.messages[3] == f"{tmp_path}/train: 5 of 500 images cannot be read and are skipped"


def test_a_class_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    write(tmp_path, image_folder(120, "ab", height=2, width=2))
    write(tmp_path, {"train/c/0.png": b"", "val/c/0.png": encode(0, 2, 2)})
    with pytest.raises(DataError, match=r"train: no image of class 'c' can be read \(.*c/0\.png: empty file"):
        open_classification(tmp_path)


def test_jpegs_with_a_few_bytes_behind_their_end_are_whole(tmp_path: Path) -> None:
    write(tmp_path, image_folder(1))
    for name in ("train/a/1.jpg", "train/b/1.jpg"):
        write(tmp_path, {name: encode(1, kind="JPEG") + bytes(100)})
    assert open_classification(tmp_path).skipped == ()


@pytest.mark.parametrize("form", ["folder", ".tar"])
def test_an_empty_class_folder_is_named(form: str, tmp_path: Path) -> None:
    contents = {k: v for k, v in image_folder(1).items() if not k.startswith("train/b")}
    place = write(tmp_path / "d", {**contents, "train/b/notes.txt": b""})
    if form == ".tar":
        with tarfile.open(tmp_path / "d.tar", "w") as tar:
            tar.add(place, "d")
        place = tmp_path / "d.tar"
    with pytest.raises(
        DataError, match=r"train/b: a class folder without images; add images of the class or remove"
    ):
        open_classification(place)


def test_different_classes_are_named(tmp_path: Path) -> None:
    write(tmp_path, {k.replace("val/c", "val/d"): v for k, v in image_folder(1).items()})
    write(tmp_path, {f"train/x{i}/1.png": encode(0) for i in range(5)})
    with pytest.raises(
        DataError,
        match=r"only in train/: 'c', 'x0', 'x1' and 3 more and only in val/: 'd'; both need the same",
    ):
        open_classification(tmp_path)


def test_a_set_without_a_part_for_validation_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {k.replace("val/", "valdation/"): v for k, v in image_folder(1).items()})
    with pytest.raises(
        DataError, match=r"train/ but no val/, valid/, validation/ or test/ beside it \(there is valdation/\)"
    ):
        open_classification(tmp_path)


def test_images_without_class_folders_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"train/1.png": encode(0), "train/2.png": encode(1), "val/1.png": encode(2)})
    with pytest.raises(
        DataError, match=r"train: 0 class folders and 2 images, expected a folder of images for each"
    ):
        open_classification(tmp_path)


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=rf"{tmp_path}: cannot be read \(Permission denied\)$"):
        open_classification(tmp_path)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz", ".tar.bz2"])
def test_a_truncated_archive_is_refused_wherever_it_is_cut(suffix: str, tmp_path: Path) -> None:
    whole = pack(tmp_path / f"whole{suffix}", image_folder(3, height=8, width=8)).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    # Between members, in a header, and in the data of a member of a .tar, whose members take 1024 bytes here.
    lengths = [5 * 1024, 5 * 1024 + 100, 5 * 1024 + 600] if suffix == ".tar" else [len(whole) // 2, 30, 5]
    for length in [*lengths, 0]:
        cut.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"cut{suffix}: .*(fetch it again|no classification data)"):
            open_classification(cut)


def test_an_archive_that_is_none_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"page.tar.gz": b"<html>" * 1000})
    with pytest.raises(DataError, match=r"page\.tar\.gz: cannot be read as a tar archive \("):
        open_classification(tmp_path / "page.tar.gz")


def test_members_that_climb_out_or_link_are_left_out(tmp_path: Path) -> None:
    secret = write(tmp_path, {"secret.png": encode(77)}) / "secret.png"
    path = pack(tmp_path / "d.tar", image_folder(2))
    with tarfile.open(path, "a") as tar:
        for name in (
            "../train/a/9.png",
            "/train/a/9.png",
            "train/../train/a/9.png",
            "train/a/" + "x/" * 40 + "9.png",
        ):
            member = tarfile.TarInfo(name)
            content = encode(99)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"train/a/{kind.decode()}.png")
            member.type, member.linkname = kind, str(secret)
            tar.addfile(member)
    data = open_classification(path)
    assert len(data.train) == 6
    assert sorted(tmp_path.iterdir()) == [path, secret]


def test_an_archive_that_declares_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = tarfile.TarInfo("train/a/huge.png")
    huge.size = 2**50
    (tmp_path / "d.tar").write_bytes(huge.tobuf() + bytes(10240))
    with pytest.raises(
        DataError, match=r"'train/a/huge\.png' declares 1,125,899,906,842,624 bytes, expected"
    ):
        open_classification(tmp_path / "d.tar")
    monkeypatch.setattr(archive, "TOTAL_BYTES", 10_000)
    with pytest.raises(DataError, match=r"more than 10,000 bytes, too many to keep in memory; unpack it"):
        open_classification(pack(tmp_path / "e.tar", image_folder(2)))


def test_of_two_members_of_one_name_the_later_counts(tmp_path: Path) -> None:
    path = pack(tmp_path / "d.tar", image_folder(1))
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("train/a/000.png")
        member.size = len(encode(99))
        tar.addfile(member, io.BytesIO(encode(99)))
    data = open_classification(path)
    assert len(data.train) == 3
    assert torch.equal(data.train.image(0), torch.from_numpy(pixels(99)).permute(2, 0, 1))


@pytest.mark.slow
@pytest.mark.samples
def test_all_of_cifar10_as_jpeg_is_read() -> None:
    data = open_classification(sample("cifar10/cifar10_jpg_all.tar.xz"))
    assert isinstance(data.train, MemorySplit) and isinstance(data.val, MemorySplit)
    assert data.train.images.shape == (50000, 3, 32, 32) and data.val.images.shape == (10000, 3, 32, 32)
    assert data.val.labels.bincount().tolist() == [1000] * 10
    mean = data.train.images.double().mean((0, 2, 3)) / 255
    # The published mean of the lossless training images.
    assert mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-3)

"""What a classifier is trained and evaluated on: subsets of one read, photographs of all kinds, unreadable images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slr_det.data.classification import FileSplit, MemorySplit, open_classification
from slr_det.errors import CheckpointError, ConfigError, DataError

pytest.importorskip("timm", reason='needs the classify extra: uv pip install "slr-det[classify]"')
pytest.importorskip("mmengine", reason='needs the classify extra: uv pip install "slr-det[classify]"')

from slr_det_adapters.timm import ClassifierAdapter, datasets
from slr_det_adapters.timm.arguments import Arguments
from slr_det_adapters.timm.cards import Card
from slr_det_adapters.timm.datasets import data_of, open_data, require_fit
from slr_det_adapters.timm.loaders import Images, images_of, loader, prepared, shuffled
from slr_det_adapters.timm.scores import TopKMetric
from slr_det_adapters.timm.starting import new_model, require_size

DIGITS = Card("digits_cnn", tuple("0123456789"), 1, (8, 8), (0.3,), (0.4,))
PHOTOS = Card("test_resnet", ("blue", "red"), 3, (32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(autouse=True)
def _read_again() -> None:
    datasets.forget()


def photographs(folder: Path, train: int = 24, val: int = 8) -> Path:
    """Red and blue pictures of differing sizes and kinds; blue's mean in the third channel tells them apart."""
    kinds: list[Callable[[Image.Image], Image.Image]] = [
        lambda picture: picture,
        lambda picture: picture.convert("L"),
        lambda picture: picture.convert("P"),
        lambda picture: picture.convert("RGBA"),
    ]
    draw = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            name = ("red", "blue")[number % 2]
            height, width = draw.integers(40, 90, 2)
            pixels = draw.integers(0, 60, (height, width, 3), dtype=np.uint8)
            pixels[..., 0 if name == "red" else 2] += 150
            picture = kinds[number // 2 % 4](Image.fromarray(pixels))
            where = folder / split / name / f"{number}.{'jpg' if picture.mode in ('RGB', 'L') else 'png'}"
            where.parent.mkdir(parents=True, exist_ok=True)
            picture.save(where)
    return folder


def break_body(path: Path) -> None:
    """Damage a picture where the scan of headers and ends does not look."""
    content = bytearray(path.read_bytes())
    assert path.suffix == ".png"
    at = content.index(b"IDAT") + 4
    content[at : at + 40] = bytes(40)
    path.write_bytes(content)


def png_folder(folder: Path, train: int, val: int = 4) -> Path:
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            where = folder / split / ("red", "blue")[number % 2] / f"{number:03}.png"
            where.parent.mkdir(parents=True, exist_ok=True)
            side = 70 + number % 2  # of two sizes, so that they stay files
            pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(where)
    return folder


# -- one read ---------------------------------------------------------------------------------------------


def test_subsets_are_those_of_the_library_out_of_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def counted(*args: object, **kwargs: object) -> object:
        reads.append(args)
        return open_classification(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(datasets, "open_classification", counted)
    adapter = ClassifierAdapter()
    data = adapter.prepare_data("digits", Path("unused"))
    assert adapter.classes(data) == 10
    found = data_of(str(data), Arguments(train_images=205, val_images=50))
    whole = data_of(str(data), Arguments())
    assert len(reads) == 1
    wanted = open_classification("digits", train_images=205, val_images=50)
    for one, other in ((found.train, wanted.train), (found.val, wanted.val)):
        assert isinstance(one, MemorySplit) and isinstance(other, MemorySplit)
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    # Whole splits are the very tensors that were read.
    assert whole.train is open_data("digits").train
    assert data_of("digits", Arguments(train_images=10**6)).train is whole.train
    adapter.prepare_data("digits", Path("unused"))
    assert len(reads) == 2  # a new run reads again


def test_a_subset_smaller_than_the_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="train_images: 5, expected at least 10"):
        data_of("digits", Arguments(train_images=5))


def test_a_model_has_to_fit_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    data = open_data("digits")
    require_fit(DIGITS, data, "m.pt", "digits")
    with pytest.raises(CheckpointError, match="m.pt predicts 2 classes but data=digits has 10"):
        require_fit(PHOTOS, data, "m.pt", "digits")
    with pytest.raises(CheckpointError, match="takes images of 3 channels but those of data=digits have 1"):
        require_fit(Card("x", DIGITS.classes, 3, (8, 8), (), ()), data, "m.pt", "digits")
    assert capsys.readouterr().err == ""
    named = Card("x", (*"012", "drei", *"456789"), 1, (8, 8), (), ())
    require_fit(named, data, "m.pt", "digits")
    (line,) = capsys.readouterr().err.splitlines()
    assert "class 3 is 'drei' in model=m.pt and '3' in data=digits" in line


def test_a_size_that_the_network_cannot_take_is_one_line() -> None:
    net, card, _ = new_model("cifar_vgg16", "", open_data("digits"))
    assert card.size == (8, 8)
    with pytest.raises(ConfigError, match="cifar_vgg16 cannot take images of 8 x 8 pixels .*size=N"):
        require_size(net, card)
    require_size(net, card.at(32))
    assert net.training


def test_small_images_go_to_a_network_at_their_own_size_where_it_can_take_it() -> None:
    data = open_data("digits")
    assert new_model("test_resnet", "", data)[1].size == (8, 8)
    net, card, _ = new_model("test_vit_relpos", "", data)
    assert card.size == (160, 160)
    with pytest.raises(ConfigError, match="test_vit_relpos cannot take images of 64 x 64"):
        require_size(net, card.at(64))


# -- batches ----------------------------------------------------------------------------------------------


def test_photographs_of_every_kind_become_batches(tmp_path: Path) -> None:
    data = open_data(str(photographs(tmp_path)))
    assert isinstance(data.train, FileSplit) and data.classes == ("blue", "red")
    for train in (True, False):
        split = data.train if train else data.val
        items = images_of(split, PHOTOS, Arguments(), train=train)
        batches = list(loader(items, Arguments(batch=6), train=train))
        assert sum(len(batch["labels"]) for batch in batches) == len(split)
        for batch in batches:
            images = prepared(batch["images"], PHOTOS, channels_last=True)
            assert images.dtype == torch.float32 and images.shape[1:] == (3, 32, 32)
            colour = images.mean((2, 3))
            grey = (colour[:, 0] - colour[:, 2]).abs() < 0.1
            assert torch.equal((colour[:, 0] > colour[:, 2])[~grey], (batch["labels"] == 1)[~grey])
            assert float(images.abs().max()) <= 1.0 + 1e-6


def test_evaluation_shows_the_centre_of_a_photograph_in_the_models_own_way(tmp_path: Path) -> None:
    """Against the transform written out: shorter side to size / 0.95, bilinear, centre, normalised."""
    from torchvision.transforms import functional

    data = open_data(str(photographs(tmp_path)))
    items = images_of(data.val, PHOTOS, Arguments(flip=True), train=False)
    picture = data.val.open(0)  # type: ignore[union-attr]
    resized = functional.resize(picture, int(32 / 0.95), functional.InterpolationMode.BILINEAR)
    wanted = functional.to_tensor(functional.center_crop(resized, [32, 32])) * 2 - 1
    assert torch.allclose(items[0][0], wanted, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_decoded_gives_way_in_training(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = open_data(str(png_folder(tmp_path, train=110)))
    broken = tmp_path / "train" / "blue" / "001.png"
    break_body(broken)
    items = images_of(data.train, PHOTOS, Arguments(workers=workers, augment="none"), train=True)
    epochs = [
        list(loader(items, Arguments(batch=10, workers=workers), train=True))
        for _ in range(2 if workers == 0 else 1)
    ]
    place = data.train.paths.index(str(broken))  # type: ignore[union-attr]
    images = torch.cat([batch["images"] for batch in epochs[0]])
    assert torch.equal(images[place], images[place + 1])
    assert all(int((batch["labels"] < 0).sum()) == 0 for batch in epochs[0])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert len(said) == 1 and str(broken) in said[0] and said[0].endswith("left out")


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_of_them_end_the_run_in_one_line(workers: int, tmp_path: Path) -> None:
    """Counted over all workers: two of 110 are more than 1 %, one in each worker's share."""
    data = open_data(str(png_folder(tmp_path, train=110)))
    for name in ("001", "023"):  # places 0 and 11 of the split: batches 0 and 1, of different workers
        break_body(tmp_path / "train" / "blue" / f"{name}.png")
    items = images_of(data.train, PHOTOS, Arguments(workers=workers), train=True)
    with pytest.raises(DataError, match="2 of 110 images cannot be decoded, more than 1%: .*png") as caught:
        list(loader(items, Arguments(batch=10, workers=workers), train=True))
    assert "Traceback" not in str(caught.value)


def test_what_a_worker_finds_while_they_are_named_is_judged_with_the_next_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = open_data(str(png_folder(tmp_path, train=110)))
    first = tmp_path / "train" / "blue" / "001.png"
    break_body(first)
    items = images_of(data.train, PHOTOS, Arguments(), train=True)
    items.unreadable[0] = 1
    opened = type(data.train).open

    def open_late(split: object, place: int) -> object:
        items.unreadable[11] = 1  # as another process would, between the look and the verdict
        return opened(split, place)  # type: ignore[arg-type]

    monkeypatch.setattr(type(data.train), "open", open_late)
    items.judge()
    assert str(first) in capsys.readouterr().err
    with pytest.raises(DataError, match="2 of 110 images cannot be decoded"):
        items.judge()


def test_in_evaluation_they_count_for_nothing(tmp_path: Path) -> None:
    data = open_data(str(png_folder(tmp_path, train=4, val=110)))
    break_body(tmp_path / "val" / "blue" / "001.png")
    items = images_of(data.val, PHOTOS, Arguments(), train=False)
    (batch,) = loader(items, Arguments(batch=250), train=False)
    assert len(batch["labels"]) == 110 and int((batch["labels"] < 0).sum()) == 1
    metric = TopKMetric(data.classes)
    right = torch.nn.functional.one_hot(batch["labels"].clamp(min=0), 2).float()
    right[batch["labels"] < 0] = torch.tensor([float("nan"), 0.0])
    metric.process(batch, list(right))
    assert metric.compute_metrics(metric.results)["top1"] == 1.0


def test_a_split_where_nothing_can_be_decoded_ends(tmp_path: Path) -> None:
    data = open_data(str(png_folder(tmp_path, train=10)))
    for path in (tmp_path / "train").rglob("*.png"):
        break_body(path)
    items = images_of(data.train, PHOTOS, Arguments(), train=True)
    with pytest.raises(DataError, match="of 10 images cannot be decoded, more than 1%"):
        list(loader(items, Arguments(batch=2), train=True))


def test_statistics_come_from_equal_batches_and_leave_the_generators_alone() -> None:
    data = data_of("digits", Arguments(train_images=300))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    sizes = [len(batch["labels"]) for batch in shuffled(data, Arguments(), DIGITS, 260, seed=3)]
    assert sizes == [130, 130]
    assert torch.equal(torch.get_rng_state(), before)
    first, again = (next(iter(shuffled(data, Arguments(), DIGITS, 64, seed=3)))["images"] for _ in range(2))
    other = next(iter(shuffled(data, Arguments(), DIGITS, 64, seed=4)))["images"]
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_images_in_memory_are_augmented_in_training_only() -> None:
    data = data_of("digits", Arguments(train_images=50))
    assert isinstance(data.train, MemorySplit)
    plain, augmented = (
        next(iter(loader(images_of(data.train, DIGITS, arguments, train=True), arguments, train=True)))
        for arguments in (Arguments(augment="none", batch=50), Arguments(batch=50, pad=1))
    )
    assert torch.equal(plain["images"], data.train.images)
    assert not torch.equal(augmented["images"], data.train.images)
    assert isinstance(images_of(data.train, DIGITS, Arguments(), train=True), Images)

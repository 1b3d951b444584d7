"""What the backend for a checkout of Ultra-Fast-Lane-Detection does by itself: a stand-in for it is enough."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from slr_det.adapter import TrainJob
from slr_det.data.tusimple.labels import LaneRow, read_rows, write_rows
from slr_det.engine import Engine, Hyper
from slr_det.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from slr_det.groups import GroupSpec, build_groups
from slr_det.models.parsingnet import ParsingNet, ParsingNetConfig
from slr_det.projections import Projection
from slr_det_adapters.randomness import RECALIBRATION, reseed, seed_of, untouched_generators
from slr_det_adapters.ufld import UFLDAdapter, building, checkpoints, configs, inject, training, tusimple
from slr_det_adapters.ufld.arguments import Arguments
from slr_det_adapters.ufld.losses import Losses

TUSIMPLE = """
dataset = 'Tusimple'
data_root = None
epoch = 100
batch_size = 32
optimizer = 'Adam'
learning_rate = 4e-4
weight_decay = 1e-4
momentum = 0.9
scheduler = 'cos'
gamma = 0.1
warmup = 'linear'
warmup_iters = 100
backbone = '18'
griding_num = 100
use_aux = True
sim_loss_w = 1.0
shp_loss_w = 0.0
num_lanes = 4
"""
READER = """
class Config:
    def __init__(self, values):
        self._values = values
        self._cfg_dict = self
    def to_dict(self):
        return dict(self._values)
    @classmethod
    def fromfile(cls, path):
        values = {}
        exec(open(path).read(), values)
        return cls({k: v for k, v in values.items() if not k.startswith('__')})
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the modules of a checkout and hardly anything in them."""
    root = tmp_path / "upstream"
    for name, text in {
        "train.py": "import utils.config\ndef train(): return 'theirs'\n",
        "model/model.py": "",
        "data/dataloader.py": "",
        "utils/factory.py": "",
        "utils/config.py": READER,
        "configs/tusimple.py": TUSIMPLE,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(inject, "_imported", {})
    monkeypatch.setattr(inject, "UPSTREAM", replace(inject.UPSTREAM, seams=()))
    return root


# -- the checkout -----------------------------------------------------------------------------------------


def test_its_modules_are_there_inside_the_block_only(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names such as `utils` belong to many; whoever had them has them again."""
    other = type(sys)("utils")
    monkeypatch.setitem(sys.modules, "utils", other)
    path, finders, cuda = list(sys.path), list(sys.meta_path), torch.Tensor.cuda
    with inject.use_checkout(stand_in, "cpu") as checkout:
        assert checkout.seam("train", "train")() == "theirs"
        assert sys.modules["utils"] is not other and "utils.config" in sys.modules
        first = sys.modules["train"]
        assert torch.ones(2).cuda().device.type == "cpu"
        with checkout.replaced("train", train=1, train_loader=[2]):
            assert (first.train, first.train_loader) == (1, [2])  # type: ignore[attr-defined]
        assert first.train() == "theirs" and not hasattr(first, "train_loader")  # type: ignore[attr-defined]
    assert sys.modules["utils"] is other and "train" not in sys.modules and "utils.config" not in sys.modules
    assert (sys.path, sys.meta_path, torch.Tensor.cuda) == (path, finders, cuda)
    with inject.use_checkout(stand_in, "cpu"):
        assert sys.modules["train"] is first, "imported once"
    assert not list(stand_in.rglob("__pycache__"))


def test_a_missing_or_wrong_checkout_is_one_line(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"nothing is there.*SLR_DET_UFLD.*git submodule update"):
        inject.import_checkout(stand_in / "nowhere")
    (stand_in / "train.py").write_text("import nobody_has_this\n")
    with pytest.raises(MissingExtraError, match="package 'nobody_has_this'.*uv pip install nobody_has_this"):
        inject.import_checkout(stand_in)
    (stand_in / "train.py").write_text("import utils.gone\n")
    with pytest.raises(ConfigError, match=r"no 'train' in train.*check out commit 353df10"):
        inject.import_checkout(stand_in)
    (stand_in / "train.py").write_text("")
    with pytest.raises(ConfigError, match="no 'train' in train"):
        inject.import_checkout(stand_in)
    (stand_in / "train.py").unlink()
    with pytest.raises(ConfigError, match=r"no checkout .*train\.py is missing"):
        inject.import_checkout(stand_in)
    monkeypatch.setenv(inject.VARIABLE, str(stand_in))
    assert inject.checkout_path() == stand_in and configs.around(str(stand_in / "configs" / "x.py")) is None


def test_stand_ins_are_gone_after_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inject, "installed", lambda package: False)
    for name in ("pathspec", "torch.utils.tensorboard", "cv2"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with inject._stand_ins():
        writer: Any = sys.modules["torch.utils.tensorboard"].SummaryWriter
        made = writer("folder")
        made.add_scalar("loss", 1.0, 3)
        made.close()
        with pytest.raises(MissingExtraError, match="opencv-python-headless"):
            sys.modules["cv2"].imwrite("x.png", None)
    assert not {"pathspec", "torch.utils.tensorboard", "cv2"} & set(sys.modules)


# -- arguments and configurations -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"barch": 2}, r"no argument 'barch' \(did you mean 'batch'"),
        ({"batch": -1}, "batch is -1, expected a whole number"),
        ({"lr": "high"}, "lr is 'high', expected a number"),
        ({"set": {"griding": 50}}, r"no 'griding' \(did you mean 'griding_num'"),
        ({"set": {"epoch": 5}}, "epoch cannot be set here: give epochs=N"),
        (
            {"set": {"use_aux": 1, "num_lanes": 2}},
            "use_aux is 1, expected true or false.*num_lanes is 2.*least 4",
        ),
        ({"set": {"backbone": "19"}}, "backbone is '19', expected one of 18, 34"),
        ({"set": [1]}, r"set is \[1\], expected settings by name"),
    ],
)
def test_arguments_that_cannot_be_are_said(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Arguments.read(given)


def test_what_the_user_sets_and_what_the_model_is_go_into_the_configuration(stand_in: Path) -> None:
    given = {"set": {"backbone": 34, "use_aux": False}, "batch": 8, "lr": 0.1}
    arguments = Arguments.read(given)
    with inject.use_checkout(stand_in, "cpu") as checkout:

        def settings(model: str, arguments: Arguments, **more: Any) -> dict[str, Any]:
            return configs.for_phase(model, arguments, checkout, **{"given": None, "own": None, **more})

        config = settings("parsingnet34", arguments)
        assert (config["batch_size"], config["learning_rate"], config["use_aux"]) == (8, 0.1, False)
        assert configs.network(config) == ParsingNetConfig("34", aux=False)
        plain = settings("parsingnet50", Arguments())
        assert (plain["backbone"], plain["batch_size"], plain["learning_rate"]) == ("50", 32, 4e-4)
        # What a checkpoint was trained with counts, unless a file is named.
        kept = {"given": ParsingNetConfig("34", 20), "own": {**plain, "gamma": 0.3}}
        found = settings("x.pt", Arguments(), **kept)
        assert (found["gamma"], found["backbone"], found["griding_num"]) == (0.3, "34", 20)
        assert settings("x.pt", Arguments(cfg="configs/tusimple.py"), **kept)["gamma"] == 0.1
        with pytest.raises(
            ConfigError, match="backbone is '34', but model=parsingnet18 has '18'; leave it out"
        ):
            settings("parsingnet18", arguments)
        with pytest.raises(ConfigError, match="'multi', which needs steps"):
            settings("parsingnet18", Arguments(set={"scheduler": "multi"}))
        with pytest.raises(ConfigError, match=r"no such configuration.*did you mean 'configs/tusimple\.py'"):
            settings("configs/tusimpel.py", Arguments())
        (stand_in / "configs" / "other.py").write_text(
            TUSIMPLE.replace("'Tusimple'", "'CULane'").replace("gamma = 0.1", "").replace("'Adam'", "'Lion'")
        )
        with pytest.raises(ConfigError, match=r"'Lion'.*no 'gamma'.*'CULane', expected 'Tusimple'"):
            settings("configs/other.py", Arguments())
        (stand_in / "configs" / "other.py").write_text("1 +")
        with pytest.raises(ConfigError, match=r"other\.py: cannot be read as a configuration"):
            settings("configs/other.py", Arguments())
    with pytest.raises(ConfigError, match=r"no such network \(did you mean 'parsingnet34'"):
        configs.named("parsingnet33")
    assert "parsingnet_small" not in configs.NETWORKS, "upstream cannot build it"


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert building.device_of("") == building.device_of("cpu") == torch.device("cpu")
    for word, message in (
        ("0", "0 GPUs here"),
        ("0,1", "in one process"),
        ("tpu", "expected cpu or the number"),
    ):
        with pytest.raises(ConfigError, match=message):
            building.device_of(word)


# -- losses -----------------------------------------------------------------------------------------------


def test_the_penalty_is_one_more_loss_and_the_engine_hears_the_others() -> None:
    """As upstream's calc_loss walks the dictionary: in order, each value times its weight."""
    weight = torch.nn.Parameter(torch.arange(1.0, 9.0).reshape(2, 4))
    group = GroupSpec("all", ("w",), 0.5, Projection.parse("unstructured"))
    engine = Engine(build_groups({"w": weight}, [group]), "penalty", iterations=2, hyper=Hyper(rho=0.1))
    upstream: dict[str, list[Any]] = {
        "name": ["cls_loss", "relation_loss"],
        "op": [lambda x, y: (x * weight.sum() - y).mean(), lambda x: x.mean()],
        "weight": [1.0, 0.5],
        "data_src": [("x", "y"), ("x",)],
    }
    listening = Losses(upstream, engine, torch.device("cpu"))
    entries = listening.entries
    assert entries["name"] == ["cls_loss", "relation_loss", "slr_penalty"]
    assert (entries["weight"][-1], entries["data_src"][-1]) == (1.0, ())

    expected = []
    for frames, value in ((3, 1.0), (1, 5.0)):
        results = {"x": torch.full((frames, 2), value), "y": torch.ones(frames, 2)}
        terms = [
            op(*(results[s] for s in sources)) * w
            for op, w, sources in zip(entries["op"], entries["weight"], entries["data_src"], strict=True)
        ]
        expected.append(value * 36 - 1 + 0.5 * value)
        assert torch.stack(terms[:2]).sum().item() == pytest.approx(expected[-1])
        # Half of the weights, 1 to 4, are off the projection.
        assert terms[2].item() == pytest.approx(0.05 * (1 + 4 + 9 + 16))
        assert listening.of(results).item() == pytest.approx(expected[-1])
        weight.grad = None
        torch.stack(terms).sum().backward()
        assert weight.grad is not None
        assert weight.grad[0, 1].item() == pytest.approx(value + 0.1 * 2)
        assert weight.grad[1, 3].item() == pytest.approx(value)
    assert listening.seen.item() == pytest.approx(sum(expected))
    engine.end_iteration()
    mean = (3 * expected[0] + expected[1]) / 4
    assert engine.history[0]["objective"] == pytest.approx(mean), "the mean over images, without the penalty"
    assert Losses(upstream, None, torch.device("cpu")).entries["name"] == upstream["name"]


# -- checkpoints ------------------------------------------------------------------------------------------


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoints.read(str(path))
    path.write_bytes(b"text")
    with pytest.raises(CheckpointError, match=r"x\.pth: truncated or damaged"):
        checkpoints.read(str(path))
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="expected under 'model'"):
        checkpoints.read(str(path))
    torch.save({"model": {"conv1.weight": torch.ones(1)}}, path)
    with pytest.raises(CheckpointError, match=r"no weight 'model\.conv1\.weight'"):
        checkpoints.read(str(path))


def test_a_network_and_its_weights_are_a_start_and_the_rest_is_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        net = ParsingNet(ParsingNetConfig(griding=3, aux=False))
    # One number seen many times, so that the file is small.
    state = {name: torch.tensor(0.5).expand(t.shape) for name, t in net.state_dict().items()}
    own = tmp_path / "own.pth"
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, own)
    adapter = UFLDAdapter()
    target = tmp_path / "start.pt"
    assert adapter.given(str(own), "", tmp_path, target) == str(own) and not target.exists()
    info = adapter.inspect(str(own))
    assert info.parameters == sum(p.numel() for p in net.parameters()) and info.classes == 4
    assert torch.equal(info.weights["cls.2.bias"], state["cls.2.bias"])
    assert next(layer.name for layer in info.layers if layer.role == "head") == "pool.weight"
    job = TrainJob("x", "y", "z", 1, title="slr export")
    adapter.export(str(own), target, job, {"cls.2.bias": torch.zeros(896)})
    after = adapter.averaged(str(target))
    assert not after["cls.2.bias"].any() and torch.equal(after["pool.weight"], state["pool.weight"])
    with pytest.raises(CheckpointError, match="has no weight 'cls.3.bias'"):
        adapter.export(str(own), target, job, {"cls.3.bias": torch.zeros(1)})
    with pytest.raises(ConfigError, match="brings its own weights"):
        adapter.given(str(own), "other.pth", tmp_path, target)
    with pytest.raises(ConfigError, match="network without weights"):
        adapter.given("parsingnet18", "", tmp_path, target)
    with pytest.raises(CheckpointError, match=r"answers of shape \(4, 56, 4\), but model=parsingnet18"):
        adapter.given("parsingnet18", str(own), tmp_path, target)
    backbone = {n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.")}
    torch.save(backbone, tmp_path / "resnet18.pth")
    with pytest.raises(ConfigError, match="those of the backbone alone; train the rest first"):
        adapter.given("parsingnet18", str(tmp_path / "resnet18.pth"), tmp_path, target)
    with pytest.raises(ConfigError, match="iterations_per_epoch: upstream's"):
        adapter.train(TrainJob("x", "y", "z", 1, iterations_per_epoch=2), resume=False)


def test_the_newest_checkpoint_is_that_of_the_last_epoch(tmp_path: Path) -> None:
    assert training.last(tmp_path) == tmp_path / "ep000.pth"
    for name in ("ep002.pth", "ep010.pth", "ep1000.pth", "ep.pth", "ep003.pth"):
        (tmp_path / name).touch()
    assert training.last(tmp_path).name == "ep1000.pth"


def test_seeds_differ_between_places_and_generators_come_back() -> None:
    seeds = [seed_of(s, p, r) for s in (0, 1) for p in range(RECALIBRATION, 4) for r in (0, 1)]
    assert len(set(seeds)) == len(seeds)
    reseed(5)
    first = torch.rand(1), np.random.rand()
    reseed(5)
    with untouched_generators():
        reseed(6)
        torch.rand(3)
    assert (torch.rand(1), np.random.rand()) == first


# -- data -------------------------------------------------------------------------------------------------

LEFT = [-2] * 20 + [600 - 12 * n for n in range(36)]
RIGHT = [-2] * 20 + [700 + 12 * n for n in range(36)]


def dataset(folder: Path, size: tuple[int, int] = (1280, 720)) -> Path:
    """Two frames to train on, and one to evaluate on that is labelled at fewer heights."""
    heights = np.arange(160, 720, 10)
    rows = {
        "label_data_0001.json": [("a", heights, [LEFT, RIGHT]), ("b", heights, [])],
        "test_label.json": [("c", heights[8:], [LEFT[8:]])],
    }
    for file, entries in rows.items():
        made = []
        for name, h_samples, lanes in entries:
            raw = f"clips/{name}/20.jpg"
            (folder / raw).parent.mkdir(parents=True)
            Image.new("RGB", size, (90, 90, 90)).save(folder / raw)
            made.append(LaneRow(raw, np.array(lanes, np.int64).reshape(-1, len(h_samples)), h_samples))
        write_rows(folder / file, made)
    return folder


def test_lists_of_upstream_are_made_beside_the_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = dataset(tmp_path / "tusimple")
    before = sorted(source.rglob("*"))
    with caplog.at_level(logging.WARNING):
        root = tusimple.prepare(str(source), tmp_path / "run")
    assert "1 rows have fewer than the 56 heights" in caplog.text
    (truth,) = read_rows(root / "test_label.json")
    assert (root / "test.txt").read_text().split() == [truth.raw_file] == ["clips-0/clips/c/20.jpg"]
    assert truth.lanes.tolist() == [[-2] * 8 + LEFT[8:]] and truth.h_samples.tolist() == list(
        range(160, 720, 10)
    )
    assert not (root / "train_gt.txt").exists(), "pictures are drawn when they are needed"
    tusimple.complete(root)
    lines = [line.split() for line in (root / "train_gt.txt").read_text().splitlines()]
    assert [line[2:] for line in lines] == [["0", "1", "1", "0"], ["0"] * 4]
    assert all((root / line[0]).is_file() for line in lines)
    marks = np.array(Image.open(root / lines[0][1]))
    assert marks.shape == (720, 1280) and set(np.unique(marks)) == {0, 2, 3}
    assert np.flatnonzero(marks[600] == 2).mean() == pytest.approx(LEFT[44], abs=1)
    assert tusimple.read_picture(str(root / lines[0][1])).mode == "L"
    assert tusimple.read_picture(str(root / lines[0][0])).mode == "RGB"
    assert tusimple.prepare(str(source), tmp_path / "run") == root, "the same data, the same folder"
    assert sorted(source.rglob("*")) == before, "nothing is written into the data"
    (source / "clips" / "a" / "20.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a/20\.jpg: cannot be decoded"):
        tusimple.read_picture(str(root / lines[0][0]))
    Image.new("RGB", (800, 600)).save(source / "clips" / "c" / "20.jpg")
    with pytest.raises(
        DataError, match=r"tusimple/clips/c/20\.jpg: 800 x 600 pixels, expected the proportions"
    ):
        tusimple.read_picture(str(root / truth.raw_file))


def test_pictures_of_lanes_have_the_size_of_their_image(tmp_path: Path) -> None:
    root = tusimple.prepare(str(dataset(tmp_path / "half", (640, 360))), tmp_path / "run")
    tusimple.complete(root)
    assert Image.open(root / "labels" / "000000.png").size == (640, 360)
    other = tusimple.prepare(str(dataset(tmp_path / "low", (512, 288))), tmp_path / "run")
    with pytest.raises(DataError, match=r"20\.jpg: is 288 pixels high"):
        tusimple.complete(other)


def test_labels_that_upstream_cannot_score_or_train_on_are_said(tmp_path: Path) -> None:
    source = dataset(tmp_path / "tusimple")
    content = json.loads((source / "test_label.json").read_text())
    content["h_samples"][0] = 235
    (source / "test_label.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"test_label\.json:1: h_samples 235.*backend=embedded"):
        tusimple.prepare(str(source), tmp_path / "run")
    # Without anything to train on there is still something to evaluate.
    (source / "label_data_0001.json").unlink()
    content["h_samples"][0] = 240
    (source / "test_label.json").write_text(json.dumps(content))
    root = tusimple.prepare(str(source), tmp_path / "run")
    with pytest.raises(DataError, match="no rows to train on"):
        tusimple.complete(root)

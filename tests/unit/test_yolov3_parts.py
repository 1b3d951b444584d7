"""What the backend for a checkout of ultralytics/yolov3 does by itself: a stand-in for it is enough."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slr_det.adapter import EvalJob, TrainJob
from slr_det.engine import Engine, Hyper
from slr_det.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from slr_det.groups import GroupSpec, build_groups
from slr_det.projections import Projection
from slr_det_adapters.yolov3 import YOLOv3Adapter, building, checkpoints, inject
from slr_det_adapters.yolov3.arguments import HYPERPARAMETERS, Arguments
from slr_det_adapters.yolov3.criterion import PenalisedLoss
from slr_det_adapters.yolov3.pace import learning_rates
from slr_det_adapters.yolov3.steps import Batches, Place, Torch

pytest.importorskip("ultralytics")

DOWNLOADS = """
import requests
def safe_download(file, url): return requests.get(url)
def curl_download(url, filename): ...
def attempt_download(file): return safe_download(file, "https://example.org/" + file)
"""
GENERAL = """
import os
import pandas as pd
pd.options.display.max_columns = 10
from utils.downloads import attempt_download
os.environ["OMP_NUM_THREADS"] = "7"
def download(url): ...
def check_font(name): raise AssertionError("asked for a font")
def check_online(): raise AssertionError("looked for the network")
def check_requirements(*names): raise AssertionError("ran pip")
"""
MODELS = """
from torch import nn
class Detect(nn.Module): ...
class DetectionModel(nn.Module): ...
Model = DetectionModel
"""
TRAIN = """
import sys
sys.path.append("theirs")
try:
    import wandb
except ImportError:
    wandb = None
from utils.general import check_font, check_requirements
def train(): return wandb
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the modules of a checkout and hardly anything in them."""
    root = tmp_path / "upstream"
    for name, text in {
        "train.py": TRAIN,
        "val.py": "def run(): ...\n",
        "export.py": "import pandas as pd\ndef export_formats(): return pd.DataFrame([['a', 1]], columns=['x', 'y'])\n",
        "models/__init__.py": "",
        "models/yolo.py": MODELS,
        "utils/__init__.py": "",
        "utils/loss.py": "",
        "utils/downloads.py": DOWNLOADS,
        "utils/general.py": GENERAL,
        "data/hyps/hyp.scratch-low.yaml": "".join(f"{name}: 0.25\n" for name in HYPERPARAMETERS),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(inject, "_imported", {})
    monkeypatch.setattr(inject, "UPSTREAM", replace(inject.UPSTREAM, seams=()))
    return root


# -- the checkout -----------------------------------------------------------------------------------------


def test_its_modules_are_there_inside_the_block_only(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other, tracker = type(sys)("utils"), type(sys)("wandb")
    monkeypatch.setitem(sys.modules, "utils", other)
    monkeypatch.setitem(sys.modules, "wandb", tracker)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = list(sys.path), list(sys.meta_path), np.get_printoptions(), "pandas" in sys.modules
    with inject.use_checkout(stand_in) as checkout:
        assert sys.modules["utils"] is not other and "models.yolo" in sys.modules
        assert checkout.seam("train", "train")() is None, "a tracker that is installed is not logged in to"
        torch.use_deterministic_algorithms(True)
    assert sys.modules["utils"] is other and sys.modules["wandb"] is tracker
    assert not {"train", "val", "models", "models.yolo"} & set(sys.modules)
    assert (list(sys.path), list(sys.meta_path), np.get_printoptions(), "pandas" in sys.modules) == before
    assert os.environ["OMP_NUM_THREADS"] == "1" and not torch.are_deterministic_algorithms_enabled()
    assert not list(stand_in.rglob("__pycache__"))


def test_it_fetches_and_installs_nothing(stand_in: Path) -> None:
    with inject.use_checkout(stand_in) as checkout:
        checkout.seam("train", "check_font")("Arial.ttf")
        assert checkout.seam("train", "check_requirements")("numpy") is True
        assert checkout.seam("utils.general", "check_online")() is False
        with pytest.raises(
            DataError, match=r"yolov3\.pt: not found on this machine, and slr_det never downloads"
        ):
            checkout.seam("utils.general", "attempt_download")("yolov3.pt")
        with pytest.raises(MissingExtraError, match="never downloads"):
            checkout.seam("utils.downloads", "requests").get("https://example.org")
        assert checkout.seam("export", "export_formats")().y == [1]


def test_a_missing_or_wrong_checkout_is_one_line(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"nothing is there.*SLR_DET_YOLOV3.*git submodule update"):
        inject.import_checkout(stand_in / "nowhere")
    for text, error, said in (
        ("import nobody_has_this\n", MissingExtraError, "package 'nobody_has_this'.*uv pip install"),
        ("import utils.gone\n", ConfigError, "no 'train' in train.*check out commit 97b87b13"),
        (
            "from utils.general import gone\n",
            ConfigError,
            r"no 'train' in train.*\(cannot import name 'gone'",
        ),
        ("", ConfigError, "no 'train' in train"),
    ):
        (stand_in / "train.py").write_text(text)
        with pytest.raises(error, match=said):
            inject.import_checkout(stand_in)
    (stand_in / "utils" / "downloads.py").write_text("")
    with pytest.raises(ConfigError, match=r"no 'safe_download' in utils\.downloads"):
        inject.import_checkout(stand_in)
    (stand_in / "train.py").unlink()
    with pytest.raises(ConfigError, match=r"no checkout .*train\.py is missing"):
        inject.import_checkout(stand_in)
    monkeypatch.setenv(inject.VARIABLE, str(stand_in))
    assert inject.checkout_path() == stand_in


# -- arguments --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"imgz": 640}, "no argument 'imgz' .did you mean 'imgsz'"),
        ({"batch": 0}, "batch is 0, expected a whole number of at least 1"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd', expected one of SGD, Adam, AdamW"),
        ({"lr0": "fast"}, "lr0 is 'fast', expected a number of at least 0"),
        ({"rect": 1}, "rect is 1, expected true or false"),
        ({"iou_thres": 1.5}, r"iou_thres is 1.5, expected a number in \[0, 1\]"),
        ({"hyperparameters": {}}, "no argument 'hyperparameters'"),
    ],
)
def test_a_wrong_argument_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Arguments.read(given)


def test_hyperparameters_are_the_files_but_for_what_is_given(stand_in: Path, tmp_path: Path) -> None:
    with inject.use_checkout(stand_in) as checkout:
        found = building.hyperparameters(Arguments.read({"lr0": 0.5, "mosaic": 0}), checkout)
        assert found == {**dict.fromkeys(HYPERPARAMETERS, 0.25), "lr0": 0.5, "mosaic": 0.0}
        with pytest.raises(
            ConfigError, match=r"hyp\.scratch-lo\.yaml.*did you mean 'hyp\.scratch-low\.yaml'"
        ):
            building.hyperparameters(Arguments.read({"hyp": "hyp.scratch-lo.yaml"}), checkout)
        short = tmp_path / "short.yaml"
        short.write_text("lr0: 0.1\n")
        with pytest.raises(ConfigError, match=r"short\.yaml: has no 'lrf'"):
            building.hyperparameters(Arguments.read({"hyp": str(short)}), checkout)


def test_what_cannot_be_served_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = YOLOv3Adapter()
    job = TrainJob("a.yaml", "d.yaml", "f", 1)
    from dataclasses import replace

    for field, said in (
        ({"weights": "w.pt"}, "weights: .* give it as model=FILE.pt"),
        ({"iterations_per_epoch": 2}, "raise epochs"),
        ({"schedule": (0.0, 0.5)}, "set lr0 and retrain.lr0"),
        ({"distill": 0.5}, "no distillation"),
    ):
        with pytest.raises(ConfigError, match=said):
            adapter.train(replace(job, **field), resume=False)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"export\.py --weights p\.pt"):
        adapter.exportable(EvalJob("p.pt", "d.yaml"))
    with pytest.raises(ConfigError, match="neither a .pt checkpoint nor a .yaml architecture"):
        adapter.inspect("yolov3")
    with pytest.raises(ConfigError, match="an architecture without weights"):
        adapter.given("yolov3.yaml", "", Path("d.yaml"), Path("t.pt"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process; start it without a launcher"):
        building.device_of("cpu")


# -- checkpoints ------------------------------------------------------------------------------------------


class _Runs:
    """What a hostile file would hold."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def detector(checkout: Any) -> nn.Module:
    """A detector of two layers in the classes of the stand-in."""
    head = checkout.seam("models.yolo", "Detect")()
    head.nc, head.m = 2, nn.ModuleList([nn.Conv2d(4, 21, 1)])
    head.register_buffer("anchors", torch.ones(1, 3, 2))
    model: nn.Module = checkout.seam("models.yolo", "DetectionModel")()
    model.model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.SiLU(), head)
    model.yaml = {"nc": 2}  # type: ignore[assignment]
    return model


def test_a_checkpoint_is_read_without_upstream_and_without_running_its_code(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "theirs.pt"
    with inject.use_checkout(stand_in) as checkout:
        model = detector(checkout)
        content = {
            "model": model,
            "ema": None,
            "best_fitness": np.array([0.5]),
            "opt": {"save_dir": Path("a")},
        }
        torch.save(content, path)
        torch.save({**content, "hook": _Runs()}, tmp_path / "hostile.pt")
        torch.save({"model": model.model[0]}, tmp_path / "other.pt")  # type: ignore[index]
    found = checkpoints.read(str(path))
    assert [(layer.name, layer.role) for layer in found.info().layers] == [
        ("model.0.weight", "first"),
        ("model.2.m.0.weight", "head"),
    ]
    assert found.info().classes == 2 and found.card == {}
    assert torch.equal(found.parameters()["model.0.weight"], dict(model.named_parameters())["model.0.weight"])
    assert "models" not in sys.modules

    with pytest.raises(CheckpointError, match=r"hostile\.pt: holds '\w+\.mkdir', .* could run code"):
        checkpoints.read("hostile.pt")
    assert not Path("ran").exists()
    with pytest.raises(CheckpointError, match="no checkpoint of ultralytics/yolov3"):
        checkpoints.read("other.pt")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoints.read("gone.pt")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        checkpoints.read(str(path))


def test_a_file_for_inference_holds_one_model_in_half_precision(stand_in: Path, tmp_path: Path) -> None:
    target = tmp_path / "pruned.pt"
    with inject.use_checkout(stand_in) as checkout:
        model = detector(checkout)
        expected = {name: p.detach().half() for name, p in model.named_parameters()}
        checkpoints.write(target, checkpoints.for_inference(model, {"data": "d"}, "slr"))
    found = checkpoints.read(str(target))
    assert (
        found.content["ema"] is None and found.content["optimizer"] is None and found.content["epoch"] == -1
    )
    assert found.card["phase"] == "slr"
    assert all(torch.equal(p.half(), expected[name]) for name, p in found.parameters().items())


# -- inside a run -----------------------------------------------------------------------------------------


def test_the_penalty_has_the_scale_of_the_batch_and_validation_is_not_heard() -> None:
    weight = nn.Parameter(torch.tensor([[2.0, -1.0, 0.5, 0.25]]))
    groups = build_groups({"w": weight}, [GroupSpec("g", ("w",), 0.5, Projection.parse("unstructured"))])
    engine = Engine(groups, "penalty", iterations=1, hyper=Hyper(rho=2.0))

    def upstream(predictions: list[torch.Tensor], targets: torch.Tensor) -> Any:
        return predictions[0].sum().view(1) * len(predictions[0]), torch.zeros(3)

    loss = PenalisedLoss(upstream, engine, torch.device("cpu"))
    batch = [torch.full((3, 2), 0.5)]
    total, _ = loss(batch, torch.zeros(0, 6))
    # The projection keeps 2 and -1, so that rho / 2 ||W - Z||^2 is 0.25 + 0.0625, for each of three images.
    assert total.shape == (1,) and total.item() == pytest.approx(9.0 + 3 * 0.3125)
    total.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.0, 0.0, pytest.approx(3 * 2 * 0.5), pytest.approx(3 * 2 * 0.25)]]
    with torch.no_grad():
        assert loss(batch, torch.zeros(0, 6))[0].item() == 9.0
        assert loss.of(batch, torch.zeros(0, 6)) == 3.0
    assert loss.seen.item() == 3.0
    assert engine.end_iteration()["objective"] == pytest.approx(3.0)


def test_a_resumed_run_steps_after_the_same_batches() -> None:
    """Upstream's rule over two epochs of five batches, four to a step: from the start, and from the second epoch."""

    def steps(first_epoch: int, saved: int) -> list[int]:
        last_opt_step, done = -1, []
        for epoch in range(first_epoch, 2):
            for i, _ in Batches(enumerate("abcde"), first=5 * epoch, last_step=saved):
                ni = i + 5 * epoch
                assert isinstance(ni, Place) and (1.0 * i) / (i + 1) < 1
                if ni - last_opt_step >= 4:
                    last_opt_step = ni
                    done.append(int(ni))
        return done

    assert steps(0, -1) == [3, 7]
    assert steps(1, 3) == [7]
    assert steps(1, -1) == [5, 9], "what upstream would do"


def test_what_upstream_shows_and_saves_goes_through_ours() -> None:
    batches = Batches(enumerate("ab"), first=4, last_step=-1)
    assert [int(i) for i, _ in batches] == [0, 1] and batches.place == 5
    batches.set_description("       0/2      0G     0.134    0.0230    0.0539        19        64")
    assert batches.said == ", box 0.134, obj 0.0230, cls 0.0539"
    kept: list[Any] = []
    name = Torch(lambda *args: kept.append(args), lambda *args, **kwargs: (args, kwargs))
    name.save({"epoch": 1}, "last.pt")
    assert kept == [({"epoch": 1}, "last.pt")] and name.amp.GradScaler("cuda", enabled=False)[0] == ("cuda",)
    assert name.zeros is torch.zeros and name.cuda.is_available is torch.cuda.is_available
    assert name.cuda.device_count() <= 1


@pytest.mark.parametrize("cosine", [False, True])
def test_the_learning_rate_is_that_of_upstreams_rule(cosine: bool) -> None:
    import math

    expected = []
    for epoch in range(4):
        share = (
            (1 - math.cos(epoch * math.pi / 4)) / 2 * (0.1 - 1) + 1 if cosine else (1 - epoch / 4) * 0.9 + 0.1
        )
        expected += [share * float(np.interp(5 * epoch + i, [0, 12], [0.0, 1.0])) for i in range(5)]
    found = learning_rates(4, 5, last=0.1, cosine=cosine, warmup=12)
    assert found == pytest.approx(expected, abs=1e-12)

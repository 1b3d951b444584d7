"""The verb `export` on tiny networks of every task: the file, its checks, what runs it, and one line for mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from classify_runs import SMALL
from lane_runs import NETWORK as LANE_NETWORK
from lane_runs import make_road
from pointpillars_runs import NETWORK as POINTPILLARS_NETWORK
from pointpillars_runs import make_world

from slr_det import classify, lane, pointpillars, yolo
from slr_det.adapter import EvalJob, load_adapter

pytest.importorskip("onnxruntime", reason='needs the export extra: uv pip install "slr-det[export]"')

import onnx

Main = Callable[[list[str]], int]
KEEP = 0.5


def prune(net: torch.nn.Module) -> None:
    """Set the smaller half of every weight to zero."""
    for parameter in net.parameters():
        if parameter.dim() > 1:
            bound = parameter.abs().flatten().quantile(1 - KEEP)
            parameter.data[parameter.abs() < bound] = 0


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained classifier of digits, pruned as it is."""
    folder = tmp_path_factory.mktemp("digits")
    assert classify.main(["train", *SMALL, "dense_epochs=3", f"project={folder}", "name=run"]) == 0
    from slr_det_adapters.timm import checkpoints

    net, card = checkpoints.read(str(folder / "run" / "dense.pt"))
    prune(net)
    checkpoints.write(folder / "pruned.pt", net, card, "pruned")
    return folder / "pruned.pt"


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_road(tmp_path_factory.mktemp("road"))


@pytest.fixture(scope="module")
def lane_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from slr_det_adapters.lane import checkpoints

    folder = tmp_path_factory.mktemp("lane")
    (folder / "net.yaml").write_text(LANE_NETWORK)
    torch.manual_seed(0)
    net = checkpoints.built(str(folder / "net.yaml"), "", whole=True)
    prune(net)
    checkpoints.write(folder / "net.pt", net, "pruned")
    return folder / "net.pt"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def pillars_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from slr_det_adapters.pointpillars import checkpoints

    folder = tmp_path_factory.mktemp("pointpillars")
    (folder / "net.yaml").write_text(POINTPILLARS_NETWORK)
    torch.manual_seed(0)
    net = checkpoints.built(str(folder / "net.yaml"), "")
    prune(net)
    checkpoints.write(folder / "net.pt", net, "pruned")
    return folder / "net.pt"


def exported(main: Main, words: list[Any], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Run the verb with --json and return what it says."""
    assert main(["export", *map(str, words), "--json"]) == 0
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    found: dict[str, Any] = json.loads(captured.out)
    return found


def nodes(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_classify(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "m.onnx"
    words = [f"model={digits}", "data=digits", "val_images=100", "train_images=600", "-o", target]
    found = exported(classify.main, [*words, "--int8", "--sparse", "--batch", "dynamic"], capsys)
    assert found["check"]["samples"] == 8 and found["check"]["relative"] <= 1e-4
    assert found["batchnorms"] == 0 and found["folded"]["merged"] == 3
    quantised = found["quantised"]
    assert quantised["samples"] == 128 and quantised["zeros_kept"] == quantised["zeros_before"]
    assert quantised["zeros_before"] == pytest.approx((1 - KEEP) * quantised["entries"], rel=0.01)
    floats, int8 = (found["metrics"][kind]["top1"] for kind in ("float32", "int8"))
    job = EvalJob(str(digits), "digits", {"val_images": 100, "train_images": 600}, "cpu")
    assert floats == load_adapter("timm").evaluate(job)["top1"] > 0.3
    assert int8 == pytest.approx(floats, abs=0.05)
    assert "BatchNormalization" not in nodes(target) and "QuantizeLinear" in nodes(target)


def test_lane(lane_model: Path, road: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "m.onnx"
    words = [f"model={lane_model}", f"data={road}", "-o", target]
    found = exported(lane.main, [*words, "--int8", "--batch", "2"], capsys)
    assert found["check"]["samples"] == 6 and found["check"]["relative"] <= 1e-4
    assert found["batchnorms"] == 0 and found["folded"] == {"merged": 20, "replaced": 0}
    assert found["quantised"]["zeros_kept"] == found["quantised"]["zeros_before"] > 0
    job = EvalJob(str(lane_model), str(road), {}, "cpu")
    torchs = load_adapter("lane").evaluate(job)
    assert found["metrics"]["float32"]["accuracy"] == pytest.approx(torchs["accuracy"], abs=0.02)
    names = {tensor.name for tensor in onnx.load(target).graph.initializer}
    assert not any("aux" in name for name in names)


def test_pointpillars(
    pillars_model: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from slr_det.models.pointpillars import Pillars
    from slr_det_adapters.pointpillars import checkpoints, exporting

    words = [f"model={pillars_model}", f"data={world}", "-o", tmp_path / "m.onnx"]
    found = exported(pointpillars.main, [*words, "--int8"], capsys)
    assert found["check"]["samples"] == 6 and found["check"]["relative"] <= 1e-4
    assert found["batchnorms"] == 0 and found["folded"] == {"merged": 6, "replaced": 0}
    assert found["quantised"]["zeros_kept"] == found["quantised"]["zeros_before"] > 0
    assert found["metrics"].keys() == {"float32", "int8"}
    # What is exported is what the network computes.
    net = checkpoints.read(str(pillars_model)).eval()
    features = torch.rand(5, 8, 4)
    coordinates = torch.tensor([[0, 0, y, 3] for y in range(5)], dtype=torch.int32)
    pillars = Pillars(features, coordinates, torch.full((5,), 8, dtype=torch.int32), 1)
    with torch.no_grad():
        wanted = net(pillars)
        picture = net.map_to_bev_module(net.vfe(pillars), pillars)
        for ours, theirs in zip(
            exporting.Planar(net)(picture), (wanted.cls, wanted.box, wanted.direction), strict=True
        ):
            assert torch.allclose(ours, theirs, atol=1e-5)
        joined = exporting.Deployed(net, lambda x: exporting.Planar(net)(x)).eval()(pillars)  # type: ignore[arg-type]
        assert torch.allclose(joined.box, wanted.box, atol=1e-5)


def test_yolo_and_plain_ultralytics(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from slr_det_adapters.ultralytics.offline import load_ultralytics

    words = [f"model={tiny_model}", f"data={tiny_data}", "--device", "cpu"]
    found = exported(yolo.main, [*words, "-o", tmp_path / "float.onnx"], capsys)
    assert found["check"]["samples"] == 8 and found["check"]["relative"] <= 1e-4
    assert found["batchnorms"] == 0 and found["folded"] == {"merged": 14, "replaced": 0}
    found = exported(yolo.main, [*words, "-o", tmp_path / "int8.onnx", "--int8"], capsys)
    floats, int8 = (found["metrics"][kind]["AP50"] for kind in ("float32", "int8"))
    torchs = load_adapter("ultralytics").evaluate(
        EvalJob(str(tiny_model), str(tiny_data), {"imgsz": 64, "rect": False}, "cpu")
    )
    assert floats == pytest.approx(torchs["AP50"], abs=1e-3) and floats > 0.005
    assert int8 == pytest.approx(floats, abs=0.1)
    assert found["quantised"]["kept_float"] == ["model.6.dfl.conv.weight"]
    assert found["bytes"] < 0.5 * found["dense_bytes"]

    images = sorted((tiny_data.parent / "images" / "val").iterdir())[:1]
    ultralytics = load_ultralytics()
    boxes = [
        ultralytics.YOLO(str(file), task="detect")
        .predict(str(images[0]), imgsz=64, conf=0.01, verbose=False, device="cpu", rect=False)[0]
        .boxes.data
        for file in (tiny_model, tmp_path / "float.onnx")
    ]
    assert len(boxes[0]) > 0 and torch.allclose(boxes[0], boxes[1], atol=1e-2)


@pytest.mark.parametrize(
    ("main", "words", "expected"),
    [
        (classify.main, ["model=no.pt", "data=digits"], "no.pt"),
        (classify.main, ["model=digits_cnn", "data=digits"], "weights"),
        (classify.main, ["model=m.pt", "data=digits", "-o", "m.pt"], "ends in .onnx"),
        (classify.main, ["model=m.pt", "data=digits", "--batch", "some"], "--batch some: expected a number"),
        (classify.main, ["model=m.pt", "data=digits"], "m.pt"),
        (yolo.main, ["model=m.pt", "data=no.yaml"], "no.yaml"),
    ],
)
def test_a_mistake_is_one_line(
    main: Main,
    words: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "m.pt").write_bytes(b"no checkpoint")
    monkeypatch.chdir(tmp_path)
    assert main(["export", *words]) == 2
    captured = capsys.readouterr()
    said = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert "Traceback" not in captured.err and len(said) == 1 and expected in said[0]
    assert list(tmp_path.glob("*.onnx")) == []


@pytest.mark.parametrize("backend", ["openpcdet", "ufld"])
def test_an_upstreams_backend_says_who_exports(backend: str) -> None:
    from slr_det.errors import ConfigError

    with pytest.raises(ConfigError, match="export with --backend embedded"):
        load_adapter(backend).exportable(EvalJob("m.pth", "data"))


def test_what_is_printed(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"model={digits}", "data=digits", "val_images=100", "-o", str(tmp_path / "m.onnx")]
    assert classify.main(["export", *words, "--sparse"]) == 0
    out = capsys.readouterr().out
    assert "checked   8 samples, largest difference from torch" in out
    assert "folded    3 batch norms (3 into the layer before them), 0 left" in out
    assert "sparse    no weight is sparse enough" in out
    assert f"onnx      {tmp_path / 'm.onnx'}" in out

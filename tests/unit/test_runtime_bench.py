"""The bench of the sparse runtime: its network is the classic yolov3-tiny, and verdicts follow from the numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slr_det.bench import __main__ as command
from slr_det.bench import runtime
from slr_det.bench.tiny import YoloTiny, sparse_yolo
from slr_det.engines.measure import Measured, Result
from slr_det.errors import ConfigError
from slr_det.runtime.library import LIBRARY_VARIABLE, Library


def test_the_network_is_the_classic_yolov3_tiny() -> None:
    """Weights, biases, scales and shifts of the published file of weights, which holds 8,858,734 with statistics."""
    model = YoloTiny()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    statistics = sum(
        norm.running_mean.numel() + norm.running_var.numel()  # type: ignore[union-attr]
        for norm in model.modules()
        if isinstance(norm, nn.BatchNorm2d)
    )
    assert parameters == 8_852_366 and parameters + statistics == 8_858_734
    with torch.no_grad():
        coarse, fine = model.eval()(torch.zeros(1, 3, 64, 96))
    assert coarse.shape == (1, 255, 2, 3) and fine.shape == (1, 255, 4, 6)


@pytest.mark.parametrize("dense_ends", [False, True])
def test_each_convolution_has_its_share_of_zeros(dense_ends: bool) -> None:
    model = sparse_yolo(0.9, 32, dense_ends=dense_ends)
    ends = {"backbone.0.conv", "coarse_head", "fine_head"}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            wanted = 0 if dense_ends and name in ends else round(0.9 * module.weight.numel())
            assert int((module.weight == 0).sum()) == wanted, name


@pytest.mark.parametrize("sparsity", [0.0, 0.987])
def test_numbers_stay_of_ordinary_size(sparsity: float) -> None:
    model = sparse_yolo(sparsity, 64)
    with torch.no_grad():
        for output in model(torch.rand(1, 3, 64, 64)):
            assert torch.isfinite(output).all() and 1e-3 < output.std() < 30


def measured(threads: int, ours: float | None, onnx: float | None) -> Measured:
    results = (
        Result("onnxruntime", "ONNX Runtime, dense", onnx, None if onnx is None else (onnx, onnx)),
        Result("slr_det", "slr_det, sparse", ours, None if ours is None else (ours, ours)),
    )
    return Measured(results, ((1, 3, 416, 416),), threads, 5, 1, 0.9, "avx2", "", (), "", {})


@pytest.mark.parametrize(
    ("sparsity", "ours", "onnx", "verdict"),
    [
        (0.8, 10.0, 13.0, "pass"),
        (0.8, 10.0, 12.9, "MISS"),
        (0.987, 10.0, 50.0, "pass"),
        (0.987, 10.0, 49.0, "MISS"),
        (0.85, 10.0, 1.0, "-"),
        (0.9, 10.0, None, "-"),
    ],
)
def test_verdicts_compare_with_the_target(
    sparsity: float, ours: float, onnx: float | None, verdict: str
) -> None:
    (row,) = runtime.speed_rows([(sparsity, measured(1, ours, onnx))], quick=False)
    assert row["verdict"] == verdict
    (row,) = runtime.speed_rows([(sparsity, measured(1, ours, onnx))], quick=True)
    assert row["verdict"] in ("-", "not judged")


@pytest.mark.parametrize(("two", "verdict"), [(10.0, "pass"), (10.1, "MISS")])
def test_two_threads_are_judged_by_one(two: float, verdict: str) -> None:
    rows = runtime.speed_rows([(0.9, measured(1, 17.0, 90.0)), (0.9, measured(2, two, 50.0))], quick=False)
    assert [row["verdict"] for row in rows] == ["pass", verdict]
    assert rows[1]["scaling"] == pytest.approx(17 / two) and rows[1]["target"] is None


def test_a_layers_share_of_the_roofs() -> None:
    layer: dict[str, Any] = {
        "name": "fine.conv.weight",
        "kind": "conv 3x3",
        "shape": (256, 384, 3, 3),
        "output": (1, 256, 26, 26),
        "density": 0.1,
        "choice": "sparse",
        "sparse_seconds": 0.002,
        "dense_seconds": 0.008,
    }
    found = measured(2, 1.0, 1.0)
    found = Measured(
        **{**{name: getattr(found, name) for name in found.__dataclass_fields__}, "layers": (layer,)}
    )
    roofs = {"flops": 100e9, "first_cache": 200e9}
    (row,) = runtime._layer_rows(0.9, found, 416, roofs)
    macs = 0.1 * 256 * 384 * 9 * 26 * 26
    assert row["macs"] == pytest.approx(macs) and row["gflops"] == pytest.approx(2 * macs / 0.002 / 1e9)
    assert row["peak_share"] == pytest.approx(2 * macs / 0.002 / 200e9)
    assert row["bandwidth_share"] == pytest.approx(4 * macs / 0.002 / 400e9)
    assert row["roof_ms"] == pytest.approx(1000 * 2 * macs / 200e9)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("backbone.0.conv", 416),
        ("backbone.5.conv", 13),
        ("deep.conv", 13),
        ("fine_head", 26),
        ("lateral.conv", 13),
    ],
)
def test_the_sides_are_those_of_the_network(name: str, side: int) -> None:
    sizes = {}
    model = YoloTiny().eval()
    for place, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _m, _i, out, place=place: sizes.update({place: out.shape[-1]})
            )
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    assert all(runtime._side(place, 64) == size for place, size in sizes.items())
    assert runtime._side(name, 416) == side


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--sparsity", "90,x"], "--sparsity 90,x: 'x' is not a number from 0 to 99.99"),
        (["--sparsity", "100"], "'100' is not a number from 0 to 99.99"),
        (["--sparsity", "nan"], "'nan' is not a number"),
        (["--threads", "1.5"], "--threads 1.5: '1.5' is not a whole number from 1 to 1024"),
        (["--threads", "0"], "'0' is not a whole number"),
        (["--size", "100"], "--size 100: expected a multiple of 32"),
        (["--rounds", "0"], "--rounds 0: expected at least 1"),
        (["--engines", "trt"], "no engine is called 'trt'"),
    ],
)
def test_a_wrong_option_is_one_line(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["runtime", *words]) == 2
    said = capsys.readouterr().err
    assert problem in said and said.count("\n") == 1


def test_without_the_library_the_bench_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "none.so"))
    assert command.main(["runtime", "--quick", "-o", str(tmp_path / "out")]) == 2
    assert "none.so does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_quick_run_writes_its_numbers(
    runtime: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(runtime.path))
    monkeypatch.setenv("SLR_DET_CACHE", str(tmp_path / "cache"))
    words = ["--quick", "--sparsity", "95", "--isa", "portable", "--layers", "--engines", "torch,slr_det"]
    assert command.main(["runtime", *words, "-o", str(tmp_path / "out")]) == 0
    assert os.environ["SLR_DET_CACHE"] == str(tmp_path / "cache") and not (tmp_path / "cache").exists()
    found = json.loads((tmp_path / "out" / "runtime.json").read_text())
    (row,) = found["rows"]
    assert found["isa"] == "portable" and row["sparsity"] == 0.95 and row["speed_up"] is None
    assert row["slr_det"] > 0 and row["torch"] > 0
    assert [layer["name"] for layer in found["layers"]][:2] == ["backbone.0.conv", "backbone.1.conv"]
    assert len(found["layers"]) == 13 and found["roofs"]["flops"] > 0
    shown = capsys.readouterr().out
    assert "yolov3-tiny, 96 px: 8,852,366 parameters" in shown and "of peak" in shown
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "runtime.json",
        "runtime.md",
        "roofline.png",
    }


def test_numbers_of_an_option() -> None:
    assert runtime.numbers("--sparsity", "80,98.7", 0, 99.99) == [80.0, 98.7]
    with pytest.raises(ConfigError, match="'' is not a number"):
        runtime.numbers("--sparsity", "80,", 0, 99.99)

"""A network in every engine: the same answers, fair turns, notes for what is missing, and memory measured alone."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from export_models import exportable, small
from torch import Tensor, nn

from slr_det.engines.child import ONNX_FILE
from slr_det.engines.measure import Measured, Result, _difference, measure
from slr_det.engines.memory import Memory, measure_memory, write_inputs, write_program
from slr_det.engines.prepare import ENGINES, check_engines, our_weight_bytes, prepare
from slr_det.engines.text import aligned, as_markdown, as_text, cells, gain, markdown, notes
from slr_det.engines.verb import add_bench_options, bench_network, bench_settings, bench_words
from slr_det.errors import ConfigError, DataError
from slr_det.plots.runtime import engines_figure, roofline_figure, speedups_figure
from slr_det.plots.style import drawing, png
from slr_det.runtime.library import LIBRARY_VARIABLE, Library

ALL = tuple(ENGINES)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Library) -> None:
    """Layer times of these small networks are not remembered for the user; the library stays the one that is used."""
    monkeypatch.setenv(LIBRARY_VARIABLE, str(runtime.path))
    monkeypatch.setenv("SLR_DET_CACHE", str(tmp_path / "cache"))


def sample_of(found: Any, count: int = 1) -> tuple[Tensor, ...]:
    (rows,) = zip(*found.samples("val", count), strict=True)
    return (torch.cat(rows),)


# -- measuring ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_cache")
def test_every_engine_gives_torchs_answers(tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package, reason="needs the openvino extra")
    torch.manual_seed(0)
    network = exportable(small(keep=0.1))
    sample = sample_of(network, 2)
    ready = prepare(network, sample, ALL, tmp_path, choose="sparse")
    with torch.no_grad():
        wanted = network.module(*sample)
    assert list(ready.engines) == list(ALL) and ready.missing == {}
    for engine in ready.engines.values():
        (found,) = engine.answer()
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    total = sum(parameter.numel() for parameter in network.module.parameters())
    assert ready.engines["torch"].weight_bytes == 4 * total
    assert ready.compiled is not None and not ready.compiled.reason
    assert our_weight_bytes(ready.compiled) < 2 * total  # a tenth of the weights, each with its place


@pytest.mark.usefixtures("own_cache")
def test_what_is_measured_is_whole(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the export extra")
    torch.manual_seed(0)
    network = exportable(small(keep=0.25))
    names = ("torch", "onnxruntime", "slr_det")
    found = measure(network, sample_of(network), names, threads=1, rounds=3, memory=False, choose="sparse")
    assert [result.name for result in found.results] == list(names)
    for result in found.results:
        assert result.milliseconds is not None and result.spread is not None and result.difference is not None
        assert result.spread[0] <= result.milliseconds <= result.spread[1]
        assert result.difference < 1e-4 and result.memory is None and result.problem == ""
    assert found.shapes == ((1, 2, 6, 6),) and found.threads == 1 and found.rounds == 3
    zeros = sum(int((p == 0).sum()) for p in network.module.parameters())
    assert found.zeros == pytest.approx(zeros / found.parameters)
    assert len(found.layers) == 3 and "of 3 layers run sparse" in found.report
    json.dumps(found.to_dict())
    for name in names[:2]:
        ours, theirs = found.milliseconds("slr_det"), found.milliseconds(name)
        assert found.speed_up("slr_det", name) == theirs / ours  # type: ignore[operator]
    assert found.speed_up("slr_det", "openvino") is None


def test_a_dense_network_stays_in_torch_and_says_so(own_cache: None, tmp_path: Path) -> None:
    network = exportable(small())
    found = measure(network, sample_of(network), ["torch", "slr_det"], threads=1, rounds=1, memory=False)
    assert "sparsity is too low to gain" in found.reason
    assert f"runs dense, in torch: {found.reason}" in as_text(found)
    assert found.results[1].weight_bytes == found.results[0].weight_bytes


def test_threads_are_those_that_were_asked_for_and_set_back(own_cache: None) -> None:
    seen = []

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return x + 1

    before = torch.get_num_threads()
    network = exportable(Watch())
    measure(network, sample_of(network), ["torch"], threads=2, rounds=1, memory=False)
    assert set(seen) == {2} and torch.get_num_threads() == before


class Odd(nn.Module):
    """Has an operation that ONNX has no word for."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x.flatten(2))


@pytest.mark.usefixtures("own_cache")
def test_a_network_that_onnx_has_no_words_for_leaves_the_others(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs the export extra")
    network = exportable(Odd())
    found = measure(network, sample_of(network), ALL, threads=1, rounds=1, memory=False)
    problems = {result.name: result.problem for result in found.results}
    assert problems["torch"] == problems["slr_det"] == ""
    assert "cannot be written as ONNX" in problems["onnxruntime"] == problems["openvino"]
    said = notes(found)
    assert said[0].startswith("ONNX Runtime, dense: not measured: this network cannot be written as ONNX")
    assert all("\n" not in line for line in said)


@pytest.mark.usefixtures("own_cache")
def test_an_engine_that_is_not_installed_is_named_with_its_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the export extra")
    monkeypatch.setitem(sys.modules, "openvino", None)
    network = exportable(small())
    ready = prepare(network, sample_of(network), ["onnxruntime", "openvino"], tmp_path)
    assert list(ready.engines) == ["onnxruntime"]
    assert "slr-det[openvino]" in ready.missing["openvino"]


@pytest.mark.parametrize(
    ("found", "wanted", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([0.5], [0.75], 0.25),
        ([100.0], [110.0], 0.1),
        ([float("inf")], [float("inf")], 0.0),
        ([float("nan")], [1.0], float("inf")),
        ([1.0], [float("nan")], float("inf")),
        ([], [], 0.0),
    ],
)
def test_the_difference(found: list[float], wanted: list[float], difference: float) -> None:
    assert _difference((torch.tensor(wanted),), (torch.tensor(found),)) == pytest.approx(difference, rel=0.1)


def test_other_shapes_differ_without_end() -> None:
    assert _difference((torch.zeros(2),), (torch.zeros(3),)) == float("inf")


# -- memory ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process's memory")
def test_the_memory_of_an_engine_grows_with_the_network(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the export extra")
    pytest.importorskip("onnxruntime", reason="needs the export extra")
    from slr_det.export.onnxfile import to_onnx

    running = []
    for width in (10, 3000):
        network = exportable(
            nn.Sequential(nn.Flatten(), nn.Linear(72, width), nn.Linear(width, width)).eval()
        )
        sample = sample_of(network)
        model, _ = to_onnx(network, sample)
        onnx.save(model, tmp_path / ONNX_FILE)
        write_inputs(sample, tmp_path)
        memory = measure_memory("onnxruntime", tmp_path, 1)
        assert memory.problem == "" and memory.running is not None and memory.peak is not None
        assert memory.running < memory.peak
        running.append(memory.running)
    assert running[1] - running[0] > 4 * 3000 * 3000 * 0.9


def test_a_process_that_fails_is_one_line(tmp_path: Path) -> None:
    memory = measure_memory("onnxruntime", tmp_path, 1)
    assert memory.running is None and memory.peak is None
    assert memory.problem.startswith("the process failed: ") and "\n" not in memory.problem


def test_a_network_that_cannot_be_exported_is_one_line(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if float(x.sum()) > 0 else x - 1

    said = write_program(Branching(), (torch.randn(2),), tmp_path)
    assert said.startswith("torch.export cannot take this network (") and "\n" not in said


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process's memory")
def test_the_memory_of_torch_and_of_our_runtime(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = exportable(small(keep=0.1))
    names = ["torch", "slr_det"]
    found = measure(network, sample_of(network), names, threads=1, rounds=1, choose="sparse")
    for result in found.results:
        assert result.memory is not None and result.memory.problem == ""
        assert result.memory.running is not None and result.memory.peak is not None
        assert result.memory.running < 60e6 < result.memory.peak


# -- words and pictures ---------------------------------------------------------------------------------------

EXAMPLE = Measured(
    results=(
        Result(
            "torch", ENGINES["torch"], 20.0, (19.0, 22.0), 0.0, 40_000_000, Memory(60_000_000, 500_000_000)
        ),
        Result("onnxruntime", ENGINES["onnxruntime"], 10.0, (9.5, 10.5), 1e-6, 40_000_000),
        Result("openvino", ENGINES["openvino"], problem="it is not installed"),
        Result(
            "slr_det", ENGINES["slr_det"], 4.0, (3.9, 4.4), 2e-6, 5_000_000, Memory(None, None, "no program")
        ),
    ),
    shapes=((1, 3, 416, 416),),
    threads=1,
    rounds=30,
    parameters=8_852_366,
    zeros=0.9,
    isa="avx2",
    reason="",
    layers=(),
    report="1 of 1 layers run sparse, on 1 thread",
    versions={"torch": "2.13"},
)


def test_the_table_has_a_row_for_each_engine_that_was_measured() -> None:
    rows = cells(EXAMPLE)
    assert [row[0] for row in rows[1:]] == ["PyTorch, dense", "ONNX Runtime, dense", "slr_det, sparse"]
    first, second = "60.0 MB (500.0 MB)", "5.0 MB"
    assert rows[1] == (
        "PyTorch, dense",
        "20.00 ms",
        "19.00 to 22.00",
        "1.00x",
        "0.50x",
        first,
        "40.0 MB",
        "0.0e+00",
    )
    assert rows[3] == ("slr_det, sparse", "4.00 ms", "3.90 to 4.40", "5.00x", "2.50x", "-", second, "2.0e-06")
    assert len({len(line) for line in aligned(rows).splitlines()}) == 1
    assert len(markdown(rows)) == 5 and markdown(rows)[1].count("---") == len(rows[0])


def test_text_and_page_say_everything() -> None:
    for text in (as_text(EXAMPLE), as_markdown(EXAMPLE, "pruned.pt", "bench.png")):
        assert "8,852,366 parameters, 90.0% zeros; input 1x3x416x416; 1 thread, 30 rounds by turns" in text
        assert "OpenVINO, dense: not measured: it is not installed" in text
        assert "slr_det, sparse: memory not measured: no program" in text
        assert "1 of 1 layers run sparse" in text
    assert gain(EXAMPLE) == "slr_det is 2.50x as fast as the fastest other engine (ONNX Runtime, dense)"


def drawn(figure: Any) -> set[str]:
    from matplotlib.text import Text

    assert len(png(figure)) > 5000
    return {text.get_text() for text in figure.findobj(Text)}


def test_the_picture_of_engines_leaves_out_what_was_not_measured() -> None:
    with drawing():
        figure = engines_figure(EXAMPLE.to_dict()["results"], "pruned.pt")
        words = drawn(figure)
    assert {"20.00 ms", "10.00 ms", "4.00 ms", "60 MB", "not measured", "pruned.pt"} <= words
    assert ENGINES["openvino"] not in words
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    assert widths == [20.0, 10.0, 4.0]


def test_far_quartiles_leave_the_bars_readable() -> None:
    rows = [{"label": "a", "milliseconds": 1.0, "spread": (0.9, 500.0), "memory": None}]
    with drawing():
        figure = engines_figure(rows, "x")
        assert len(figure.axes) == 1 and figure.axes[0].get_xlim()[1] < 2


def test_the_picture_of_speed_ups_shows_each_and_the_targets() -> None:
    rows = [
        {"sparsity": 0.8, "threads": 1, "speed_up": 1.5, "target": 1.3},
        {"sparsity": 0.9, "threads": 1, "speed_up": 2.5, "target": 2.0},
        {"sparsity": 0.9, "threads": 2, "speed_up": 2.2, "target": None},
    ]
    with drawing():
        figure = speedups_figure(rows, "tiny")
        words = drawn(figure)
    assert {"1.5x", "2.5x", "2.2x", "80.0%", "90.0%", "1 thread", "2 threads", "target"} <= words


def test_the_picture_of_the_roofline_shows_both_shares() -> None:
    layers = [{"name": "conv", "peak_share": 0.5, "bandwidth_share": 0.75}]
    with drawing():
        figure = roofline_figure(layers, "tiny")
        assert "conv" in drawn(figure)
    assert sorted(patch.get_width() for patch in figure.axes[0].patches) == [50.0, 75.0]


# -- the verb -------------------------------------------------------------------------------------------------


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_bench_options(parser)
    return parser.parse_args(words)


def test_settings_come_from_the_options() -> None:
    found = bench_settings(options("--engines", "slr_det,torch", "--threads", "2", "--no-memory"))
    assert found.engines == ("torch", "slr_det") and found.threads == 2 and not found.memory
    assert bench_settings(options()).engines == ALL


def test_every_wrong_option_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        bench_settings(options("--engines", "torch,tvm", "--threads", "-1", "--rounds", "0", "--batch", "0"))
    assert caught.value.problems == (
        "--threads -1: expected at least 0",
        "--rounds 0: expected at least 1",
        "--batch 0: expected at least 1",
        "--engines: no engine is called 'tvm', expected some of torch, onnxruntime, openvino, slr_det",
    )


def test_engines_are_named_in_the_tables_order() -> None:
    assert check_engines(["slr_det", "torch"]) == ["torch", "slr_det"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["weights=a.pt"], ["model=a.pt", "data=shapes"]),
        (["model=a.pt", "data=b.yaml"], ["model=a.pt", "data=b.yaml"]),
        (["model=x.yaml", "weights=a.pt"], ["model=x.yaml", "weights=a.pt", "data=shapes"]),
        (["runs/a/pruned.pt"], ["model=runs/a/pruned.pt", "data=shapes"]),
        (["a.pt", "data=b.yaml", "imgsz=64"], ["model=a.pt", "data=b.yaml", "imgsz=64"]),
        ([], []),
    ],
)
def test_a_checkpoint_alone_is_enough(given: list[str], meant: list[str]) -> None:
    assert bench_words(given, "shapes") == meant


@pytest.mark.usefixtures("own_cache")
def test_the_outcome_is_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = tmp_path / "out"
    words = ["-o", str(folder), "--engines", "torch,slr_det", "--rounds", "2", "--no-memory", "--batch", "2"]
    found = bench_network(exportable(small(keep=0.1)), bench_settings(options(*words)), "small")
    assert found.shapes == ((2, 2, 6, 6),)
    assert sorted(path.name for path in folder.iterdir()) == ["bench.json", "bench.md", "bench.png"]
    content = json.loads((folder / "bench.json").read_text())
    assert content["schema"] == "slr_det.engines/1" and len(content["results"]) == 2
    assert "![latency](bench.png)" in (folder / "bench.md").read_text()


def test_data_without_a_sample_are_one_line(tmp_path: Path) -> None:
    empty = exportable(small())
    bare = type(empty)(
        empty.module, empty.inputs, empty.outputs, lambda split, count: iter(()), empty.evaluate, {}
    )
    with pytest.raises(DataError, match="no sample to measure"):
        bench_network(bare, bench_settings(options("-o", str(tmp_path / "out"))), "small")
    assert not (tmp_path / "out").exists()

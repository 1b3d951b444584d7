"""A file is written after its checks or not at all; batches are cut and filled; differences are measured right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from export_models import exportable, small
from torch import Tensor, nn

from slr_det.errors import ConfigError, DataError, MissingExtraError
from slr_det.export import ExportSettings, Tensors, check_settings, export_network
from slr_det.export.runtime import batches, compare, in_batches


class Answers:
    """A network whose answers are given."""

    path = Path("given")

    def __init__(self, *answers: Tensor) -> None:
        self.answers = answers

    def __call__(self, *inputs: Tensor) -> Tensors:
        return self.answers


class Given(nn.Module):
    """The module to compare it with."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class OnlyTracedRight(nn.Module):
    """Counts its calls into its answers: tracing takes one of them for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.calls


@pytest.mark.parametrize(
    ("ours", "theirs", "absolute", "relative"),
    [
        ([0.5, 2.0], [0.5, 2.0], 0.0, 0.0),
        ([0.5, 600.0], [0.25, 600.5], 0.5, 0.25),  # 0.25 of a small number, 0.5 of 600
        ([100.0], [90.0], 10.0, 0.1),
        ([float("inf")], [float("inf")], 0.0, 0.0),
        ([1.0], [float("nan")], float("inf"), float("inf")),
    ],
)
def test_a_difference_is_a_part_of_the_number_where_that_is_above_one(
    ours: list[float], theirs: list[float], absolute: float, relative: float
) -> None:
    found = compare(Given(), Answers(torch.tensor(theirs)), [(torch.tensor(ours),)], ("y",))
    assert found.absolute == pytest.approx(absolute) and found.relative == pytest.approx(relative)
    assert found.worst == "y" and found.samples == len(ours)


def test_a_comparison_needs_samples() -> None:
    with pytest.raises(DataError, match="no sample"):
        compare(Given(), Answers(), [], ("y",))


def test_inputs_are_cut_into_the_networks_batches_and_the_last_is_filled_up() -> None:
    seen = []

    def answer(x: Tensor) -> Tensors:
        seen.append(x.tolist())
        return (x * 2,)

    (found,) = in_batches(answer, (torch.arange(5.0),), 2)
    assert found.tolist() == [0, 2, 4, 6, 8]
    assert seen == [[0, 1], [2, 3], [4, 4]]
    assert in_batches(answer, (torch.arange(3.0),), 0)[0].tolist() == [0, 2, 4]


def test_samples_are_put_together_and_repeated_where_there_are_too_few() -> None:
    stream = [(torch.tensor([float(i)]),) for i in range(5)]
    assert [batch[0].tolist() for batch in batches(stream, 2)] == [[0, 1], [2, 3]]
    assert [batch[0].tolist() for batch in batches(stream[:2], 3)] == [[0, 1, 0]]
    assert list(batches([], 2)) == []


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("m.pt", {}, "ends in .onnx; write -o m.onnx"),
        ("m.onnx", {"format": "openvino"}, "ends in .xml; write -o m.xml"),
        ("m.xml", {"format": "openvino", "sparse": True}, "no sparse weights"),
        ("m.onnx", {"samples": 0}, "--samples 0: expected at least 1"),
        ("m.onnx", {"calibration": -1}, "--calibration -1"),
        ("m.onnx", {"reduce_range": True}, "--reduce-range is about INT8; add --int8"),
        ("m.onnx", {"keep_float": ("a",)}, "--keep-float is about INT8"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_starts(
    name: str, settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        check_settings(Path(name), ExportSettings(**settings))
    assert len(raised.value.problems) == 1 and expected in raised.value.problems[0]


def test_a_missing_package_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for package, extra in (("onnx", "export"), ("openvino", "openvino")):
        monkeypatch.setitem(sys.modules, package, None)
        how = "openvino" if package == "openvino" else "onnx"
        if package == "openvino":
            pytest.importorskip("onnxruntime")
        with pytest.raises(MissingExtraError, match=rf"uv pip install \"slr-det\[{extra}\]\""):
            check_settings(Path(f"m.{'xml' if how == 'openvino' else 'onnx'}"), ExportSettings(format=how))
        monkeypatch.undo()


def test_everything_at_once(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason='needs the export extra: uv pip install "slr-det[export]"')
    import onnx

    target = tmp_path / "folder" / "m.onnx"
    torch.manual_seed(0)
    settings = ExportSettings(int8=True, sparse=True, batch=2, calibration=8)
    found = export_network(exportable(small(keep=0.02)), target, settings)
    assert found.check.relative <= 1e-4 and found.check.samples == 6
    assert found.batchnorms == 0 and found.folded.merged == 2
    assert found.quantised is not None and found.quantised.samples == 4
    assert found.quantised.zeros_kept == found.quantised.zeros_before > 6000
    assert found.metrics.keys() == {"float32", "int8"}
    assert found.metrics["int8"]["mean"] == pytest.approx(found.metrics["float32"]["mean"], abs=0.1)
    assert found.sparsified is not None and found.sparsified.tensors == 3
    assert found.bytes == target.stat().st_size < found.dense_bytes
    json.dumps(found.to_dict())
    model = onnx.load(target)
    assert {entry.key: entry.value for entry in model.metadata_props} == {"task": "test", "batch": "2"}
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [2, 2, 6, 6]
    assert list(target.parent.iterdir()) == [target]


def test_a_file_that_answers_otherwise_is_not_written_and_an_old_one_stays(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason='needs the export extra: uv pip install "slr-det[export]"')
    target = tmp_path / "m.onnx"
    target.write_bytes(b"before")
    with pytest.raises(ConfigError, match="differs from torch by .* in 'y', more than 0.0001") as raised:
        export_network(exportable(OnlyTracedRight()), target, ExportSettings())
    assert "\n" not in str(raised.value)
    assert target.read_bytes() == b"before" and list(tmp_path.iterdir()) == [target]


def test_what_onnx_has_no_word_for_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason='needs the export extra: uv pip install "slr-det[export]"')

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(ConfigError, match="cannot be written as ONNX") as raised:
        export_network(exportable(Odd()), tmp_path / "m.onnx", ExportSettings())
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("int8", [False, True])
def test_openvino(int8: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason='needs the export extra: uv pip install "slr-det[export]"')
    pytest.importorskip("openvino", reason='needs the openvino extra: uv pip install "slr-det[openvino]"')
    torch.manual_seed(0)
    target = tmp_path / "m.xml"
    settings = ExportSettings(format="openvino", int8=int8, calibration=8)
    found = export_network(exportable(small()), target, settings)
    assert {path.name for path in tmp_path.iterdir()} == {"m.xml", "m.bin"}
    assert found.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert found.check.relative <= 1e-4
    assert (found.int8_check is not None) is int8
    if found.int8_check is not None:
        assert 1e-4 < found.int8_check.relative < 0.5

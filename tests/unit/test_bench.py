"""The bench command: what it measures has the right sizes, and its verdicts follow from its numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slr_det import timing
from slr_det.bench import __main__ as command
from slr_det.bench import iteration, shapes
from slr_det.bench.rows import Row, Settings, number, table
from slr_det.errors import MissingExtraError

PARAMETERS = {"yolov3-tiny": 12_173_248, "yolov3-spp": 104_803_744}  # biases and batch norms included


@pytest.mark.parametrize("model", PARAMETERS)
def test_the_shapes_are_those_of_the_real_models(model: str) -> None:
    pytest.importorskip("ultralytics", reason="needs the yolo extra")
    from slr_det.adapter import load_adapter

    info = load_adapter("ultralytics").inspect(f"{model}.yaml", 80)
    assert info.parameters == PARAMETERS[model]
    real = [tuple(weight.shape) for weight in info.weights.values() if weight.dim() > 1]
    assert list(shapes.weight_shapes(model).values()) == real


@pytest.mark.parametrize("model", PARAMETERS)
def test_the_shapes_hold_all_but_a_thousandth_of_the_parameters(model: str) -> None:
    weights = sum(torch.Size(shape).numel() for shape in shapes.weight_shapes(model).values())
    assert 0.999 < weights / PARAMETERS[model] < 1


def test_the_engine_of_the_iteration_prunes_all_but_the_first_and_the_fixed_last_layer() -> None:
    weights = iteration.random_weights("yolov3-tiny", "cpu")
    engine = iteration.build(weights, 1)
    pruned = sum(tensor.numel() for tensor in engine.state.z.values())
    assert pruned == sum(weight.numel() for weight in weights.values()) - 16 * 3 * 9 - 16


def test_variants_take_turns_and_the_first_round_is_not_counted() -> None:
    ran: list[str] = []
    seconds = timing.interleaved({name: lambda name=name: ran.append(name) for name in "abc"}, rounds=3)
    assert "".join(ran) == "cab" + "abc" + "bca" + "cab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_what_comes_before_each_round_is_not_timed() -> None:
    import time

    seconds = timing.repeated(lambda: None, 2, before=lambda: time.sleep(0.05))
    assert len(seconds) == 2 and max(seconds) < 0.04


def test_threads_are_set_back() -> None:
    before = torch.get_num_threads()
    with timing.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


MET = Row("speed", "10 M", 0.5, "x", 0.7, (0.4, 0.6), "made of two parts")
MISSED = Row("speed", "20 M", 0.71, "x", 0.7)
FREE = Row("other", "10 M", 123.4, "ms")
ABSENT = Row("penalty", "needs ultralytics", None, "%", 3.0)


def engine_measures(monkeypatch: pytest.MonkeyPatch, measures: dict[str, Any]) -> None:
    """Let the engine's bench have these measures."""
    monkeypatch.setitem(command.SUBJECTS, "engine", replace(command.SUBJECTS["engine"], measures=measures))


def test_verdicts_compare_with_the_target() -> None:
    assert [row.verdict(quick=False) for row in (MET, MISSED, FREE, ABSENT)] == [
        "pass",
        "MISS",
        "-",
        "not measured",
    ]
    assert [row.passed(quick=True) for row in (MET, MISSED, FREE, ABSENT)] == [None] * 4
    assert MISSED.verdict(quick=True) == "not judged"


def test_the_table_shows_target_measure_and_result() -> None:
    lines = table([MET, MISSED, FREE, ABSENT], quick=False).splitlines()
    assert lines[2].split() == ["speed", "10", "M", "<=", "0.7x", "0.5x", "0.4x", "to", "0.6x", "pass"]
    assert lines[3].endswith("MISS")
    assert lines[-1] == "speed, 10 M: made of two parts"
    assert [number(0.12345, "x"), number(1234.5, "ms"), number(None, "s")] == ["0.123x", "1234 ms", "-"]


@pytest.mark.parametrize("check, row, code", [(True, MISSED, 1), (True, MET, 0), (False, MISSED, 0)])
def test_only_check_turns_a_miss_into_an_exit_code(
    check: bool, row: Row, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_measures(monkeypatch, {"projection": lambda settings: [row]})
    arguments = ["engine", "--only", "projection", *(["--check"] if check else [])]
    assert command.main(arguments) == code


def test_quick_projection_writes_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "bench.json"
    assert command.main(["engine", "--only", "projection", "--quick", "--json", str(target)]) == 0
    found = json.loads(target.read_text())
    assert found["schema"] == "slr_det.bench/1" and found["quick"] is True
    ratios = [row for row in found["rows"] if row["name"] == "projection / percentile"]
    assert [row["target"] for row in ratios] == [0.7] * 4
    assert [row["details"]["kept"] for row in ratios] == [9000, 9000, 900, 900]
    assert all(row["passed"] is None for row in ratios)
    assert "not judged" in capsys.readouterr().out


def test_quick_iteration_moves_the_multipliers() -> None:
    rows = iteration.measure(Settings(threads=1, quick=True))
    assert rows[0].unit == "s" and rows[0].target == 3.0 and rows[0].measured is not None
    assert "moved 2 + 2 times in 2 rounds" in rows[0].note


def test_a_missing_trainer_leaves_the_other_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(settings: Settings) -> list[Row]:
        raise MissingExtraError('install it with: uv pip install "slr-det[yolo]"')

    engine_measures(monkeypatch, {"projection": lambda settings: [MET], "penalty": missing})
    assert command.main(["engine"]) == 0
    shown = capsys.readouterr().out
    assert "pass" in shown and "not measured" in shown and "slr-det[yolo]" in shown
    assert command.main(["engine", "--only", "penalty"]) == 2


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["engine", "--only", "speed"], "invalid choice: 'speed'"),
        (["engine", "--threads", "0"], "expected 1 or more"),
        ([], "required: engine"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


def test_help_names_every_measure_and_target(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["engine", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(
        word in shown for word in (*command.MEASURES, "0.7x", "3 s", "50 ms", "3 %", "2.1x", "--check")
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["penalty", "memory"])
def test_the_measures_of_a_training_step_run(name: str, tmp_path: Path) -> None:
    pytest.importorskip("ultralytics", reason="needs the yolo extra")
    target = tmp_path / "bench.json"
    assert command.main(["engine", "--only", name, "--quick", "--json", str(target)]) == 0
    rows = json.loads(target.read_text())["rows"]
    assert rows and all(row["measured"] is not None for row in rows)

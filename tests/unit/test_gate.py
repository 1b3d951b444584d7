"""Limits of an evaluation: how they are written, how they are judged, and what a CI system gets to read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import junitparser
import pytest
from report_example import make_classifier_report, make_report

from slr_det import classify, lane, yolo
from slr_det.arguments import parse
from slr_det.errors import ConfigError, DataError
from slr_det.gate import Gate
from slr_det.gate.baseline import read_baseline
from slr_det.gate.checks import Check, Limits, judge, parse_limits
from slr_det.gate.junit import junit
from slr_det.gate.outcome import Outcome
from slr_det.gate.quantities import BYTES, COUNT, RATE, SCORE, TIME, exact, parse_quantity, shown
from slr_det.report import write_report
from slr_det.task import Task

METRICS = {"AP50": 0.5, "AP": 0.31, "images": 128, "per_class": {}, "bytes": 12_000_000.0, "latency": 0.03}


def limits(
    least: Sequence[str] = (), most: Sequence[str] = (), tolerance: Sequence[str] = (), against: bool = False
) -> Limits:
    return parse_limits(least, most, tolerance, against=against, example="map50=0.35")


def verdicts(checks: list[Check]) -> list[tuple[str, str, bool]]:
    return [(check.metric, check.rule, check.passed) for check in checks]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("12MB", BYTES, 12e6),
        ("12 MiB", BYTES, 12 * 1024**2),
        ("1.5kb", BYTES, 1500.0),
        ("30ms", TIME, 0.03),
        ("10min", TIME, 600.0),
        ("5M", COUNT, 5e6),
        ("20x", RATE, 20.0),
        ("35%", SCORE, 0.35),
        ("1e-3", SCORE, 0.001),
        ("0.35", SCORE, 0.35),
        ("12000000", BYTES, 12e6),
    ],
)
def test_quantities_have_the_units_of_their_kind(text: str, kind: str, value: float) -> None:
    quantity = parse_quantity(text)
    assert quantity is not None and quantity.of(kind, "x") == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["", "MB", "12 furlongs", "nan", "inf", "1e999", "0x10", "1,5", "\u0663"])
def test_what_is_no_quantity_is_none(text: str) -> None:
    assert parse_quantity(text) is None


def test_values_are_shown_with_units() -> None:
    assert [shown(v, BYTES) for v in (12.0, 1500.0, 12e6)] == ["12 bytes", "1.50 KB", "12.00 MB"]
    assert [shown(v, TIME) for v in (0.0341, 2.0, 1.735e-4)] == ["34.1 ms", "2.0 s", "173.5 us"]
    assert [exact(v, BYTES) for v in (12 * 1024**2, 7.0, 0.0)] == ["12.5829 MB", "7 bytes", "0 bytes"]
    assert [exact(90.0, TIME), exact(20.0, RATE), exact(1e9, COUNT), exact(0.35, SCORE)] == [
        *("90 s", "20x", "1,000,000,000", "0.35")
    ]
    assert [shown(0.35, SCORE), shown(128.0, SCORE), shown(1234567.0, COUNT)] == [
        "0.3500",
        "128",
        "1,234,567",
    ]
    assert shown(math.nan, BYTES) == shown(None, BYTES) == "nan" and shown(math.inf, SCORE) == "inf"


def test_limits_are_judged_by_any_name_and_unit() -> None:
    asked = limits(["map50=0.5", "ap=32%"], ["bytes=12MB", "Latency=29ms"])
    checks = judge(yolo.TASK, METRICS, asked, None)
    assert verdicts(checks) == [
        *(("AP50", "min", True), ("AP", "min", False)),
        *(("bytes", "max", True), ("latency", "max", False)),
    ]
    assert checks[1].failure == "ap is 0.3100, below the minimum of 0.32"
    assert checks[3].failure == "Latency is 30.0 ms, above the maximum of 29 ms"
    assert [check.demand for check in checks] == [
        *("at least 0.5", "at least 0.32"),
        *("at most 12 MB", "at most 29 ms"),
    ]


def test_a_score_that_is_no_number_keeps_no_limit() -> None:
    for value in (math.nan, None):
        (check,) = judge(yolo.TASK, {"AP50": value}, limits(["map50=0"]), None)
        assert not check.passed and check.failure == "map50 is nan, below the minimum of 0"
        assert check.to_dict()["value"] is None


def test_a_minimum_in_percent_is_told_that_scores_are_fractions() -> None:
    (check,) = judge(yolo.TASK, METRICS, limits(["AP=30"]), None)
    assert check.failure == "AP is 0.3100, below the minimum of 30; scores are fractions of 1: 0.3?"


def test_every_wrong_word_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        limits(["map50", "=1", "map=x", "bytes=1MB"], ["latency=30", "bytes=3ms"], ["-1", "0.1", "AP=-0.1"])
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 9
    for part in (
        "--min 'map50': expected name=number, such as map50=0.35",
        "--min: of bytes fewer is better, so that it has no minimum; write --max bytes=... instead",
        "--max latency=30 has no unit; write 30ms or 30s",
        "--max bytes=3ms has the unit 'ms', expected B, KB, MB",
        "--tolerance '-1': expected a number of 0 or more",
        "--tolerance AP: is -0.1, expected 0 or more",
        "give --baseline FILE with it",
    ):
        assert part in text


def test_a_limit_is_given_once_and_none_is_dropped() -> None:
    with pytest.raises(ConfigError) as caught:
        limits(["map50=0.6", "MAP50=0.4"], tolerance=["0.1", "1%"], against=True)
    assert list(caught.value.problems) == [
        "--tolerance is given twice, as 0.1 and 1%; leave one out",
        "--min MAP50=0.4: MAP50 has a limit already; leave one of them out",
    ]
    both = limits(tolerance=["map50=0.1", "AP50=0.2"], against=True)
    with pytest.raises(ConfigError, match="map50 and AP50 are the same metric"):
        judge(yolo.TASK, METRICS, both, {"AP50": 0.5})
    # Two names of one metric are two limits, and both are held.
    checks = judge(yolo.TASK, METRICS, limits(["map50=0.4", "AP50=0.6"]), None)
    assert [check.passed for check in checks] == [True, False]


def test_a_limit_that_is_just_missed_does_not_look_kept() -> None:
    (check,) = judge(yolo.TASK, {"AP50": 0.34999}, limits(["map50=0.35"]), None)
    assert check.failure == "map50 is 0.34999, below the minimum of 0.35"
    (check,) = judge(yolo.TASK, {"AP50": 0.5, "bytes": 12_004_000.0}, limits(most=["bytes=12MB"]), None)
    assert check.failure == "bytes is 12.004 MB, above the maximum of 12 MB"
    (check,) = judge(yolo.TASK, {"latency": 0.03}, limits(most=["latency=10us"]), None)
    assert check.failure == "latency is 30.0 ms, above the maximum of 10 us"


def test_names_and_directions_that_do_not_exist_are_said_at_once() -> None:
    metrics = {"accuracy": 0.9, "fp": 0.1, "fn": 0.2}
    asked = limits(["fp=0.1", "acuracy=0.8"], ["acc=1", "fn=30%", "packed_bytes=1MB"])
    with pytest.raises(ConfigError) as caught:
        judge(lane.TASK, metrics, asked, None)
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4
    assert "of fp fewer is better, so that it has no minimum; write --max fp=... instead" in text
    assert "of acc more is better, so that it has no maximum" in text
    assert "no metric 'acuracy' (did you mean 'accuracy'?)" in text
    assert "packed_bytes could not be measured" in text


def test_a_baseline_is_missed_by_the_tasks_metrics_alone_and_in_their_own_direction() -> None:
    baseline = {"accuracy": 0.9, "point_accuracy": 0.5, "fp": 0.1, "fn": 0.2, "other": 1.0}
    metrics = {"accuracy": 0.895, "point_accuracy": 0.6, "fp": 0.106, "fn": 0.1, "other": 0.0, "bytes": 101.0}
    asked = limits(tolerance=["0.005"], against=True)
    checks = judge(lane.TASK, metrics, asked, baseline)
    assert verdicts(checks) == [
        ("accuracy", "baseline", True),  # to the last bit: 0.9 - 0.005
        ("point_accuracy", "baseline", True),
        ("fp", "baseline", False),
        ("fn", "baseline", True),
    ]
    assert checks[2].failure == "fp is 0.1060, worse than the baseline's 0.1000 by more than 0.005"
    assert [c.passed for c in judge(lane.TASK, metrics, limits(against=True), baseline)] == [
        *(False, True, False, True)
    ]
    own = limits(tolerance=["0.1", "acc=0", "bytes=1%"], against=True)
    checks = judge(lane.TASK, metrics, own, {**baseline, "bytes": 100.0})
    assert [(c.metric, c.passed) for c in checks] == [
        *(("accuracy", False), ("point_accuracy", True), ("fp", True), ("fn", True), ("bytes", True))
    ]
    assert checks[-1].tolerance == 1.0


def test_a_baseline_has_to_have_what_it_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="the baseline has no bytes; it has AP50"):
        judge(yolo.TASK, METRICS, limits(tolerance=["bytes=1%"], against=True), {"AP50": 0.3})


def test_a_baseline_is_a_run_or_an_evaluation(tmp_path: Path) -> None:
    report = make_report()
    write_report(tmp_path / "run", report)
    final = report["phases"][report["final_phase"]]["metrics"]
    for path in (tmp_path / "run", tmp_path / "run" / "report.json"):
        found = read_baseline(path, yolo.TASK)
        assert found.numbers["AP50"] == final["AP50"]
        assert found.numbers["bytes"] == report["bytes"]["pruned"]
        assert found.numbers["compression"] == pytest.approx(report["compression"]["model"]["rate"])
    saved = tmp_path / "eval.json"
    saved.write_text(
        json.dumps(Outcome("detect", "AP50", "", metrics={"AP50": 0.4, "n": 10**400}).document())
    )
    assert dict(read_baseline(saved, yolo.TASK).numbers) == {"AP50": 0.4}  # no float can hold the other
    outcome = Outcome("detect", "AP50", "eval", "a.pt", "coco", {"AP50": 0.4, "AP": math.nan}, {"bytes": 7.0})
    saved.write_text(json.dumps(outcome.document(), allow_nan=False))
    found = read_baseline(saved, yolo.TASK)
    assert dict(found.numbers) == {"AP50": 0.4, "bytes": 7.0} and found.data == "coco"


def test_what_is_no_baseline_is_refused_in_one_line(tmp_path: Path) -> None:
    write_report(tmp_path / "classifier", make_classifier_report())
    failed = Outcome("detect", "AP50", "eval", error="data=x: not there").document()
    contents: dict[str, Any] = {
        "text": "no json",
        "list": "[]",
        "other": json.dumps({"schema": "slr_det.study/1"}),
        "failed": json.dumps(failed),
        "hollow": json.dumps({**failed, "error": None, "metrics": 3}),
        "headless": json.dumps({**failed, "error": None, "metrics": {"AP": 0.3, "AP50": None}}),
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    expected = {
        "none": "no such baseline",
        "text": "is not a readable baseline",
        "list": "schema is None",
        "other": "schema is 'slr_det.study/1', expected 'slr_det.report/1' or 'slr_det.evaluation/1'",
        "failed": r"of an evaluation that failed \(data=x: not there\)",
        "hollow": "metrics and measures are missing",
        "headless": "headless: has no number for AP50, only for AP; give",
        "classifier": "is of the task 'classify', expected 'detect'",
    }
    for name, message in expected.items():
        with pytest.raises(DataError, match=message) as caught:
            read_baseline(tmp_path / name, yolo.TASK)
        assert "\n" not in str(caught.value)


def test_the_table_says_metric_value_limit_and_verdict() -> None:
    checks = judge(yolo.TASK, METRICS, limits(["map50=0.4"], ["bytes=13MB"]), None)
    measures = {"bytes": 12e6}
    table = Outcome("detect", "AP50", "", metrics={"AP50": 0.5, "n": 3}, measures=measures, checks=checks)
    assert table.table().splitlines() == [
        "metric     value  limit          verdict",
        "------  --------  -------------  -------",
        "AP50      0.5000  at least 0.4   ok",
        "n              3",
        "bytes   12.00 MB  at most 13 MB  ok",
    ]
    plain = Outcome("detect", "AP50", "", metrics={"AP50": math.nan}).table()
    assert plain.splitlines()[0] == "metric  value" and plain.splitlines()[2] == "AP50      nan"


# -- JUnit --------------------------------------------------------------------------------------------------

#: Children in order and required attributes of each element, as both schemas in use (Ant's and Jenkins') have them.
ELEMENTS: dict[str, tuple[list[str], set[str]]] = {
    "testsuites": (["testsuite"], set()),
    "testsuite": (
        ["properties", "testcase", "system-out", "system-err"],
        {"id", "package", "name", "timestamp", "hostname", "tests", "failures", "errors", "time"},
    ),
    "properties": (["property"], set()),
    "property": ([], {"name", "value"}),
    "testcase": (["error", "failure"], {"classname", "name", "time"}),
    "error": ([], {"type", "message"}),
    "failure": ([], {"type", "message"}),
    "system-out": ([], set()),
    "system-err": ([], set()),
}


def assert_structure(element: Any) -> None:
    children, required = ELEMENTS[element.tag]
    assert required <= set(element.keys()) <= required | {"skipped"}, element.tag
    order = [children.index(child.tag) for child in element]
    assert order == sorted(order)
    if "time" in required:
        assert float(element.get("time")) >= 0
    for child in element:
        assert_structure(child)


def test_junit_holds_a_case_for_each_limit(tmp_path: Path) -> None:
    checks = judge(yolo.TASK, METRICS, limits(["map50=0.5", "map=0.4"], ["bytes=13MB"]), None)
    output = "AP \x1b[1m<b>\x00 & ü"
    document = junit("slr_det.yolo.eval", checks, seconds=1.25, properties=[("model", "a.pt")], output=output)
    assert_structure(ElementTree.fromstring(document))
    (tmp_path / "x.xml").write_bytes(document)
    (suite,) = junitparser.JUnitXml.fromfile(str(tmp_path / "x.xml"))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (4, 1, 0, 0)
    assert suite.time == 1.25 and suite.name == "slr_det.yolo.eval"
    cases = list(suite)
    assert [case.name for case in cases] == [
        *("evaluation", "map50 at least 0.5", "map at least 0.4", "bytes at most 13 MB")
    ]
    assert [case.is_passed for case in cases] == [True, True, False, True]
    (failure,) = cases[2].result
    assert isinstance(failure, junitparser.Failure)
    assert failure.message == "map is 0.3100, below the minimum of 0.4" and failure.type == "min"
    assert ElementTree.fromstring(document).findtext("testsuite/system-out") == "AP �[1m<b>� & ü"


def test_junit_of_what_could_not_run_holds_an_error(tmp_path: Path) -> None:
    document = junit("x", [], seconds=0.0, error=("DataError", 'a"<b>\x07: not there'))
    assert_structure(ElementTree.fromstring(document))
    (tmp_path / "x.xml").write_bytes(document)
    (suite,) = junitparser.JUnitXml.fromfile(str(tmp_path / "x.xml"))
    assert (suite.tests, suite.failures, suite.errors) == (1, 0, 1)
    (error,) = next(iter(suite)).result
    assert isinstance(error, junitparser.Error)
    assert error.message == 'a"<b>�: not there' and error.type == "DataError"


# -- the command line ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [yolo.TASK, classify.TASK], ids=lambda task: task.name)
def test_a_setting_behind_json_is_no_file(task: Task) -> None:
    options = parse(task, ["eval", "--json", "model=a.pt", "data=b"])
    assert options.json == "-" and sorted(options.settings) == ["data=b", "model=a.pt"]
    options = parse(task, ["eval", "model=a.pt", "--json", "out/a=1.json", "data=b"])
    assert options.json == "out/a=1.json" and sorted(options.settings) == ["data=b", "model=a.pt"]
    assert parse(task, ["eval", "model=a.pt"]).json is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max", "bytes=12XB"], "--max 'bytes=12XB': expected name=number, such as bytes=12MB"),
        (
            ["--tolerance", "0.1"],
            "--tolerance says how far a baseline may be missed; give --baseline FILE with it",
        ),
        (["--baseline", "none.json"], "none.json: no such baseline; give report.json of a run"),
        (["epohcs=3"], "unknown key 'epohcs'"),
    ],
)
def test_what_cannot_run_is_told_in_both_files(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("timm", reason="needs the classify extra")
    monkeypatch.chdir(tmp_path)
    files = ["--json", "eval.json", "--junit", "eval.xml"]
    assert classify.main(["eval", "model=a.pt", "data=digits", *files, *words]) == 2
    assert message in capsys.readouterr().err
    document = json.loads((tmp_path / "eval.json").read_text())
    assert message in document["error"] and document["passed"] is False
    (suite,) = junitparser.JUnitXml.fromfile(str(tmp_path / "eval.xml"))
    assert (suite.tests, suite.errors) == (1, 1) and message in next(iter(suite)).result[0].message


def test_a_file_that_cannot_be_written_is_known_before_the_evaluation_and_told_in_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm", reason="needs the classify extra")
    monkeypatch.chdir(tmp_path)
    full = Path("/dev/full").stat().st_mode
    # There is no such checkpoint: an error of its own would say that something was read before the files were tried.
    assert (
        classify.main(["eval", "model=none.pt", "data=digits", "--json", "/dev/full", "--junit", "a.xml"])
        == 2
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: /dev/full: is a device or a pipe, not a file; name another one"
    (suite,) = junitparser.JUnitXml.fromfile("a.xml")
    assert suite.errors == 1 and "/dev/full" in next(iter(suite)).result[0].message
    assert (
        classify.main(["eval", "model=none.pt", "data=digits", "--json", "a.json", "--junit", "/dev/full"])
        == 2
    )
    assert "/dev/full" in json.loads(Path("a.json").read_text())["error"]
    assert Path("/dev/full").stat().st_mode == full


def test_no_file_of_the_user_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = {"model.pt": "weights", "report.json": '{"schema": "slr_det.report/1"}', "x.xml": "<a/>"}
    old = json.dumps(Outcome("classify", "top1", "", metrics={"top1": 0.4}).document())
    for name, content in {**kept, "old.json": old}.items():
        Path(name).write_text(content)
    for words, message in (
        (["--json", "model.pt"], "--json model.pt: is there already, and no evaluation wrote it"),
        (["--json", "report.json"], "--json report.json: is there already"),
        (["--junit", "x.xml"], "--junit x.xml: is there already"),
        (["--baseline", "old.json", "--json", "./old.json"], "--json ./old.json: is the baseline"),
        (["--json", "new", "--junit", "./new"], "--json and --junit are the same file, new; name two"),
        (["--junit", ""], "--junit: the name of the file is empty"),
    ):
        assert classify.main(["eval", "model=model.pt", "data=digits", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {message}")
    assert {name: Path(name).read_text() for name in kept} == kept and Path("old.json").read_text() == old
    assert not Path("new").exists()


def test_what_an_older_evaluation_said_is_gone_while_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = parse(classify.TASK, ["eval", "model=a.pt", "--json", "a.json", "--junit", "a.xml"])
    Path("a.json").write_text(json.dumps(Outcome("classify", "top1", "").document()))
    assert json.loads(Path("a.json").read_text())["passed"] is True
    Path("a.xml").touch()  # as mktemp makes them
    with Gate(classify.TASK, options, "eval").telling():
        document = json.loads(Path("a.json").read_text())
        assert document["passed"] is False and "did not come to its end" in document["error"]
        (suite,) = junitparser.JUnitXml.fromfile("a.xml")
        assert suite.errors == 1


def test_json_on_stdout_tells_an_error_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert classify.main(["eval", "model=a.pt", "data=digits", "--json", "--min", "top1"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is False and "--min 'top1'" in document["error"]


def test_a_bug_is_not_taken_for_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    from slr_det.cli import run

    def broken() -> int:
        raise ZeroDivisionError("by zero\nand more")

    assert run(broken, on_interrupt=lambda: "") == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1].startswith("error: ZeroDivisionError: by zero (a bug of slr_det")

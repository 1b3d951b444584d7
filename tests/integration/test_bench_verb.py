"""The verb `bench` on tiny pruned networks of every task: all engines answer alike, and ours runs or says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_export import digits, lane_model, pillars_model, road, world  # noqa: F401  # fixtures

from slr_det import classify, lane, pointpillars, yolo

pytest.importorskip("onnxruntime", reason='needs the export extra: uv pip install "slr-det[export]"')

TASKS: dict[str, tuple[Callable[[list[str]], int], str, str, tuple[str, ...]]] = {
    "classify": (classify.main, "digits", "digits", ()),
    "lane": (lane.main, "lane_model", "road", ()),
    "pointpillars": (pointpillars.main, "pillars_model", "world", ()),
    "yolo": (yolo.main, "tiny_model", "tiny_data", ("imgsz=64",)),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.usefixtures("runtime")
def test_every_task(
    task: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main, model, data, words = TASKS[task]
    if task == "yolo":
        pytest.importorskip("ultralytics", reason="needs the yolo extra")
    checkpoint = request.getfixturevalue(model)
    given = "digits" if data == "digits" else request.getfixturevalue(data)
    monkeypatch.chdir(tmp_path)
    line = ["bench", f"model={checkpoint}", f"data={given}", *words]
    capsys.readouterr()
    options = ["--engines", "torch,onnxruntime,slr_det", "--rounds", "2", "--no-memory", "--choose", "sparse"]
    assert main([*line, *options, "-o", "out", "--json"]) == 0
    captured = capsys.readouterr()
    found: dict[str, Any] = json.loads(captured.out)
    assert [result["name"] for result in found["results"]] == ["torch", "onnxruntime", "slr_det"]
    for result in found["results"]:
        assert result["problem"] == "" and result["milliseconds"] > 0
        assert result["difference"] <= 1e-4, result["name"]
    assert found["reason"] == "" and found["layers"]
    assert 0.2 < found["zeros"] < 0.6 or task == "yolo"
    assert {path.name for path in Path("out").iterdir()} == {"bench.json", "bench.md", "bench.png"}


def test_a_checkpoint_alone_is_enough(
    digits: Path,  # noqa: F811
    runtime: object,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--engines", "torch", "--rounds", "1", "--no-memory"]
    assert classify.main(["bench", f"weights={digits}", *words]) == 0
    assert "PyTorch, dense" in capsys.readouterr().out
    assert (tmp_path / "bench" / "bench.md").is_file()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["weights=no.pt"], "no.pt"),
        (["model=m.pt"], "m.pt"),
        (["model=m.pt", "--engines", "tensorrt"], "no engine is called 'tensorrt'"),
        (["model=m.pt", "--rounds", "0"], "--rounds 0: expected at least 1"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "m.pt").write_bytes(b"no checkpoint")
    monkeypatch.chdir(tmp_path)
    assert classify.main(["bench", *words]) == 2
    captured = capsys.readouterr()
    said = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert "Traceback" not in captured.err and len(said) == 1 and expected in said[0]
    assert not (tmp_path / "bench").exists()

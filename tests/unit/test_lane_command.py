"""The command line of lane detection where nothing is trained: analyze, score, help texts, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from slr_det.adapter import load_adapter
from slr_det.config.schema import PASSED_THROUGH, known_keys
from slr_det.lane import EPILOG, VERBS, main
from slr_det.presets import LANE_SETTINGS
from slr_det_adapters.lane import LaneAdapter

ADAPTER = LaneAdapter()


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line.startswith("error:")]


def test_analyze_shows_what_each_choice_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["analyze", "model=parsingnet_small", "--compression", "12x"]
    assert main(words) == 0
    everything, backbone = capsys.readouterr().out.split("\n\nprune.scope=backbone: ")
    assert everything.startswith(
        "prune.scope=everything: cls and pool are pruned too, and a rate counts the whole"
    )
    assert "solved for 12x over the whole model" in everything and "compression 12.000x" in everything
    assert "lane head" not in everything and "first layer" in everything
    assert "solved for 12x over the groups" in backbone and backbone.count("lane head") == 3
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert list(rows) == ["everything", "backbone"]
    dense = {name: [row["name"] for row in rows[name] if row["keep"] is None] for name in rows}
    assert dense == {
        "everything": ["model.conv1.weight"],
        "backbone": ["model.conv1.weight", "pool.weight", "cls.0.weight", "cls.2.weight"],
    }
    assert not any(row["name"].startswith("aux_") for row in rows["everything"])
    assert list(tmp_path.iterdir()) == []


def test_analyze_shows_the_choice_that_was_made(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyze", "model=parsingnet_small", "--compression", "5x"]
    assert main([*words, "prune.scope=backbone"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("allocation: ") and "compression 5.000x" in out and "lane head" in out
    assert main([*words, "prune.scope=backbone", "prune.compression_over=model"]) == 2
    (said,) = errors(capsys)
    assert "the highest rate is" in said and "cls.2.weight" in said and "prune the lane head" in said
    assert main([*words, "prune.scope=backbon"]) == 2
    assert "prune.scope is 'backbon', expected everything or backbone (did you mean" in errors(capsys)[0]


@pytest.mark.samples
def test_score_prints_the_golden_numbers(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = samples / "tusimple" / "golden"
    for name in ("label_data.json", "pred.json"):
        first = (golden / name).read_text().split("\n", 1)[0]
        (tmp_path / name).write_text(first)
    words = ["--labels", str(tmp_path / "label_data.json"), "--predictions", str(tmp_path / "pred.json")]
    assert main(["score", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["accuracy"], found["fp"], found["fn"]) == pytest.approx((0.932291667, 0.25, 0.25), abs=1e-9)
    assert main(["score", *words]) == 0
    assert re.search(r"accuracy +0\.932292  \(an empty prediction has 0\.\d+\)", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "pred.json:1: not valid JSON"),
        ('{"lanes": []}', "pred.json:1: no 'raw_file'"),
        ('{"raw_file": "a", "lanes": [[1, 2], [1]]}', "pred.json:1: lane 2 has 1 points, lane 1 has 2"),
        ('{"raw_file": "b", "lanes": []}', "b is not in the labels"),
    ],
    ids=["JSON", "raw_file", "lengths", "clip"],
)
def test_score_names_the_line_that_is_wrong(
    line: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "label.json").write_text('{"raw_file": "a", "lanes": [[1, 2]], "h_samples": [10, 20]}')
    (tmp_path / "pred.json").write_text(line)
    words = ["--labels", str(tmp_path / "label.json"), "--predictions", str(tmp_path / "pred.json")]
    assert main(["score", *words]) == 2
    said = errors(capsys)
    assert len(said) == 1 and expected in said[0]


def test_a_backend_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "model=parsingnet_small", "backend=ulfd", "prune.keep=0.5"]) == 2
    said = errors(capsys)
    assert len(said) == 1 and "did you mean 'ufld'?" in said[0]


def test_what_the_trainer_cannot_do_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compress", "model=parsingnet_small", "data=road", "dense_epochs=1", "prune.keep=0.5"]
    assert main([*words, "distill=0.5"]) == 2
    said = errors(capsys)
    assert len(said) == 1 and "no distillation" in said[0]


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out) > 200


def test_every_key_in_the_help_texts_exists() -> None:
    own = ADAPTER.trainer_keys()
    both = own | load_adapter("ufld").trainer_keys()
    known = set(known_keys())
    for text, trainer in ((EPILOG, both), (LANE_SETTINGS, own)):
        # `key=value` is said of settings, and `--min accuracy=0.9` is a metric.
        words = [
            word
            for word in re.findall(r"([a-z][\w.]*)=", text, re.IGNORECASE)
            if word not in ("key", "accuracy")
        ]
        assert len(words) > 10
        for word in words:
            section, dot, key = word.partition(".")
            # prune.include=, exclude= share a line and a section.
            shared = {f"prune.{word}", f"slr.{word}"} & known
            free = bool(dot) and ((section in PASSED_THROUGH and key in own) or section == "min")
            assert word in known or word in trainer or shared or free, word
    listed = re.search(r"goes to the trainer \(([\w, ]+)\.\.\.\)", " ".join(EPILOG.split()))
    assert listed is not None
    assert {word.strip() for word in listed[1].split(",") if word.strip()} <= own

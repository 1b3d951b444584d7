"""The command line of PointPillars where nothing is trained: analyze, score, help texts, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from slr_det.adapter import load_adapter
from slr_det.config.schema import PASSED_THROUGH, known_keys
from slr_det.data.kitti_world import world_dataset
from slr_det.metrics.kitti import MEASURES
from slr_det.pointpillars import EPILOG, VERBS, main
from slr_det.presets import POINTPILLARS_SETTINGS
from slr_det_adapters.pointpillars import PointPillarsAdapter

ADAPTER = PointPillarsAdapter()
LEVELS = ("easy", "moderate", "hard")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training frames and one to evaluate on, of the generated world."""
    return world_dataset(tmp_path_factory.mktemp("cache"), frames=(2, 1), progress=False)


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line.startswith("error:")]


def test_analyze_prints_what_is_kept_of_openpcdets_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["analyze", "model=pointpillars", "--compression", "9.449x"]) == 0
    out = capsys.readouterr().out
    for text in ("compression 9.449x", "4,834,888 weights", "detection head", "first layer"):
        assert text in out
    assert main(["analyze", "model=pointpillars", "--compression", "9.449x", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    dense = {name: row["reason"] for name, row in rows.items() if row["keep"] is None}
    heads = dict.fromkeys(
        (f"dense_head.conv_{part}.weight" for part in ("cls", "box", "dir_cls")), "detection head"
    )
    assert dense == {"vfe.pfn_layers.0.linear.weight": "first layer", **heads}
    total = 4_834_888
    kept = total - sum(row["weights"] - row["kept"] for row in rows.values())
    assert total / kept == pytest.approx(9.449, rel=1e-3)
    assert list(tmp_path.iterdir()) == []


def test_analyze_of_some_classes_has_smaller_outputs(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.yaml").write_text(f"path: {world}\nclasses: [Car]\n")
    words = [
        "analyze",
        "model=pointpillars_small",
        f"data={tmp_path / 'data.yaml'}",
        "prune.keep=0.5",
        "--json",
    ]
    assert main(words) == 0
    shapes = {row["name"]: row["shape"] for row in json.loads(capsys.readouterr().out)}
    assert shapes["dense_head.conv_box.weight"][0] == 2 * 7


@pytest.mark.samples
@pytest.mark.parametrize(("overlap", "index"), [("standard", 0), ("loose", 1), ("0.5", 2)])
def test_score_prints_the_golden_numbers(
    overlap: str, index: int, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = samples / "kitti" / "golden"
    words = ["--labels", str(golden / "label_2"), "--predictions", str(golden / "pred"), "--overlap", overlap]
    assert main(["score", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = json.loads((golden / "expected.json").read_text())
    assert found.keys() == set(MEASURES) < expected.keys()
    for measure in MEASURES:
        for name, levels in expected[measure].items():
            wanted = [levels[d][index] for d in range(3)]
            assert [found[measure][name][level] for level in LEVELS] == pytest.approx(wanted, abs=1e-2)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Car -1 -1 0 10 10 60 60 1.5 1.6 4 1 1.6 20 0 nan", "000000.txt:1"),
        ("Car -1 -1 0 10 10 60 60 1.5 1.6 4 1 nan 20 0 0.5", "000000.txt:1"),
        ("Car -1 -1 0 10 10 60 60 1.5 1.6 4 1 1.6 20 0", "000000.txt:1"),
    ],
    ids=["score", "place", "none"],
)
def test_score_names_the_line_that_is_wrong(
    line: str, expected: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "000000.txt").write_text(f"{line}\n")
    labels = world / "training" / "label_2"
    assert main(["score", "--labels", str(labels), "--predictions", str(tmp_path)]) == 2
    said = errors(capsys)
    assert len(said) == 1 and expected in said[0]


def test_a_backend_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["analyze", "model=pointpillars", "--backend", "openpcdt", "prune.keep=0.5"])
    assert stop.value.code == 2 and "embedded" in capsys.readouterr().err
    assert main(["analyze", "model=pointpillars", "backend=openpcdt", "prune.keep=0.5"]) == 2
    said = errors(capsys)
    assert len(said) == 1 and "did you mean 'openpcdet'?" in said[0]


def test_what_the_trainer_cannot_do_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compress", "model=pointpillars", "data=world", "dense_epochs=1", "prune.keep=0.5"]
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
    both = own | load_adapter("openpcdet").trainer_keys()
    known = set(known_keys())
    for text, trainer in ((EPILOG, both), (POINTPILLARS_SETTINGS, own)):
        # `key=value` is said of settings, `--min moderate=0.6` is a metric, capitals are the environment's.
        words = [
            word for word in re.findall(r"(?<![\w.])([a-z][\w.]*)=", text) if word not in ("key", "moderate")
        ]
        assert len(words) > 5
        for word in words:
            section, dot, key = word.partition(".")
            # prune.include=, exclude= share a line and a section.
            shared = {f"prune.{word}", f"slr.{word}"} & known
            free = bool(dot) and ((section in PASSED_THROUGH and key in own) or section == "min")
            assert word in known or word in trainer or shared or free, word
    listed = re.search(r"goes to the trainer \(([\w, ]+)\.\.\.\)", " ".join(EPILOG.split()))
    assert listed is not None
    assert {word.strip() for word in listed[1].split(",") if word.strip()} <= own

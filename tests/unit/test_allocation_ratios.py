from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slr_det.allocation import Ratios, parse_rate, read_ratios
from slr_det.allocation.ratios import match_globs, match_ratios, to_number
from slr_det.errors import ConfigError

NAMES = ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight", "model.0.conv.weight", "fc.weight"]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_prune_ratios_of_admm_repositories_are_sparsities(tmp_path: Path) -> None:
    # The layout of such files: values on their own lines, layers commented out, other settings around them.
    path = write(
        tmp_path / "config.yaml",
        """
prune_ratios:
#  module_list.0.Conv2d.weight:
#    0.0
   conv1.weight:
     0.9
   module.layer1.0.conv1.weight:
     0.92
   model.0.conv: 75e-2
   fc.weight: 0.0
rhos:
   conv1.weight: 1e-3
masked_layers: []
""",
    )
    ratios = read_ratios(path)
    assert ratios.keep == {
        "conv1.weight": 0.1,
        "module.layer1.0.conv1.weight": 0.08,
        "model.0.conv": 0.25,
        "fc.weight": 1.0,
    }
    assert ratios.notes == (f"{path}: rhos, masked_layers not used (only prune_ratios is)",)
    found, in_full, problems = match_ratios(ratios, NAMES)
    assert found == {
        "conv1.weight": 0.1,
        "layer1.0.conv1.weight": 0.08,
        "model.0.conv.weight": 0.25,
        "fc.weight": 1.0,
    }
    assert in_full == set(found) and problems == []


@pytest.mark.parametrize(
    "section",
    [
        {"conv1.weight": 0.9, "fc": 0.5},
        [{"conv1.weight": 0.9}, {"fc": 0.5}],
        [["conv1.weight", 0.9], ["fc", 0.5]],
        [{"conv1.weight": "0.9", "fc": "5e-1"}],
    ],
)
def test_mappings_and_lists_of_pairs_are_the_same(section: Any) -> None:
    assert read_ratios({"prune_ratios": section}).keep == {"conv1.weight": 0.1, "fc": 0.5}


def test_our_own_files_hold_keep_ratios_and_come_back(tmp_path: Path) -> None:
    ratios = read_ratios(write(tmp_path / "own.yaml", "keep:\n  '*.conv?.weight': 0.3\n  fc.weight: 1\n"))
    assert ratios.keep == {"*.conv?.weight": 0.3, "fc.weight": 1.0}
    assert read_ratios(ratios.to_dict()).keep == ratios.keep


def test_a_name_beats_globs_and_the_last_glob_wins() -> None:
    ratios = Ratios({"conv1": 0.9, "*": 0.5, "layer1*": 0.2, "layer1.0.conv2": 0.4})
    found, in_full, problems = match_ratios(ratios, NAMES)
    assert list(found.values()) == [0.9, 0.2, 0.4, 0.5, 0.5]
    assert in_full == {"conv1.weight", "layer1.0.conv2.weight"} and problems == []


def test_names_match_with_and_without_the_parallel_prefix() -> None:
    found, _, _ = match_ratios(
        Ratios({"conv1": 0.5, "module.fc.*": 0.2}), ["module.conv1.weight", "fc.weight"]
    )
    assert found == {"module.conv1.weight": 0.5, "fc.weight": 0.2}


def test_names_of_no_layer_and_names_written_twice() -> None:
    ratios = Ratios({"layer1.0.cnv2.weight": 0.5, "conv1": 0.1, "module.conv1.weight": 0.2}, "r.yaml")
    _, _, problems = match_ratios(ratios, NAMES)
    assert problems == [
        "r.yaml: 'layer1.0.cnv2.weight' matches no layer (did you mean 'layer1.0.conv2.weight'?)",
        "r.yaml: 'module.conv1.weight' and 'conv1' name the same layer 'conv1.weight'",
    ]


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        ({"conv1": 0.5}, ["'conv1'"]),
        ({"keep": {"a": 0.5}, "prune_ratios": {"a": 0.5}}, ["both 'keep' and 'prune_ratios'"]),
        ({"keep": {"a": 0.5}, "rhos": {"a": 0.1}}, ["unknown key 'rhos'"]),
        (
            {"keep": {"a": 0.0, "b": 1.1, "c": "x", "d": True}},
            ["'a' is 0", "'b' is 1.1", "'c' is 'x'", "'d' is True"],
        ),
        ({"prune_ratios": {"a": 1.0, "b": -0.1, "c": 0.0}}, ["'a' is 1.0", "'b' is -0.1"]),
        ({"prune_ratios": [["a", 0.5, 1], ["a", 0.5], {"a": 0.2}]}, ["entry 1", "'a' is written twice"]),
        ({"prune_ratios": None}, ["is nothing"]),
        ({"keep": {}}, ["is empty"]),
    ],
)
def test_files_that_cannot_be_meant_are_refused_with_every_problem(content: Any, problems: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_ratios(content, origin="r.yaml")
    assert len(caught.value.problems) == len(problems)
    for found, expected in zip(caught.value.problems, problems, strict=True):
        assert found.startswith("r.yaml") and expected in found


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_ratios(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"line \d is not YAML"):
        read_ratios(write(tmp_path / "bad.yaml", "keep:\n  a: [0.5\n"))
    with pytest.raises(ConfigError, match="line 3: the key 'a' is written twice"):
        read_ratios(write(tmp_path / "twice.yaml", "keep:\n  a: 0.5\n  a: 0.6\n"))
    with pytest.raises(ConfigError, match="expected a mapping"):
        read_ratios(write(tmp_path / "list.yaml", "- a\n"))


def test_globs_say_which_of_them_matched() -> None:
    first, in_full, problems = match_globs(["layer1*", "*", "fc"], NAMES, "exclude")
    assert first["layer1.0.conv1.weight"] == "layer1*" and first["fc.weight"] == "*"
    assert in_full == {"fc.weight"} and problems == []


@pytest.mark.parametrize(
    ("text", "rate"), [("3.33x", 3.33), (" 2X ", 2.0), (10, 10.0), ("1", 1.0), ("1e1x", 10.0)]
)
def test_rates(text: object, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["x", "0.9x", "nan", "inf", None, True, [2], "3.33xx", "-2"])
def test_what_is_no_rate(text: object) -> None:
    with pytest.raises(ConfigError, match="expected a rate of at least 1"):
        parse_rate(text)


def test_numbers_in_any_notation() -> None:
    assert [to_number(value) for value in ("1e-3", 2, ".5", "x", True, None)] == [
        0.001,
        2.0,
        0.5,
        None,
        None,
        None,
    ]

"""The code in docs/engine.md runs, and does what the page says."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from slr_det import methods
from slr_det.methods import protocol

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "engine.md").read_text(encoding="utf-8")
BLOCKS = [
    textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n|^\n(?=\n?    ))+", PAGE, flags=re.MULTILINE)
]
LOOP, RETRAINING, METHOD = (block for block in BLOCKS if "import" in block)


def run(code: str) -> dict[str, Any]:
    torch.manual_seed(0)
    scope: dict[str, Any] = {"__name__": __name__}  # dataclasses look their module up
    exec(compile(code, "docs/engine.md", "exec"), scope)
    return scope


def test_the_loop_prunes_to_a_quarter(capsys: pytest.CaptureFixture[str]) -> None:
    scope = run(LOOP)
    counts = {n: int(p.count_nonzero()) for n, p in scope["model"].named_parameters()}
    assert counts["0.weight"] == 256 and counts["2.weight"] == 64
    assert len(scope["engine"].history) == 15
    assert capsys.readouterr().out == "long enough\n"
    first, last = (scope["engine"].history[i]["distance"] for i in (0, -1))
    assert last < 0.5 * first
    assert len([line for line in LOOP.splitlines() if "engine" in line]) <= 20


@pytest.mark.parametrize("method", methods.names())
def test_any_method_runs_in_the_loop(method: str) -> None:
    scope = run(LOOP.replace('"slr"', f'"{method}"').replace("15", "2"))
    assert scope["engine"].method == method


def test_the_keeper_keeps_zeros() -> None:
    scope = run(RETRAINING)
    assert 0 < int(scope["layer"].weight.count_nonzero()) < 16


def test_the_method_of_the_page_is_all_it_takes() -> None:
    run(METHOD)
    try:
        scope = run(LOOP.replace('"slr"', '"anchor"'))
        assert scope["engine"].history[-1]["method"] == "anchor"
        assert scope["engine"].history[-1]["distance"] < scope["engine"].history[0]["distance"]
    finally:
        del protocol._REGISTRY["anchor"]


def test_the_page_explains_every_key_of_a_record() -> None:
    keys = {*methods.record("x", 1, distance=0.0, distance_before=0.0, keep=1.0, objective=None), "seconds"}
    table = PAGE.split("## The history", 1)[1].split("\n## ", 1)[0]
    listed = [
        name
        for row in re.findall(r"^\| (`.*?) \|", table, flags=re.M)
        for name in re.findall(r"`(\w+)`", row)
    ]
    assert sorted(listed) == sorted(keys)

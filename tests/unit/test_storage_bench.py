"""The bench of packed files measures what the targets are about, and runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from slr_det.bench import __main__ as command
from slr_det.bench import storage
from slr_det.bench.rows import Settings

QUICK = Settings(threads=1, quick=True)
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "storage.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("how", ["by magnitude", "at random"])
def test_exactly_the_share_that_is_named_is_pruned(how: str) -> None:
    weights = storage.pruned(1000, 0.9, how)
    assert int(torch.count_nonzero(weights)) == 100
    smallest = weights[weights != 0].abs().min()
    assert bool(smallest > 1.5) == (how == "by magnitude")


def test_the_entropy_is_that_of_normal_numbers_and_their_places() -> None:
    numbers = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # h(x) = log2(2 pi e) / 2; a float32 near x is one of 2^23 in its octave
    bits = 2.047096 - float(torch.floor(numbers.abs().log2()).mean()) + 23
    assert bits == pytest.approx(storage._NORMAL_BITS, abs=0.01)
    assert storage.entropy(8, 0.5) == pytest.approx(0.5 * storage._NORMAL_BITS + 1)


def test_sizes_pruned_by_magnitude_have_the_promised_targets() -> None:
    rows = storage.sizes(QUICK)
    assert [row.target for row in rows] == [18.0, 7.5, 3.75, 1.3, 0.55] + 5 * [None]
    assert all(row.details["ratio"] > 2 for row in rows)
    assert re.search(r"entropy 0\.\d+ MB, \d+\.\d% above it", rows[-1].note)


def test_the_command_writes_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "bench.json"
    assert command.main(["storage", "--only", "times", "--quick", "--json", str(target)]) == 0
    assert [row["name"] for row in json.loads(target.read_text())["rows"]] == ["save", "load"]
    assert "not judged" in capsys.readouterr().out


def test_the_page_states_the_targets_and_the_floors() -> None:
    rows = re.findall(
        r"^\| ([\d.]+) % \| ([\d.]+) MB \| ([\d.]+) MB \| [\d.]+x \| [\d.]+ MB \| ([\d.]+) MB \|", PAGE, re.M
    )
    assert {float(zeros) / 100: float(target) for zeros, target, _, _ in rows} == storage.SIZES
    for zeros, target, measured, floor in rows:
        assert float(measured) <= float(target)
        assert float(floor) == pytest.approx(
            storage.entropy(storage.SIZE, float(zeros) / 100) / 1e6, abs=0.006
        )

"""Sparse or dense: the faster one is chosen, times are remembered, and a damaged memory costs a measurement only."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import NoReturn

import pytest

from slr_det.runtime.library import ISA_VARIABLE, Isa, Library
from slr_det.runtime.tuning import MARGIN, Cache, Signature, choose, machine_key, race

LAYER = Signature("conv 64x32x3x3 on 1x32x52x52", 0.1, 1)


class Layer:
    """Something that takes a known time, and counts its runs."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.runs = 0

    def __call__(self) -> None:
        self.runs += 1
        time.sleep(self.seconds)


def never() -> NoReturn:
    raise AssertionError("measured again")


@pytest.mark.parametrize(("sparse", "dense"), [(0.001, 0.02), (0.02, 0.001)])
def test_the_faster_way_is_chosen(sparse: float, dense: float, tmp_path: Path) -> None:
    choice = choose(LAYER, Layer(sparse), Layer(dense), Cache("here", tmp_path / "times.json"))
    assert choice.sparse == (sparse < dense) and not choice.remembered
    assert choice.sparse_seconds >= sparse and choice.dense_seconds >= dense


@pytest.mark.parametrize(("sparse", "expected"), [(0.9, True), (MARGIN, False), (1.0, False)])
def test_what_is_hardly_faster_stays_dense(sparse: float, expected: bool, tmp_path: Path) -> None:
    cache = Cache("here", tmp_path / "times.json")
    cache.put(LAYER.key, sparse, 1.0)
    assert choose(LAYER, never, never, cache).sparse is expected


def test_times_are_remembered_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "times.json"
    cache = Cache("here", path)
    first = choose(LAYER, Layer(0.001), Layer(0.02), cache)
    cache.save()
    again = choose(LAYER, never, never, Cache("here", path))
    assert again.remembered
    assert (again.sparse_seconds, again.dense_seconds) == (first.sparse_seconds, first.dense_seconds)
    assert Cache("elsewhere", path).get(LAYER.key) is None


def test_what_a_time_depends_on_tells_layers_apart() -> None:
    keys = {
        Signature("a", 0.1, 1).key,
        Signature("b", 0.1, 1).key,
        Signature("a", 0.1, 2).key,
        Signature("a", 0.013, 1).key,
    }
    assert len(keys) == 4
    assert Signature("a", 0.1004, 1).key == Signature("a", 0.0996, 1).key


def test_the_machine_is_told_by_processor_instructions_library_and_torch(
    runtime: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ISA_VARIABLE, raising=False)
    best = runtime.isa
    key = machine_key(runtime)
    assert runtime.sha256[:16] in key and "torch" in key
    runtime.use_isa(Isa.PORTABLE)
    try:
        assert machine_key(runtime) == key.replace(f", {best.name.lower()},", ", portable,")
    finally:
        runtime.use_isa(best)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"",
        b"\xff\xfe\x00",
        b"[]",
        b"7",
        b'{"schema": "slr_det.runtime.choices/1"}',
        b'{"schema": "slr_det.runtime.choices/1", "machines": []}',
        b'{"schema": "slr_det.runtime.choices/1", "machines": {"here": {"x": [1]}}}',
        b'{"schema": "slr_det.runtime.choices/1", "machines": {"here": {"x": [1, -1]}}}',
        b'{"schema": "slr_det.runtime.choices/1", "machines": {"here": {"x": [NaN, 1]}}}',
        b'{"schema": "slr_det.runtime.choices/1", "machines": {"here": {"x": [null, 1]}}}',
        b"[" * 100_000,
    ],
    ids=range(12),
)
def test_a_damaged_file_is_one_warning_and_a_new_measurement(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is ignored, and layers are measured again") as said:
        cache = Cache("here", path)
        choice = choose(LAYER, Layer(0.0), Layer(0.002), cache)
        cache.save()
    assert len(said) == 1 and "\n" not in str(said[0].message)
    assert not choice.remembered
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Cache("here", path).get(LAYER.key) == (choice.sparse_seconds, choice.dense_seconds)


def test_another_versions_file_is_replaced_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    path.write_text('{"schema": "slr_det.runtime.choices/99", "other": 1}')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = Cache("here", path)
        cache.put("x", 1.0, 2.0)
        cache.save()
    assert json.loads(path.read_text())["machines"] == {"here": {"x": [1.0, 2.0]}}


def test_what_others_wrote_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    mine, same, other = Cache("here", path), Cache("here", path), Cache("elsewhere", path)
    mine.put("a", 1.0, 2.0)
    same.put("b", 3.0, 4.0)
    other.put("c", 5.0, 6.0)
    for cache in (mine, same, other):
        cache.save()
    fresh = Cache("here", path)
    assert (fresh.get("a"), fresh.get("b"), fresh.get("c")) == ((1.0, 2.0), (3.0, 4.0), None)
    assert Cache("elsewhere", path).get("c") == (5.0, 6.0)


def test_the_file_forgets_libraries_of_long_ago(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    for number in range(11):
        cache = Cache(f"library {number}", path)
        cache.put("a", 1.0, 2.0)
        cache.save()
    assert list(json.loads(path.read_text())["machines"]) == [f"library {number}" for number in range(3, 11)]


def test_nothing_new_is_not_written(tmp_path: Path) -> None:
    Cache("here", tmp_path / "times.json").save()
    assert not (tmp_path / "times.json").exists()


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache("here", tmp_path / "file" / "times.json")
    assert choose(LAYER, Layer(0.0), Layer(0.002), cache).sparse
    with pytest.warns(UserWarning, match="layer times are measured again next time") as said:
        cache.save()
    assert len(said) == 1


def test_the_budget_ends_a_measurement_after_three_rounds() -> None:
    one, other = Layer(0.010), Layer(0.012)
    race(one, other, budget=0.01)
    assert (one.runs, other.runs) == (4, 4)  # one of them to warm up


def test_a_clear_outcome_ends_a_measurement() -> None:
    one, other = Layer(0.0), Layer(0.02)
    race(one, other, budget=60)
    assert (one.runs, other.runs) == (4, 4)


def test_a_close_race_takes_its_rounds_and_no_more() -> None:
    one, other = Layer(0.002), Layer(0.002)
    race(one, other, budget=60)
    assert 4 <= one.runs == other.runs <= 26

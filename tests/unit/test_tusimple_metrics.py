"""TuSimple's scores against the benchmark's golden files, a naive scorer and closed forms; what is refused."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from tusimple_reference import clip_scores, clips

from slr_det.data.tusimple.labels import LaneRow, read_rows, write_rows
from slr_det.errors import DataError
from slr_det.metrics.tusimple import evaluate, score

HEIGHTS = np.arange(160, 720, 10)


def row(*lanes: object, name: str = "clips/a/20.jpg", run_time: float | None = None) -> LaneRow:
    """A clip whose lanes are given as one x each, or as x at all heights."""
    full = [np.broadcast_to(np.asarray(lane), HEIGHTS.shape) for lane in lanes]
    return LaneRow(name, np.array(full, np.int64).reshape(len(full), len(HEIGHTS)), HEIGHTS, run_time)


@pytest.mark.samples
def test_the_golden_numbers(samples: Path) -> None:
    folder = samples / "tusimple" / "golden"
    truths = read_rows(folder / "label_data.json")
    predictions = read_rows(folder / "pred.json", predictions=True)
    first = evaluate(predictions[:1], truths[:1])
    assert (first.accuracy, first.fp, first.fn) == pytest.approx((0.932291667, 0.25, 0.25), abs=5e-10)
    whole = evaluate(predictions, truths)
    assert whole.clips == 2858
    assert whole.accuracy == pytest.approx(0.999976, abs=5e-7)
    assert (whole.fp, whole.fn) == pytest.approx((8.75e-5, 8.75e-5), abs=5e-8)
    assert asdict(evaluate(predictions[::-1], truths)) == pytest.approx(asdict(whole), abs=1e-12)


@pytest.mark.samples
def test_the_test_set_is_scored_in_less_than_ten_seconds(samples: Path) -> None:
    folder = samples / "tusimple" / "golden"
    start = time.perf_counter()
    score(folder / "label_data.json", folder / "pred.json", out=lambda line: None)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("seed", range(20))
def test_a_naive_scorer_agrees(seed: int) -> None:
    predictions, truths = clips(seed)
    by_name = {prediction.raw_file: prediction for prediction in predictions}
    each = [clip_scores(by_name[truth.raw_file], truth) for truth in truths]
    empty = [clip_scores(replace(t, lanes=np.full((1, len(t.h_samples)), -2)), t) for t in truths]
    accuracy, fp, fn = np.mean(each, axis=0)[:3]
    correct, points = np.sum(each, axis=0)[3:].astype(int)
    result = evaluate(predictions, truths)
    assert (result.accuracy, result.fp, result.fn) == pytest.approx((accuracy, fp, fn), abs=1e-12)
    assert (result.correct_points, result.true_points) == (correct, points)
    assert result.point_accuracy == pytest.approx(correct / points)
    assert result.empty_accuracy == pytest.approx(np.mean(empty, axis=0)[0], abs=1e-12)
    assert result.empty_point_accuracy == 0


def test_a_point_counts_within_twenty_pixels_square_to_the_lane() -> None:
    upright = row(600)
    assert evaluate([row(619)], [upright]).accuracy == 1
    assert evaluate([row(620)], [upright]).accuracy == 0
    # Three across and four down, so that the threshold is 20 / cos = 25 pixels.
    exact = LaneRow(upright.raw_file, np.array([[100, 130, 160]]), np.array([160, 200, 240]))
    for shift, expected in ((24, 1), (26, 0)):
        moved = replace(exact, lanes=exact.lanes + shift)
        assert evaluate([moved], [exact]).accuracy == expected


def test_the_parts_of_a_score_in_a_case_counted_by_hand() -> None:
    half = np.where(HEIGHTS < 440, -2, 900)
    truth = row(300, 600, half)
    # The second lane is right at 42 of 56 heights, 0.75, below the 0.85 of a match; the third one is not predicted, but
    # the fourth prediction has no point at any height, as the third lane has in half of them.
    wrong = np.where(HEIGHTS < 300, 800, 605)
    result = evaluate([row(310, wrong, 1100, -2)], [truth])
    assert result.accuracy == pytest.approx((1 + 0.75 + 0.5) / 3)
    assert (result.fp, result.fn) == pytest.approx((3 / 4, 2 / 3))
    assert (result.correct_points, result.true_points) == (56 + 42, 56 + 56 + 28)
    assert result.empty_accuracy == pytest.approx(0.5 / 3)


def test_a_slow_clip_and_a_clip_with_too_many_lanes_score_nothing() -> None:
    truth = row(300, 600)
    for prediction, slow, crowded in (
        (row(300, 600, run_time=200.1), 1, 0),
        (row(300, 600, 10, 20, 30), 0, 1),
    ):
        result = evaluate([prediction], [truth])
        assert (result.accuracy, result.fp, result.fn, result.point_accuracy) == (0, 0, 1, 0)
        assert (result.slow_clips, result.crowded_clips) == (slow, crowded)
    assert evaluate([row(300, 600, run_time=200)], [truth]).accuracy == 1
    kept = evaluate([row(300, 600, 10, 20)], [truth])
    assert (kept.accuracy, kept.fp, kept.fn) == (1, 0.5, 0)


def test_of_five_lanes_the_worst_is_dropped_and_one_miss_forgiven() -> None:
    truth = row(100, 300, 500, 700, 900)
    one = evaluate([row(100, 300, 500, 700)], [truth])
    assert (one.accuracy, one.fp, one.fn) == (1, 0, 0)
    two = evaluate([row(100, 300, 500)], [truth])
    assert (two.accuracy, two.fp, two.fn) == (0.75, 0, 0.25)
    assert two.point_accuracy == pytest.approx(3 / 5)


def test_neither_the_order_of_lanes_nor_of_rows_matters() -> None:
    truths = [row(300, 600, 900), row(200, 500, name="clips/b/20.jpg")]
    found = [row(305, 640, 900), row(200, 700, name="clips/b/20.jpg")]
    other = [replace(r, lanes=r.lanes[::-1]) for r in found[::-1]]
    assert evaluate(found, truths) == evaluate(other, truths)


def test_no_lanes_predicted_and_no_lanes_true() -> None:
    none = evaluate([row()], [row(300)])
    assert (none.accuracy, none.fp, none.fn) == (0, 0, 1)
    # As the benchmark has it: nothing can be won where there are no lanes.
    assert evaluate([row()], [row()]).accuracy == 0
    assert evaluate([row(300)], [row()]).fp == 1


def test_predictions_need_no_heights_and_no_run_time(tmp_path: Path) -> None:
    labels, found = tmp_path / "labels.json", tmp_path / "found.json"
    write_rows(labels, [row(300, 600), row(200, name="clips/b/20.jpg")])
    lines = [
        {"raw_file": "clips/a/20.jpg", "lanes": row(300, 600).lanes.tolist()},
        {"raw_file": "clips/b/20.jpg", "lanes": []},
    ]
    found.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    printed: list[str] = []
    result = score(labels, found, as_json=True, out=printed.append)
    assert result.accuracy == 0.5 and json.loads("\n".join(printed)) == asdict(result)
    printed.clear()
    score(labels, found, out=printed.append)
    text = "\n".join(printed)
    assert "2 clips" in text and "0.500000  (an empty prediction has 0.000000)" in text
    assert "112 of 168 points" in text


def test_other_heights_are_scored_as_the_benchmark_does_and_told(caplog: pytest.LogCaptureFixture) -> None:
    prediction = replace(row(300), h_samples=HEIGHTS + 5)
    with caplog.at_level(logging.WARNING):
        assert evaluate([prediction], [row(300)]).accuracy == 1
    assert "h_samples are not those of the label" in caplog.text


def test_what_the_benchmark_refuses_is_one_line_with_file_and_line(tmp_path: Path) -> None:
    a, b = row(300), row(300, name="clips/b/20.jpg")
    short = replace(b, lanes=b.lanes[:, :-1], h_samples=b.h_samples[:-1])
    for name, found, expected in (
        (
            "foreign",
            [a, b, replace(a, raw_file="clips/c/20.jpg")],
            r"foreign.json:3: clips/c/20.jpg is not in",
        ),
        ("missing", [a], r"labels.json:2: no prediction for clips/b/20.jpg"),
        ("twice", [a, a, b], r"twice.json:2: clips/a/20.jpg again, already in .*twice.json:1"),
        ("short", [a, short], r"short.json:2: clips/b/20.jpg: lanes of shape \(1, 55\), expected 56"),
    ):
        labels = write_rows(tmp_path / "labels.json", [a, b])
        file = write_rows(tmp_path / f"{name}.json", found)
        with pytest.raises(DataError, match=expected) as error:
            score(labels, file)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="labels: clips/a/20.jpg again"):
        evaluate([a], [a, a])
    with pytest.raises(DataError, match="no labels"):
        evaluate([], [])

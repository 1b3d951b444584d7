"""How good are these lanes by TuSimple's measure? Accuracy, FP and FN as its scorer counts, and the paper's accuracy.

The rules are those of the benchmark's scorer (``evaluate/lane.py`` in TuSimple/tusimple-benchmark); a clip without true
lanes has the accuracy 0 by them, whatever is predicted. For every true lane
and every predicted one the *line accuracy* is the part of the heights at which both are within a threshold of each
other; heights at which neither has a point agree. A true lane takes the best line accuracy that any prediction has.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slr_det.data.tusimple.labels import NO_POINT, LaneRow, Numbers, read_rows
from slr_det.errors import DataError

Floats = NDArray[np.float64]

#: Half the width in pixels, square to the lane, in which a point is right.
PIXELS = 20.0
#: Least line accuracy of a lane that counts as found.
MATCH = 0.85
#: Milliseconds above which a prediction scores nothing, and those that a row without a run_time is taken to have had.
SLOWEST, USUAL = 200.0, 10.0
#: This many lanes more than are true may be predicted; with more, the clip scores nothing.
SPARE_LANES = 2
#: With more true lanes than this, the worst one's accuracy is dropped and one missed lane forgiven.
LANES = 4

_LOG = logging.getLogger(__name__)
_NOWHERE = -100.0
_CHUNK = 1024


@dataclass(frozen=True)
class Scores:
    """The scores of a set of predictions, all in [0, 1].

    Attributes:
        accuracy: Mean over the clips of the mean line accuracy of a clip's true lanes: what the benchmark ranks by.
        fp: Mean over the clips of the part of the predicted lanes that no true lane is matched with.
        fn: Mean over the clips of the part of the true lanes that is missed.
        point_accuracy: The paper's accuracy, sum of correct points over sum of true points, over all clips at once. A
            true point is a height at which a true lane has a point; heights without one do not count, unlike in
            ``accuracy``. Each true lane takes the predicted lane that has the most correct points of it; a point is
            correct where that lane has a point within the scorer's threshold. A clip that scores nothing, for its
            run_time or for too many lanes, has no correct point. 0 where there are no true points.
        empty_accuracy: ``accuracy`` of a prediction with one lane, without a point, in every clip: what is had for
            nothing, as heights at which neither lane has a point agree.
        empty_point_accuracy: ``point_accuracy`` of the same; 0 by its definition.
        clips: Number of clips.
        correct_points: What ``point_accuracy`` counts.
        true_points: What it divides by.
        slow_clips: Clips that score nothing as they took more than 200 ms.
        crowded_clips: Clips that score nothing as more than the true lanes and two were predicted.
    """

    accuracy: float
    fp: float
    fn: float
    point_accuracy: float
    empty_accuracy: float
    empty_point_accuracy: float
    clips: int
    correct_points: int
    true_points: int
    slow_clips: int
    crowded_clips: int


def evaluate(predictions: Sequence[LaneRow], truths: Sequence[LaneRow]) -> Scores:
    """Score predictions by the benchmark's rules; neither the order of rows nor that of lanes matters.

    Args:
        predictions: One row for each clip. A missing run_time counts as 10 ms; their h_samples are not needed.
        truths: The labels of the same clips.

    Raises:
        DataError: there are no labels, a prediction is of a clip that the labels do not have, a clip has none or is
            there twice, or lanes are not as long as the label's h_samples.
    """
    truth = _by_clip(truths, "labels")
    found = _by_clip(predictions, "predictions")
    if not truth:
        raise DataError("no labels to score by, expected one row for each clip")
    for name, row in found.items():
        if name not in truth:
            raise DataError(
                f"{_place(row, 'predictions')}: {name} is not in the labels; the benchmark takes only its own clips"
            )
    for name, row in truth.items():
        if name not in found:
            lacking = len(truth) - len(found)
            raise DataError(
                f"{_place(row, 'labels')}: no prediction for {name}{f' (and {lacking - 1} more)' * (lacking > 1)}; the "
                "benchmark wants one for every clip"
            )
    pairs = [(found[name], row) for name, row in truth.items()]
    for pair in pairs:
        _check_heights(*pair)
    _tell_other_heights(pairs)
    score = _total(pairs)
    empty = _total([(_empty(row), row) for row in truth.values()])
    clips = len(pairs)
    return Scores(
        accuracy=score.accuracy / clips,
        fp=score.fp / clips,
        fn=score.fn / clips,
        point_accuracy=score.correct / max(score.points, 1),
        empty_accuracy=empty.accuracy / clips,
        empty_point_accuracy=empty.correct / max(empty.points, 1),
        clips=clips,
        correct_points=score.correct,
        true_points=score.points,
        slow_clips=score.slow,
        crowded_clips=score.crowded,
    )


def score(
    labels: str | Path,
    predictions: str | Path,
    as_json: bool = False,
    out: Callable[[str], object] = print,
) -> Scores:
    """Score a file of predictions against a label file and print a table, or JSON at full precision.

    Args:
        labels: The benchmark's label file, one JSON object a line.
        predictions: The same with what was predicted, perhaps with ``run_time`` in milliseconds.
        as_json: Print one JSON object with the fields of :class:`Scores`.
        out: Where each line of text goes.

    Raises:
        DataError: as :func:`evaluate` and ``read_rows`` say.
    """
    result = evaluate(read_rows(predictions, predictions=True), read_rows(labels))
    if as_json:
        out(json.dumps(asdict(result), indent=2, allow_nan=False))
        return result
    out(f"TuSimple, {result.clips} clip{'s' if result.clips != 1 else ''}")
    empty = f"(an empty prediction has {result.empty_accuracy:.6f})"
    out(f"  {'accuracy':16}{result.accuracy:.6f}  {empty}")
    out(f"  {'FP':16}{result.fp:.6f}")
    out(f"  {'FN':16}{result.fn:.6f}")
    empty = f"(an empty prediction has {result.empty_point_accuracy:.6f})"
    counted = f"{result.correct_points} of {result.true_points} points are correct"
    out(f"  {'point accuracy':16}{result.point_accuracy:.6f}  {empty}; {counted}")
    for count, why in (
        (result.slow_clips, f"more than {SLOWEST:g} ms"),
        (result.crowded_clips, f"more lanes than are true and {SPARE_LANES}"),
    ):
        if count:
            out(f"  {count} of the clips score nothing: {why}")
    return result


@dataclass
class _Sums:
    accuracy: float = 0.0
    fp: float = 0.0
    fn: float = 0.0
    correct: int = 0
    points: int = 0
    slow: int = 0
    crowded: int = 0


def _total(pairs: Sequence[tuple[LaneRow, LaneRow]]) -> _Sums:
    """The sums over the clips; pairs of prediction and truth."""
    sums = _Sums()
    alike: dict[int, list[tuple[LaneRow, LaneRow]]] = {}
    for found, truth in pairs:
        slow = (USUAL if found.run_time is None else found.run_time) > SLOWEST
        crowded = len(found.lanes) > len(truth.lanes) + SPARE_LANES
        if slow or crowded:
            sums.slow += slow
            sums.crowded += crowded and not slow
            sums.fn += 1.0
            sums.points += int(np.count_nonzero(truth.lanes >= 0))
        else:
            alike.setdefault(len(truth.h_samples), []).append((found, truth))
    for group in alike.values():
        for start in range(0, len(group), _CHUNK):
            _add(sums, group[start : start + _CHUNK])
    return sums


def _add(sums: _Sums, pairs: Sequence[tuple[LaneRow, LaneRow]]) -> None:
    """Add the scores of clips with the same number of heights, H; arrays are (clips, true lanes, found lanes, H)."""
    heights = np.stack([row.h_samples for _, row in pairs]).astype(np.float64)
    found, is_found = _stack([row.lanes for row, _ in pairs], heights.shape[1])
    truth, is_true = _stack([row.lanes for _, row in pairs], heights.shape[1])
    limits = PIXELS / np.cos(_angles(truth, heights[:, None]))
    true_points = truth >= 0
    near = (
        np.abs(
            np.where(found >= 0, found, _NOWHERE)[:, None]
            - np.where(true_points, truth, _NOWHERE)[:, :, None]
        )
        < limits[:, :, None, None]
    )
    near &= is_found[:, None, :, None]
    line = near.sum(axis=3).max(axis=2, initial=0) / truth.shape[2]
    hit = (near & true_points[:, :, None] & (found >= 0)[:, None]).sum(axis=3).max(axis=2, initial=0)
    sums.correct += int(hit[is_true].sum())
    sums.points += int(np.count_nonzero(true_points & is_true[:, :, None]))

    lanes, predicted = is_true.sum(axis=1), is_found.sum(axis=1)
    many = lanes > LANES
    matched = ((line >= MATCH) & is_true).sum(axis=1)
    missed = lanes - matched
    missed -= many & (missed > 0)
    total = np.where(is_true, line, 0.0).sum(axis=1)
    total -= np.where(many, np.where(is_true, line, np.inf).min(axis=1, initial=np.inf), 0.0)
    counted = np.clip(lanes, 1, LANES)
    sums.accuracy += float((total / counted).sum())
    # One prediction may be matched with several true lanes, so this may be below 0, as it may in the scorer.
    sums.fp += float(((predicted - matched) / np.maximum(predicted, 1))[predicted > 0].sum())
    sums.fn += float((missed / counted).sum())


def _angles(lanes: Floats, heights: Floats) -> Floats:
    """Angles of the straight lines x = k y + c that fit lanes best, from upright; 0 for lanes of less than two points.

    Args:
        lanes: (N, L, H) x; below 0 where there is no point.
        heights: (N, 1, H) y.
    """
    valid = lanes >= 0
    count = np.maximum(valid.sum(axis=2, keepdims=True), 1)
    x = np.where(valid, lanes - np.where(valid, lanes, 0.0).sum(axis=2, keepdims=True) / count, 0.0)
    y = np.where(valid, heights - np.where(valid, heights, 0.0).sum(axis=2, keepdims=True) / count, 0.0)
    spread = (y * y).sum(axis=2)
    angles: Floats = np.arctan((x * y).sum(axis=2) / np.where(spread > 0, spread, 1.0))
    return angles


def _stack(lanes: Sequence[Numbers], heights: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Put lanes of N clips into one (N, most lanes, H) array, and say which of them are lanes: (N, most lanes)."""
    counts = np.array([len(array) for array in lanes])
    present = np.arange(counts.max(initial=0)) < counts[:, None]
    stacked = np.full((*present.shape, heights), float(NO_POINT))
    if present.any():
        stacked[present] = np.concatenate([array for array in lanes if len(array)])
    return stacked, present


def _empty(truth: LaneRow) -> LaneRow:
    heights = truth.h_samples
    return LaneRow(truth.raw_file, np.full((1, len(heights)), NO_POINT), heights)


def _by_clip(rows: Sequence[LaneRow], what: str) -> dict[str, LaneRow]:
    clips: dict[str, LaneRow] = {}
    for row in rows:
        if row.raw_file in clips:
            earlier = clips[row.raw_file].where
            raise DataError(
                f"{_place(row, what)}: {row.raw_file} again{f', already in {earlier}' * bool(earlier)}; expected every "
                "clip once"
            )
        clips[row.raw_file] = row
    return clips


def _check_heights(found: LaneRow, truth: LaneRow) -> None:
    heights = len(truth.h_samples)
    for row, what in ((truth, "labels"), (found, "predictions")):
        # Without any lane there is nothing whose length could be wrong.
        if row.lanes.shape[1:] != (heights,) and len(row.lanes):
            raise DataError(
                f"{_place(row, what)}: {row.raw_file}: lanes of shape {row.lanes.shape}, expected {heights} points in "
                "each as the label's h_samples"
            )


def _tell_other_heights(pairs: Sequence[tuple[LaneRow, LaneRow]]) -> None:
    others = list(_other_heights(pairs))
    if others:
        _LOG.warning(
            "%s: %s: h_samples are not those of the label%s; the benchmark does not look, and "
            "takes the points to be at the label's heights",
            _place(others[0], "predictions"),
            others[0].raw_file,
            f", nor are they in {len(others) - 1} more" if len(others) > 1 else "",
        )


def _other_heights(pairs: Sequence[tuple[LaneRow, LaneRow]]) -> Iterator[LaneRow]:
    for found, truth in pairs:
        if len(found.h_samples) and len(found.lanes) and not np.array_equal(found.h_samples, truth.h_samples):
            yield found


def _place(row: LaneRow, what: str) -> str:
    return row.where or what

"""TuSimple's label and submission files: one JSON object a line, lanes as x at given heights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slr_det.data.reading import read_text
from slr_det.errors import DataError
from slr_det.files import atomic_write

Numbers = NDArray[np.int64] | NDArray[np.float64]

#: Stands for "the lane has no point at this height".
NO_POINT = -2


@dataclass(frozen=True, eq=False)
class LaneRow:
    """The lanes of one frame, labelled or predicted.

    Attributes:
        raw_file: The frame's image as the benchmark names it, such as ``clips/0601/1494453497604532231/20.jpg``.
        lanes: (L, H) int64, x in pixels of the labelled picture (1280 x 720) at every height, -2 where the lane has no
            point; L may be 0. float64 only where a file has fractions, which the benchmark takes too.
        h_samples: (H,) int64, the heights, y in pixels. Of length 0 where a prediction names none.
        run_time: Milliseconds that a prediction took, or None where the row does not say.
        where: ``file:line`` that the row was read from; empty for a row made in memory.
        segmentation: For a row of Ultra-Fast-Lane-Detection's converted list, which has no lanes: the picture whose
            pixels are 1 to 4 on the lanes, relative to the list; None for every other row.
    """

    raw_file: str
    lanes: Numbers
    h_samples: NDArray[np.int64]
    run_time: float | None = None
    where: str = ""
    segmentation: str | None = None


def read_rows(path: str | Path, *, predictions: bool = False) -> list[LaneRow]:
    """Read a label file, or a file of predictions; lines without text are skipped.

    Args:
        path: Text, one JSON object a line, each with ``raw_file``, ``lanes`` and ``h_samples``, perhaps ``run_time``.
        predictions: Let ``h_samples`` be missing, as the benchmark does for submissions; lanes then need only be as
            long as each other.

    Raises:
        DataError: the file is missing, no text or has no rows, or a line is broken JSON, lacks a key, has a lane and
            h_samples of different length, or something else than finite numbers; names the file and the line.
    """
    rows = [
        _row(f"{path}:{number}", line, predictions)
        for number, line in enumerate(read_text(path).split("\n"), start=1)
        if line.strip()
    ]
    if not rows:
        raise DataError(
            f"{path}: no rows, expected one JSON object a line with raw_file, lanes and h_samples"
        )
    return rows


def write_rows(path: str | Path, rows: Iterable[LaneRow]) -> Path:
    """Write rows in the benchmark's format, whole or not at all, and return the path.

    A row with a run_time is a prediction as the benchmark takes it; one without is a label. Numbers that are whole are
    written as such.

    Raises:
        DataError: a row's lanes do not fit its h_samples, or a number is not finite.
        StorageError: the file cannot be written.
    """
    lines = []
    for number, row in enumerate(rows, start=1):
        lanes = np.asarray(row.lanes)
        if lanes.ndim != 2 or lanes.shape[1] != len(row.h_samples):
            raise DataError(
                f"{path}:{number}: lanes of shape {lanes.shape} for {len(row.h_samples)} h_samples, expected one x "
                "for each; nothing was written"
            )
        content: dict[str, Any] = {
            "raw_file": row.raw_file,
            "lanes": lanes.tolist(),
            "h_samples": np.asarray(row.h_samples).tolist(),
        }
        if row.run_time is not None:
            content["run_time"] = float(row.run_time)
        try:
            lines.append(json.dumps(content, allow_nan=False) + "\n")
        except ValueError as error:
            raise DataError(
                f"{path}:{number}: {row.raw_file}: a number is not finite; nothing was written"
            ) from error
    return atomic_write(path, "".join(lines))


def _row(where: str, line: str, predictions: bool) -> LaneRow:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON ({error}); is the file complete?") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{where}: a JSON {type(content).__name__}, expected an object with raw_file and lanes"
        )
    needed = ("raw_file", "lanes") if predictions else ("raw_file", "lanes", "h_samples")
    for key in needed:
        if key not in content:
            raise DataError(f"{where}: no '{key}', expected {', '.join(needed)} in every row")
    name = content["raw_file"]
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{where}: raw_file is {name!r:.60}, expected the path of an image")
    heights = content.get("h_samples")
    samples = np.zeros(0, np.int64) if heights is None and predictions else _heights(where, heights)
    return LaneRow(name, _lanes(where, content["lanes"], samples), samples, _run_time(where, content), where)


def _heights(where: str, values: Any) -> NDArray[np.int64]:
    array = _numbers(values)
    if array is None or array.ndim != 1 or len(array) == 0 or np.any(array != np.floor(array)):
        raise DataError(f"{where}: h_samples is {values!r:.60}, expected a list of whole numbers")
    return array.astype(np.int64)


def _lanes(where: str, values: Any, samples: NDArray[np.int64]) -> Numbers:
    if not isinstance(values, list):
        raise DataError(f"{where}: lanes is {values!r:.60}, expected a list of lanes")
    if not values:
        return np.zeros((0, len(samples)), np.int64)
    expected = len(samples) or (len(values[0]) if isinstance(values[0], list) else 0)
    for number, lane in enumerate(values, start=1):
        if not isinstance(lane, list):
            raise DataError(
                f"{where}: lane {number} is {lane!r:.60}, expected a list of x, one for each height"
            )
        if len(lane) != expected:
            other = "h_samples has" if len(samples) else "lane 1 has"
            raise DataError(
                f"{where}: lane {number} has {len(lane)} points, {other} {expected}; expected as many x as heights"
            )
    array = _numbers(values)
    if array is None or array.ndim != 2:
        raise DataError(
            f"{where}: lanes holds something else than numbers, expected x in pixels or {NO_POINT}"
        )
    return array


def _run_time(where: str, content: dict[str, Any]) -> float | None:
    value = content.get("run_time")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{where}: run_time is {value!r:.60}, expected milliseconds")
    return float(value)


def _numbers(values: Any) -> Numbers | None:
    """The list as an int64 or float64 array; None where it holds something else, also NaN and infinity."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        return None
    if array.dtype == np.int64:
        return array
    if array.dtype != np.float64 or not np.all(np.isfinite(array)):
        return None
    return array

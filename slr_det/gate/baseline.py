"""The numbers of an earlier model: of a run's report, or of an evaluation that was saved with ``--json FILE``."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slr_det.errors import DataError
from slr_det.report import load_report
from slr_det.report.schema import SCHEMA_VERSION as REPORT
from slr_det.task import Task

EVALUATION = "slr_det.evaluation/1"


@dataclass(frozen=True)
class Baseline:
    """What a model is compared with.

    Attributes:
        source: The file.
        data: The data that it was measured on, as the user named them; empty where that is not known.
        numbers: Metrics and measures by name.
    """

    source: str
    data: str
    numbers: Mapping[str, float]


def read_baseline(path: str | Path, task: Task) -> Baseline:
    """Read a baseline: the folder or ``report.json`` of a run, or a file of ``eval --json FILE``.

    Of a run it is the pruned model at the end of the first method: the metrics of its last phase, the bytes of its
    files, and its weights.

    Args:
        path: The file or folder.
        task: The command line; numbers of another task are refused, and such without its headline.

    Raises:
        DataError: One line: nothing there, damaged, of another kind, of another task, or of an evaluation that failed.
    """
    file = Path(path)
    baseline = _read(file, task.report_task)
    if task.metric not in baseline.numbers:
        raise DataError(
            f"{file}: has no number for {task.metric}, only for {', '.join(baseline.numbers) or 'nothing'}; "
            "give a baseline that has one"
        )
    return baseline


def _read(file: Path, report_task: str) -> Baseline:
    if file.is_dir():
        return _of_run(file, load_report(file), report_task)
    if not file.is_file():
        raise DataError(
            f"{file}: no such baseline; give report.json of a run, or what `eval --json FILE` wrote"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: is not a readable baseline ({str(error).splitlines()[0]})") from error
    schema = content.get("schema") if isinstance(content, Mapping) else None
    if schema == REPORT:
        return _of_run(file, load_report(file), report_task)
    if schema == EVALUATION:
        return _of_evaluation(file, content, report_task)
    raise DataError(
        f"{file}: schema is {schema!r}, expected {REPORT!r} or {EVALUATION!r}; give report.json of a run, or what "
        "`eval --json FILE` wrote"
    )


def _of_run(file: Path, report: Mapping[str, Any], report_task: str) -> Baseline:
    _require_task(file, report["task"], report_task)
    numbers = _numbers(report["phases"][report["final_phase"]]["metrics"])
    for name, key in (("bytes", "pruned"), ("packed_bytes", "packed")):
        if report["bytes"].get(key) is not None:
            numbers[name] = float(report["bytes"][key])
    whole = report["compression"]["model"]
    numbers |= _numbers(
        {
            "parameters": whole.get("weights"),
            "nonzero": whole.get("nonzero"),
            "compression": whole.get("rate"),
        }
    )
    return Baseline(str(file), str(report["config"].get("data") or ""), numbers)


def _of_evaluation(file: Path, content: Mapping[str, Any], report_task: str) -> Baseline:
    if content.get("error"):
        raise DataError(f"{file}: is of an evaluation that failed ({content['error']}); save another one")
    _require_task(file, content.get("task"), report_task)
    parts = [content.get("metrics"), content.get("measures")]
    if not all(isinstance(part, Mapping) for part in parts):
        raise DataError(f"{file}: is damaged: metrics and measures are missing; save it again with --json")
    numbers = {name: value for part in parts if part for name, value in _numbers(part).items()}
    return Baseline(str(file), str(content.get("data") or ""), numbers)


def _require_task(file: Path, found: Any, wanted: str) -> None:
    if found != wanted:
        raise DataError(
            f"{file}: is of the task {found!r}, expected {wanted!r}; give a baseline of this task"
        )


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):  # JSON has integers that no float can hold
                if math.isfinite(value):
                    found[name] = float(value)
    return found

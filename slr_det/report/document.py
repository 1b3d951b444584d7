"""Writing a run's report folder, and reading a report back."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slr_det.errors import DataError, nearest
from slr_det.files import atomic_write
from slr_det.report.facts import collect_versions, git_commit
from slr_det.report.markdown import markdown
from slr_det.report.schema import SCHEMA_VERSION, load_schema, validate

REPORT_JSON = "report.json"
REPORT_MARKDOWN = "report.md"

Weights = Mapping[str, Tensor | np.ndarray[Any, Any]]


def build_report(**fields: Any) -> dict[str, Any]:
    """A complete, JSON-ready report from its fields, by the published schema.

    What is left out is filled in: ``schema``, ``created``, ``versions``, ``commit``, ``command``, ``seed``,
    ``config``, ``plots``, ``pictures``, ``others``, ``paper`` and ``warnings``. Numpy and 0-dim torch scalars, paths
    and tuples become plain JSON types; NaN and infinity become null, each with a line among the warnings.

    Raises:
        DataError: The fields do not make a report: one line that names what is wrong.
    """
    problems: list[str] = []
    document: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "command": None,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": None,
        "versions": collect_versions(),
        "commit": git_commit(),
        "config": {},
        "plots": {},
        "pictures": {},
        "others": {},
        "paper": None,
        "warnings": [],
        **_plain(fields, "", problems),
    }
    if isinstance(document["warnings"], list):
        document["warnings"] += [problem for problem in problems if problem not in document["warnings"]]
    validate(document)
    for name, picture in document["pictures"].items():
        _require_inside(f"pictures.{name}.file", picture["file"])
    return {key: document[key] for key in load_schema()["properties"] if key in document}


def write_report(
    run_dir: str | Path,
    report: Mapping[str, Any],
    *,
    weights_before: Weights | None = None,
    weights_after: Weights | None = None,
    heatmap_layer: str | None = None,
) -> Path:
    """Write ``report.json``, ``report.md`` and ``plots/`` into ``run_dir``.

    ``report`` itself is not changed, and goes through :func:`build_report` first. The JSON is on the disk before
    the first plot is drawn, so that a failing plot costs no result.

    Args:
        run_dir: Folder of the run; made if missing.
        report: The fields of the report. The files of its ``pictures`` are in ``run_dir`` already; a picture whose
            file is not there is left out, with a warning.
        weights_before: Dense weights by parameter name, for the heat map. Without both sets of weights a heat
            map that an earlier call drew stays.
        weights_after: The same weights in the pruned checkpoint.
        heatmap_layer: Parameter to draw; default: the largest pruned one.

    Returns:
        The path of ``report.json``.

    Raises:
        DataError: ``report`` does not follow the schema; nothing is written.
        StorageError: A file could not be written; the one that was there before is intact.
    """
    folder = Path(run_dir)
    document = build_report(**report)
    _leave_out_missing(folder, document)
    _write_json(folder, document)
    name: str | None = None
    before = after = None
    if weights_before is not None and weights_after is not None:
        name, warning = _heatmap_name(document, weights_before, weights_after, heatmap_layer)
        if warning and warning not in document["warnings"]:
            document["warnings"].append(warning)
        if name is not None:
            before, after = _array(weights_before[name]), _array(weights_after[name])

    from slr_det import plots  # matplotlib takes a second to import and only writing a report needs it

    kept = document["plots"].get("heatmap")
    drawn = plots.draw_all(folder, document, heatmap_layer=name, before=before, after=after)
    if "heatmap" not in drawn and kept is not None and (folder / kept).is_file():
        drawn["heatmap"] = kept
    document["plots"] = drawn
    path = _write_json(folder, document)
    atomic_write(folder / REPORT_MARKDOWN, markdown(document))
    return path


def refresh_report(path: str | Path) -> Path:
    """Write ``report.md`` and the plots of a run again from its ``report.json``.

    The heat map and the pictures stay as they are, where their files are still there.

    Returns the path of ``report.md``. Raises what :func:`load_report` and :func:`write_report` raise.
    """
    report = load_report(path)
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return write_report(folder, report).with_name(REPORT_MARKDOWN)


def load_report(path: str | Path) -> dict[str, Any]:
    """Read a report from a run's folder or from its ``report.json``.

    Raises:
        DataError: One line: nothing there (with the nearest run's name), no JSON, another version of the
            format, or a value that breaks the schema.
    """
    file = Path(path)
    if file.is_dir():
        file = file / REPORT_JSON
        if not file.is_file():
            raise DataError(
                f"{file.parent}: has no {REPORT_JSON}; the run has not ended, or is no run's folder"
            )
    elif not file.is_file():
        raise DataError(f"{file}: no such run or report{_nearest_path(file)}")
    try:
        report = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{file}: is not a readable report ({reason}); write it again from its run"
        ) from error
    validate(report, str(file))
    loaded: dict[str, Any] = report
    return loaded


def _plain(value: Any, where: str, problems: list[str]) -> Any:
    """``value`` as plain JSON types; what JSON cannot hold becomes null with a sentence in ``problems``."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Mapping):
        prefix = f"{where}." if where else ""
        return {str(key): _plain(item, f"{prefix}{key}", problems) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]", problems) for index, item in enumerate(value)]
    if isinstance(value, Tensor | np.ndarray):
        return _plain(value.tolist(), where, problems)
    if isinstance(value, np.generic):
        return _plain(value.item(), where, problems)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        problems.append(f"{where} is {value}: written as null")
        return None
    return str(value)


def _require_inside(where: str, file: str) -> None:
    """Raise DataError for a path that leaves the folder: only the folder travels with a report."""
    path = Path(file)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"report: {where} is {file!r}, expected a path relative to the report's folder")


def _leave_out_missing(folder: Path, document: dict[str, Any]) -> None:
    """Take the pictures whose files are gone out of ``document``, and say so among its warnings."""
    for name, picture in list(document["pictures"].items()):
        if not (folder / picture["file"]).is_file():
            del document["pictures"][name]
            warning = f"picture {name!r} is left out: {picture['file']} is not there"
            if warning not in document["warnings"]:
                document["warnings"].append(warning)


def _write_json(folder: Path, document: Mapping[str, Any]) -> Path:
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    return atomic_write(folder / REPORT_JSON, text + "\n")


def _heatmap_name(
    document: Mapping[str, Any], before: Weights, after: Weights, wanted: str | None
) -> tuple[str | None, str | None]:
    """The parameter to draw, and a warning where the wanted one is not among the weights."""
    both = [name for name in before if name in after]
    if wanted is not None and wanted in both:
        return wanted, None
    warning = (
        None
        if wanted is None
        else f"heat map: the model has no parameter {wanted!r}{nearest(wanted, both)}; drew another one"
    )
    pruned = [
        row
        for row in document["compression"]["layers"]
        if row["keep"] is not None and row["name"] in both and len(row["shape"]) >= 2
    ]
    largest = max(pruned, key=lambda row: row["weights"], default=None)
    return (None if largest is None else largest["name"]), warning


def _array(weight: Tensor | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One weight as a float32 array on the host (checkpoints store half precision)."""
    if isinstance(weight, Tensor):
        return weight.detach().to(device="cpu", dtype=torch.float32).numpy()
    return np.asarray(weight, dtype=np.float32)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _nearest_path(file: Path) -> str:
    """The sibling of a missing path whose name is closest, as a hint."""
    parent = file.parent
    if not parent.is_dir():
        return ""
    return nearest(file.name, [entry.name for entry in parent.iterdir()])

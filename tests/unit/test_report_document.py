"""Writing a report's folder and reading it back."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from report_example import make_report, make_weights

from slr_det import plots
from slr_det.errors import DataError, StorageError
from slr_det.report import build_report, load_report, refresh_report, summary_table, write_report

LAYER = "model.2.conv.weight"


def small_report() -> dict[str, Any]:
    return make_report(iterations=3, layer_count=6)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "draw_all", lambda *args, **kwargs: {})


def test_a_report_comes_back_as_it_was_written(tmp_path: Path) -> None:
    report = small_report()
    given = copy.deepcopy(report)
    before, after = make_weights((8, 4, 3, 3))
    path = write_report(
        tmp_path / "run",
        report,
        weights_before={LAYER: before},
        weights_after={LAYER: torch.from_numpy(after)},
    )
    assert path == tmp_path / "run" / "report.json"
    assert report == given
    loaded = load_report(tmp_path / "run")
    assert loaded == load_report(path)
    assert loaded["plots"] == plots.FILES
    assert {**loaded, "plots": {}} == given
    page = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    for picture in plots.FILES.values():
        assert (tmp_path / "run" / picture).is_file() and f"]({picture})" in page


@pytest.mark.usefixtures("no_plots")
def test_numbers_that_json_lacks_become_null_with_a_warning(tmp_path: Path) -> None:
    report = small_report()
    report["history"][1]["distance"] = math.nan
    report["others"]["admm"]["history"][0]["penalty"] = math.inf
    report["phases"]["dense"]["metrics"]["per_class"]["star"]["AP"] = np.float32("nan")
    write_report(tmp_path, report)

    def refuse(name: str) -> float:
        raise AssertionError(name)

    loaded = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert loaded["history"][1]["distance"] is None
    assert loaded["others"]["admm"]["history"][0]["penalty"] is None
    assert loaded["phases"]["dense"]["metrics"]["per_class"]["star"]["AP"] is None
    assert loaded["warnings"][0] == report["warnings"][0]
    assert sorted(loaded["warnings"][1:]) == [
        "history[1].distance is nan: written as null",
        "others.admm.history[0].penalty is inf: written as null",
        "phases.dense.metrics.per_class.star.AP is nan: written as null",
    ]
    write_report(tmp_path, load_report(tmp_path))  # once said is enough
    assert load_report(tmp_path)["warnings"] == loaded["warnings"]


def test_scalars_of_numpy_and_torch_paths_and_tuples_become_plain() -> None:
    report = small_report()
    report["seed"] = np.int64(3)
    report["phases"]["dense"]["metrics"]["AP50"] = torch.tensor(0.75)
    report["phases"]["dense"]["checkpoint"] = Path("dense") / "best.pt"
    report["compression"]["layers"][0]["shape"] = (16, 3, 3, 3)
    report["history"][0]["condition_6"] = np.bool_(True)
    built = build_report(**report)
    assert built["seed"] == 3 and type(built["seed"]) is int
    assert built["phases"]["dense"]["metrics"]["AP50"] == 0.75
    assert built["phases"]["dense"]["checkpoint"] == "dense/best.pt"
    assert built["compression"]["layers"][0]["shape"] == [16, 3, 3, 3]
    assert built["history"][0]["condition_6"] is True


def test_what_is_left_out_is_filled_in() -> None:
    report = small_report()
    for key in (
        "schema",
        "created",
        "versions",
        "commit",
        "command",
        "seed",
        "config",
        "plots",
        "pictures",
        "others",
        "paper",
    ):
        del report[key]
    del report["warnings"]
    built = build_report(**report)
    assert built["schema"] == "slr_det.report/1"
    assert built["versions"]["torch"] == torch.__version__
    assert (built["others"], built["paper"], built["warnings"], built["seed"]) == ({}, None, [], None)
    assert built["created"].endswith("+00:00")
    assert next(iter(built)) == "schema"
    assert "slr" in summary_table(built)


def test_a_wrong_report_writes_nothing(tmp_path: Path) -> None:
    report = small_report()
    del report["phases"]["hard_prune"]["metrics"]
    with pytest.raises(DataError, match=r"phases\.hard_prune\.metrics is missing"):
        write_report(tmp_path / "run", report)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match=r"methode is not a known key \(did you mean 'method'\?\)"):
        build_report(**small_report(), methode="slr")


@pytest.mark.usefixtures("no_plots")
def test_a_full_disk_keeps_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(tmp_path, small_report())
    old = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device") as raised:
        write_report(tmp_path, {**small_report(), "name": "another"})
    assert "\n" not in str(raised.value)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == old


def test_a_plot_that_fails_costs_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> dict[str, str]:
        raise StorageError("plots/metric.png: cannot be written")

    monkeypatch.setattr(plots, "draw_all", fail)
    with pytest.raises(StorageError):
        write_report(tmp_path, small_report())
    assert load_report(tmp_path)["phases"] == small_report()["phases"]


def test_the_heat_map_shows_the_wanted_layer_or_the_largest_pruned_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def note(folder: Path, report: Any, *, heatmap_layer: str | None, **weights: Any) -> dict[str, str]:
        asked.append(heatmap_layer)
        return {}

    monkeypatch.setattr(plots, "draw_all", note)
    report = small_report()
    names = [row["name"] for row in report["compression"]["layers"]]
    weights = {name: np.ones((2, 2)) for name in [*names, "bias"]}
    both: dict[str, Any] = {"weights_before": weights, "weights_after": weights}
    pruned = [row for row in report["compression"]["layers"] if row["keep"] is not None]
    largest = max(pruned, key=lambda row: row["weights"])["name"]
    write_report(tmp_path, report, **both)
    write_report(tmp_path, report, **both, heatmap_layer=names[1])
    assert asked == [largest, names[1]]
    assert load_report(tmp_path)["warnings"] == report["warnings"]
    write_report(tmp_path, report, **both, heatmap_layer="model.1.conv.wieght")
    assert asked[2] == largest
    assert load_report(tmp_path)["warnings"][1:] == [
        "heat map: the model has no parameter 'model.1.conv.wieght' (did you mean 'model.1.conv.weight'?); "
        "drew another one"
    ]
    write_report(tmp_path, report, weights_before=weights)
    assert asked[3] is None


def test_writing_a_page_again_keeps_the_numbers_and_the_heat_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = make_weights((8, 4, 3, 3))
    report = make_report(("oneshot",), layer_count=6)
    write_report(tmp_path, report, weights_before={LAYER: before}, weights_after={LAYER: after})
    loaded = load_report(tmp_path)
    heatmap = (tmp_path / "plots" / "heatmap.png").read_bytes()
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    for name in ("report.md", "plots/metric.png"):
        (tmp_path / name).unlink()
    assert refresh_report(tmp_path / "report.json") == tmp_path / "report.md"
    assert load_report(tmp_path) == loaded
    assert (tmp_path / "plots" / "heatmap.png").read_bytes() == heatmap
    assert (tmp_path / "plots" / "metric.png").is_file()
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == page
    (tmp_path / "plots" / "heatmap.png").unlink()
    monkeypatch.setattr(plots, "draw_all", lambda *args, **kwargs: {})
    refresh_report(tmp_path)
    assert "heatmap" not in load_report(tmp_path)["plots"]


@pytest.mark.usefixtures("no_plots")
def test_pictures_stay_when_the_page_is_written_again_while_their_files_are_there(tmp_path: Path) -> None:
    scan = {"file": Path("pictures") / "scan.png", "title": "A scan", "caption": "From above."}
    report = {**small_report(), "pictures": {"scan": scan, "gone": {"file": "gone.png", "title": "Gone"}}}
    given = copy.deepcopy(report)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "scan.png").write_bytes(b"a picture")
    write_report(tmp_path, report)
    assert report == given
    loaded = load_report(tmp_path)
    assert loaded["pictures"] == {"scan": {**scan, "file": "pictures/scan.png"}}
    assert loaded["warnings"] == [*given["warnings"], "picture 'gone' is left out: gone.png is not there"]
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "![A scan](pictures/scan.png)" in page and "![Gone]" not in page
    refresh_report(tmp_path)
    assert load_report(tmp_path) == loaded
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == page
    assert (tmp_path / "pictures" / "scan.png").read_bytes() == b"a picture"
    (tmp_path / "pictures" / "scan.png").unlink()
    refresh_report(tmp_path)
    assert load_report(tmp_path)["pictures"] == {}
    assert "## Pictures" not in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("inside", ["../scan.png", "pictures/../../scan.png", "absolute"])
def test_a_picture_outside_the_folder_is_refused_before_anything_is_written(
    tmp_path: Path, inside: str
) -> None:
    (tmp_path / "scan.png").write_bytes(b"a picture")
    file = str(tmp_path / "scan.png") if inside == "absolute" else inside
    report = {**small_report(), "pictures": {"scan": {"file": file, "title": "A scan"}}}
    with pytest.raises(DataError) as caught:
        write_report(tmp_path / "run", report)
    assert str(caught.value) == (
        f"report: pictures.scan.file is {file!r}, expected a path relative to the report's folder"
    )
    assert not (tmp_path / "run").exists()


def test_what_is_not_there_is_named_with_the_nearest_run(tmp_path: Path) -> None:
    (tmp_path / "demo-slr").mkdir()
    with pytest.raises(DataError, match=r"demo-srl: no such run or report \(did you mean 'demo-slr'\?\)"):
        load_report(tmp_path / "demo-srl")
    with pytest.raises(DataError, match=r"demo-slr: has no report\.json"):
        load_report(tmp_path / "demo-slr")
    with pytest.raises(DataError, match="no such run or report"):
        load_report(tmp_path / "nowhere" / "run")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a readable report"),
        (b'{"schema": "slr_det.report/1", "name": ', "is not a readable report"),
        (b"\xff\xfe\x00", "is not a readable report"),
        (b'{"schema": "slr_det.report/1", "seed": NaN}', "NaN is no JSON number"),
        (b"[" * 200_000, "is not a readable report"),
        (b"[1, 2]", "expected a JSON object, found array"),
        (b'{"schema": "slr_det.report/9"}', "schema is 'slr_det.report/9', expected 'slr_det.report/1'"),
        (b'{"schema": "slr_det.report/1"}', "task is missing"),
    ],
)
def test_a_damaged_or_foreign_file_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        load_report(tmp_path)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value) and "\n" not in str(raised.value)

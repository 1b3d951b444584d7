"""Where runs go that name no folder, and what is said where none can be made."""

from __future__ import annotations

from pathlib import Path

import pytest

from slr_det.config import RunConfig
from slr_det.errors import StorageError
from slr_det.places import RUNS_VARIABLE, runs_folder
from slr_det.runstate import new_folder


def test_runs_go_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUNS_VARIABLE, raising=False)
    assert (runs_folder(), RunConfig().project) == ("runs", "runs")
    monkeypatch.setenv(RUNS_VARIABLE, "")
    assert runs_folder() == "runs"
    monkeypatch.setenv(RUNS_VARIABLE, "/runs")
    assert (runs_folder(), RunConfig().project) == ("/runs", "/runs")
    assert RunConfig(project="here").project == "here"


def test_a_place_that_takes_no_runs_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/shapes: .*\(Not a directory\); .*project=\.\.\."):
        new_folder(str(tmp_path / "file"), "shapes")

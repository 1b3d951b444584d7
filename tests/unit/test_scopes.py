"""What is pruned has a name where it decides what a rate means, and a report counts the parts one by one."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import torch
from report_example import make_report

from slr_det import yolo
from slr_det.adapter import ModelInfo
from slr_det.config import load_config
from slr_det.errors import ConfigError
from slr_det.layers import make_layer
from slr_det.pipeline import allocations_for
from slr_det.report import compression, load_schema, summary_table, validate
from slr_det.report.markdown import markdown
from slr_det.task import Scope

SCOPES = {
    "everything": Scope("the head too", {"dense_head": False, "compression_over": "model"}),
    "backbone": Scope("the head stays", {"dense_head": True, "compression_over": "groups"}),
}
TASK = replace(yolo.TASK, scopes=SCOPES, parts={"backbone": ("body.*",), "head": ("head.*",)})
# A head that holds nine tenths of the weights, as the one of a lane detector does.
LAYERS = [
    make_layer("body.0.weight", (10, 3, 1, 1), role="first"),
    make_layer("body.1.weight", (100, 10)),
    make_layer("head.weight", (90, 100), role="head"),
]
INFO = ModelInfo(LAYERS, {layer.name: torch.ones(layer.shape) for layer in LAYERS}, 1)
TOTAL = 30 + 1000 + 9000


def config(*words: str, **content: Any) -> Any:
    return load_config({"model": "m", **content}, words, scopes=TASK.scope_settings)


def test_a_scope_stands_for_settings_and_the_first_for_none() -> None:
    usual, backbone = config(), config("prune.scope=backbone")
    assert (usual.prune.scope, usual.prune.dense_head, usual.prune.compression_over) == ("", False, "model")
    assert (backbone.prune.scope, backbone.prune.dense_head) == ("backbone", True)
    assert backbone.prune.compression_over == "groups"
    # What is written out says more than a name, in a file as well as on the command line.
    written = config("prune.scope=backbone", prune={"compression_over": "model"})
    assert written.prune.dense_head and written.prune.compression_over == "model"
    assert load_config(written.to_dict(), scopes=TASK.scope_settings) == written


def test_a_scope_that_is_none_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"command line: prune.scope is 'backbon', expected everything or backbone \(did"
    ):
        config("prune.scope=backbon")
    with pytest.raises(ConfigError, match="prune.scope is 'backbone', which this task has not"):
        load_config({"model": "m", "prune": {"scope": "backbone"}}, scopes={})


def test_what_each_scope_keeps_is_shown_until_one_is_chosen() -> None:
    both = allocations_for(TASK, config("prune.target_compression=4"), INFO)
    assert list(both) == ["everything", "backbone"]
    whole, body = (both[name].compression() for name in both)
    assert whole["model"]["rate"] == pytest.approx(4.0, rel=1e-3)
    assert body["groups"] == {"weights": 1000, "kept": 250, "rate": 4.0}
    assert body["model"]["rate"] == pytest.approx(TOTAL / (TOTAL - 750))
    for words in (["prune.scope=backbone"], ["prune.dense_head=true"], ["prune.exclude=[head.*]"]):
        (one,) = allocations_for(TASK, config("prune.keep=0.5", *words), INFO).values()
        assert [row.keep for row in one.layers] == [None, 0.5, None]


def test_a_rate_that_one_scope_cannot_reach_leaves_the_other() -> None:
    layers = [LAYERS[0], replace(LAYERS[1], role="head"), LAYERS[2]]
    found = allocations_for(TASK, config("prune.target_compression=4"), replace(INFO, layers=layers))
    assert list(found) == ["everything"]
    with pytest.raises(ConfigError, match="cannot be reached over the whole model"):
        allocations_for(TASK, config("prune.target_compression=1000"), replace(INFO, layers=layers))


def pruned_report() -> dict[str, Any]:
    weights = {name: weight.clone() for name, weight in INFO.weights.items()}
    weights["body.1.weight"][25:] = 0
    weights["head.bias"] = torch.ones(90)
    rows = [{"name": layer.name, "keep": None if layer.role != "body" else 0.25} for layer in LAYERS]
    report = make_report(("slr",))
    report["compression"] = compression(weights, rows, parts=TASK.parts)
    return report


def test_a_report_counts_the_parts_and_says_which_was_pruned() -> None:
    report = pruned_report()
    assert report["compression"]["parts"] == {
        "backbone": {
            "weights": 1030,
            "nonzero": 280,
            "rate": 1030 / 280,
            "pruned_layers": 1,
            "dense_layers": 1,
        },
        "head": {"weights": 9090, "nonzero": 9090, "rate": 1.0, "pruned_layers": 0, "dense_layers": 1},
    }
    validate(report)
    jsonschema.Draft202012Validator(load_schema()).validate(report)
    said = "backbone 3.68x (1 of 2 layers pruned), head 1.00x (dense)"
    assert said in summary_table(report)
    page = markdown(report)
    assert f"What was pruned: {said}." in page and "| backbone | 1,030 | 280 | 72.8% | 3.68x |" in page
    del report["compression"]["parts"]
    assert "layers pruned" not in summary_table(report) + markdown(report)


def test_the_columns_of_lanes_are_explained_and_fit_on_a_terminal() -> None:
    report = make_report(("slr", "admm"))
    scores = {"accuracy": 0.91, "empty_accuracy": 0.42, "point_accuracy": 0.88, "fp": 0.2, "fn": 0.1}
    for run in (report, *report["others"].values()):
        for phase in run["phases"].values():
            phase["metrics"] = {**scores, "frames": 100.0}
    report["metric"] = "accuracy"
    head = summary_table(report).splitlines()[2]
    assert re.split(r"\s{2,}", head)[2:8] == ["accuracy", "vs dense", "no lanes", "points", "FP", "FN"]
    assert "Of the columns, *no lanes* is the accuracy of a prediction without any lane" in markdown(report)
    assert "Of the columns" not in markdown(make_report(("slr",)))

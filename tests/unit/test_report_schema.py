"""The published schema, and the small checker that stands in for a JSON Schema library."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from report_example import make_lidar_report, make_report

from slr_det.errors import DataError
from slr_det.report import SCHEMA_PATH, load_schema, validate

jsonschema = pytest.importorskip("jsonschema")

Report = dict[str, Any]


OFFICIAL = jsonschema.Draft202012Validator(load_schema())


def official(report: Any) -> bool:
    return bool(OFFICIAL.is_valid(report))


def own(report: Any) -> bool:
    try:
        validate(report)
    except DataError:
        return False
    return True


def test_the_schema_is_a_valid_schema_and_ships_in_the_package() -> None:
    assert SCHEMA_PATH.name == "report.schema.json" and SCHEMA_PATH.parent.name == "slr_det"
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("methods", [("slr",), ("slr", "admm"), ("oneshot", "slr", "gradual")])
def test_full_reports_are_accepted(methods: tuple[str, ...]) -> None:
    report = make_report(methods)
    validate(report)
    assert official(report)


PICTURE = {"file": "pictures/scan.png", "title": "A scan"}


def test_pictures_and_numbers_per_phase_and_metric_are_accepted_and_optional() -> None:
    report = make_lidar_report()
    report["pictures"] = {"scan": PICTURE, "other": {**PICTURE, "caption": ""}}
    report["paper"] |= {
        "gradual": 70,
        "oneshot": {"retrain": 40.5},
        "penalty": {"hard_prune": None, "retrain": {"easy": None}},
        "note": "text",
    }
    assert own(report) and official(report)
    del report["pictures"]
    assert own(report) and official(report)


def remove(*path: str | int) -> Callable[[Report], None]:
    def change(report: Report) -> None:
        holder: Any = report
        for key in path[:-1]:
            holder = holder[key]
        del holder[path[-1]]

    return change


def put(value: Any, *path: str | int) -> Callable[[Report], None]:
    def change(report: Report) -> None:
        holder: Any = report
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value

    return change


BROKEN = [
    (
        put({"retrained": 1.0}, "paper", "slr"),
        "paper.slr.retrained is not a known key (did you mean 'retrain'?)",
    ),
    (put({"easy": 68.0}, "paper", "slr"), "paper.slr.easy is not a known key"),
    (put([68.0], "paper", "slr"), "paper.slr is an array, expected number or object or string or null"),
    (put({}, "paper", "slr"), "paper.slr is empty"),
    (put({"retrain": {}}, "paper", "slr"), "paper.slr.retrain is empty"),
    (
        put({"retrain": {"easy": "68"}}, "paper", "slr"),
        "paper.slr.retrain.easy is '68', expected number or null",
    ),
    (put({"easy": {"x": 1}}, "paper", "dense"), "paper.dense.easy is an object, expected number or null"),
    (put({"scan": {"file": "a.png"}}, "pictures"), "pictures.scan.title is missing"),
    (put({"scan": "a.png"}, "pictures"), "pictures.scan is 'a.png', expected object"),
    (put({"scan": {**PICTURE, "file": ""}}, "pictures"), "pictures.scan.file is empty"),
    (
        put({"scan": {**PICTURE, "capton": "x"}}, "pictures"),
        "pictures.scan.capton is not a known key (did you mean 'caption'?)",
    ),
    (remove("phases", "dense", "metrics"), "phases.dense.metrics is missing"),
    (put({}, "phases", "dense", "metrics"), "phases.dense.metrics is empty"),
    (
        put("0.8", "phases", "dense", "metrics", "AP50"),
        "phases.dense.metrics.AP50 is '0.8', expected number or null",
    ),
    (put(True, "phases", "dense", "metrics", "AP50"), "phases.dense.metrics.AP50 is True"),
    (
        put({"metrics": {"AP": 0.1}}, "phases", "retrained"),
        "phases.retrained is not a known key (did you mean 'retrain'?)",
    ),
    (put("retrained", "final_phase"), "final_phase is 'retrained', expected one of dense, hard_prune"),
    (remove("phases", "retrain"), "phases.retrain is missing"),
    (remove("compression", "model"), "compression.model is missing"),
    (put(0.5, "compression", "model", "rate"), "compression.model.rate is 0.5, expected at least 1"),
    (put(1.5, "compression", "model", "nonzero"), "compression.model.nonzero is 1.5, expected integer"),
    (put(-1, "bytes", "pruned"), "bytes.pruned is -1, expected at least 0"),
    (put(1.2, "compression", "layers", 1, "keep"), "compression.layers[1].keep is 1.2, expected at most 1"),
    (remove("compression", "layers", 2, "reason"), "compression.layers[2].reason is missing"),
    (put("yes", "history", 3, "condition_6"), "history[3].condition_6 is 'yes', expected boolean or null"),
    (remove("history", 0, "iteration"), "history[0].iteration is missing"),
    (remove("others", "admm", "bytes"), "others.admm.bytes is missing"),
    (put([1], "versions", "torch"), "versions.torch is an array, expected string"),
    (put("", "name"), "name is empty"),
    (put({"slr": [1.0]}, "paper"), "paper.slr is an array"),
    (put("no", "warnings"), "warnings is 'no', expected array"),
    (put(1, "finale_phase"), "finale_phase is not a known key (did you mean 'final_phase'?)"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_broken_reports_are_refused_with_the_key(change: Callable[[Report], None], message: str) -> None:
    report = make_report()
    change(report)
    assert not official(report)
    with pytest.raises(DataError, match=re.escape(message)) as raised:
        validate(report, "runs/x/report.json")
    assert str(raised.value).startswith("runs/x/report.json: ")
    assert "\n" not in str(raised.value)


def test_the_final_phase_must_have_run_also_for_other_methods() -> None:
    report = make_report()
    report["others"]["admm"]["final_phase"] = "bn_recalibrated"
    assert own(report) and official(report)
    report["others"]["admm"]["final_phase"] = "retrain"
    del report["others"]["admm"]["phases"]["retrain"]
    assert not official(report)
    with pytest.raises(DataError, match=re.escape("others.admm.phases.retrain is missing")):
        validate(report)


@pytest.mark.parametrize("value", [{}, {"schema": "slr_det.report/2"}, {"schema": None}])
def test_another_format_or_version_is_named_first(value: Report) -> None:
    with pytest.raises(DataError, match=r"schema is .*, expected 'slr_det.report/1'"):
        validate(value)


@pytest.mark.parametrize("value", [[], "text", None, 3])
def test_what_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match="expected a JSON object"):
        validate(value)


def test_one_line_holds_the_first_problems_and_counts_the_rest() -> None:
    report = make_report()
    for record in report["history"]:
        record["distance"] = "far"
    with pytest.raises(DataError) as raised:
        validate(report)
    assert str(raised.value).count("expected number or null") == 5
    assert str(raised.value).endswith(f"and {len(report['history']) - 5} more")


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += nodes(item, (*path, key))
    return found


def test_the_checker_agrees_with_the_official_one_on_random_damage() -> None:
    rng = random.Random(7)
    base = make_report(("slr", "admm"), iterations=2, layer_count=3)
    paths = nodes(base)
    junk: list[Any] = [
        None,
        True,
        -1,
        0,
        3,
        3.0,
        0.25,
        1e9,
        "",
        "dense",
        "slr",
        [],
        {},
        [1],
        {"AP": 0.5},
        {"metrics": {}},
    ]
    verdicts = {True: 0, False: 0}
    for _ in range(150):
        report = copy.deepcopy(base)
        path = rng.choice(paths)
        holder: Any = report
        for key in path[:-1]:
            holder = holder[key]
        kind = rng.random()
        if kind < 0.25:
            del holder[path[-1]]
        elif kind < 0.4 and isinstance(holder, dict):
            holder[rng.choice(["extra", "retrain", "metrics", "epochs"])] = rng.choice(junk)
        else:
            holder[path[-1]] = rng.choice(junk)
        verdict = official(report)
        assert own(report) == verdict, f"{path}: {holder}"
        verdicts[verdict] += 1
    assert min(verdicts.values()) > 25  # the damage tries both answers


def test_the_schema_uses_no_keyword_that_the_checker_would_ignore() -> None:
    known = {
        "$ref",
        "type",
        "const",
        "enum",
        "required",
        "properties",
        "additionalProperties",
        "minProperties",
    }
    known |= {"items", "minimum", "maximum", "minLength", "allOf", "if", "then"}
    notes = {"$schema", "$id", "$defs", "title", "description", "format"}

    def walk(schema: Any) -> None:
        if not isinstance(schema, dict):
            return
        assert set(schema) <= known | notes
        for key in ("properties", "$defs"):
            for part in schema.get(key, {}).values():
                walk(part)
        for key in ("additionalProperties", "items", "if", "then"):
            walk(schema.get(key))
        for part in schema.get("allOf", ()):
            walk(part)

    walk(load_schema())


def test_the_document_explains_every_field() -> None:
    text = (SCHEMA_PATH.parents[1] / "docs" / "report.md").read_text(encoding="utf-8")
    schema = load_schema()
    parts = [schema, *schema["$defs"].values()]
    fields = {name for part in parts for name in part.get("properties", {})}
    assert len(fields) > 50
    assert sorted(name for name in fields if f"`{name}`" not in text and f"`paper.{name}`" not in text) == []

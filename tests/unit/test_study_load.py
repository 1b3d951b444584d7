"""Studies: every file in configs/studies loads, and everything that would make a comparison unfair is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from slr_det.bench.study.load import find_task, load_study
from slr_det.bench.study.model import Study
from slr_det.bench.study.rules import budget, levers
from slr_det.config.recipes import RECIPES
from slr_det.errors import ConfigError

pytest.importorskip("timm", reason="needs the classify extra")

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.yaml"))
# What those need that are for files of the user's own.
WORDS = {
    "resnet20-cifar10": ["weights=resnet20.th", "data=cifar"],
    "lane-tusimple": ["model=tusimple_18.pth", "data=tusimple"],
}
BASE: dict[str, Any] = {
    "model": "digits_cnn",
    "data": "digits",
    "dense_epochs": 2,
    "epochs": 3,
    "retrain_epochs": 1,
    "prune": {"dense_first": False, "dense_head": False},
    "train": {"batch": 32, "lr": 0.05},
}
ENTRIES: dict[str, Any] = {
    "slr": {"method": "slr", "slr": {"s0": 0.02}},
    "admm": {"method": "admm", "epochs": 2, "retrain_epochs": 2},
}


def content(**changes: Any) -> dict[str, Any]:
    study = {"task": "classify", "seeds": [0, 1], "rates": [20], "base": BASE, "entries": ENTRIES}
    return {**study, "baselines": ["admm"], **changes}


def load(tmp_path: Path, *words: str, **changes: Any) -> Study:
    path = tmp_path / "arena.yaml"
    path.write_text(yaml.safe_dump(content(**changes), sort_keys=False), encoding="utf-8")
    return load_study(path, words)


def refusal(tmp_path: Path, *words: str, **changes: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, *words, **changes)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def with_entry(**settings: Any) -> dict[str, Any]:
    return {**ENTRIES, "third": {"method": "gradual", **settings}}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_of_the_repository_loads(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "recommended" in path.read_text(encoding="utf-8") and "recommended" not in RECIPES:
        pytest.skip("there is no recipe 'recommended' yet")
    monkeypatch.chdir(tmp_path)
    for name in ("resnet20.th", "tusimple_18.pth"):
        Path(name).write_bytes(b"")
    words = WORDS.get(path.stem, [])
    study = load_study(path, words)
    task = "lane" if path.stem.startswith("lane") else "classify"
    assert study.name == path.stem and study.task.name == task
    assert len({budget(entry.config) for entry in study.entries}) == 1
    assert study.sweep_of or study.baselines
    for entry in study.entries:
        assert entry.config.train == study.entries[0].config.train
    assert {f"{key}={study.base[key]}" for key in ("model", "weights", "data") if key in study.base} >= set(
        words
    )


def test_what_a_study_says_is_what_it_holds(tmp_path: Path) -> None:
    study = load(tmp_path, "lr=0.01", "name=other", rates=["20x", 50], target={"accuracy": 0.9})
    assert (study.name, study.seeds, study.rates) == ("other", (0, 1), (20.0, 50.0))
    assert study.target == ("top1", 0.9)
    assert not study.shared_dense and study.folder == Path("runs") / "other"
    first = study.config(study.entries[0].settings, 50.0, 1)
    assert (first.seed, first.prune.target_compression, first.method) == (1, 50.0, ("slr",))
    assert first.slr.s0 == 0.02 and first.train == {"batch": 32, "lr": 0.01}
    assert study.entries[1].config.epochs == 2


def test_the_name_is_the_files_unless_given(tmp_path: Path) -> None:
    assert load(tmp_path).name == "arena"
    assert load(tmp_path, name="digits").name == "digits"


@pytest.mark.parametrize(
    ("base", "given", "shared"),
    [
        ({}, None, False),
        ({}, "shared", True),
        ({"weights": "w.pth", "dense_epochs": 0}, None, True),
        ({"weights": "w.pth", "dense_epochs": 0}, "per_seed", False),
        ({"weights": "w.pth", "dense_epochs": 3}, None, False),
        ({"model": "w.pth"}, None, True),
    ],
)
def test_one_dense_model_is_shared_where_all_seeds_start_from_the_same_weights(
    base: dict[str, Any], given: str | None, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pth").write_bytes(b"")
    assert load(tmp_path, base={**BASE, **base}, dense=given).shared_dense is shared


def test_a_recipe_is_part_of_what_an_entry_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "paper", {"slr": {"rho": 0.3}, "distill": 0.5})
    study = load(
        tmp_path,
        base={**BASE, "slr": {"rho": 0.2}},
        entries={"a": {"method": "slr", "recipe": "paper"}, **ENTRIES},
    )
    by = {entry.label: entry.config for entry in study.entries}
    assert by["a"].slr.rho == 0.3 and by["a"].distill == 0.5
    assert by["admm"].slr.rho == 0.2 and by["admm"].distill == 0.0
    monkeypatch.setitem(RECIPES, "paper", {"bn_recalibrate": False})
    assert "entries.a: bn_recalibrate is False" in refusal(
        tmp_path, entries={"a": {"method": "slr", "recipe": "paper"}, **ENTRIES}
    )


def test_the_levers_name_all_that_is_switched_on(tmp_path: Path) -> None:
    entries = with_entry(
        distill=0.5,
        one_schedule=True,
        iterations_per_epoch=4,
        prune={"allocation": "global"},
        slr={"rho": 0.2, "objective": "fixed"},
        train={"lr": 0.1},
    )
    study = load(tmp_path, entries=entries, unequal=["third"])
    words = [levers(entry) for entry in study.entries]
    assert words[:2] == [["3+1 epochs", "s0 0.02"], ["2+2 epochs"]]
    assert words[2] == [
        "3+1 epochs",
        "global allocation",
        "distillation 0.5",
        "4 iterations/epoch",
        "one schedule",
        "rho 0.2",
        "objective fixed",
        "train.lr differs*",
    ]
    assert study.entries[2].unequal == ("train.lr",)


def test_a_sweep_changes_one_hyperparameter_at_a_time(tmp_path: Path) -> None:
    study = load(tmp_path, sweep_of="slr", sweep={"s0": [0.001, 0.02, 0.1], "M": ["2e2"]})
    swept = [entry for entry in study.entries if entry.swept]
    # 0.02 is the entry's own value: that cell is there already.
    assert [entry.label for entry in swept] == ["slr s0=0.001", "slr s0=0.1", "slr M=200"]
    assert [(e.config.slr.s0, e.config.slr.M) for e in swept] == [(0.001, 300.0), (0.1, 300.0), (0.02, 200.0)]
    assert [entry.swept for entry in swept] == [("s0", 0.001), ("s0", 0.1), ("M", 200.0)]


def test_different_budgets_are_refused_and_both_are_named(tmp_path: Path) -> None:
    line = refusal(tmp_path, entries=with_entry(retrain_epochs=2))
    assert "'slr' and 'third' have different budgets, 3 + 1 = 4 and 3 + 2 = 5 epochs" in line
    assert "retraining counts" in line


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"train": {"lr": 0.1}},
            "train.lr is 0.1, but 0.05 in 'base'; set it in 'base', or list 'third' under",
        ),
        ({"lr": 0.1}, "train.lr is 0.1, but 0.05"),
        (
            {"retrain": {"lr": 0.1}},
            "retrain.lr is 0.1, but None in 'base'; set it in 'base', or list 'third' under",
        ),
        ({"dense": {"lr": 0.1}}, "dense training may not differ"),
        ({"dense_epochs": 3}, "dense training may not differ"),
        ({"prune": {"projection": "filter"}}, "prune.projection is 'filter', but 'unstructured' in 'base'"),
        ({"prune": {"dense_head": True}}, "prune.dense_head is True"),
        (
            {"bn_recalibrate": False},
            "bn_recalibrate is False, but True in 'base'; entries may not differ in it",
        ),
        ({"model": "cifar_resnet20"}, "model is 'cifar_resnet20'"),
        ({"seed": 3}, "seed is set by the study: 'seeds' lists them"),
        ({"prune": {"keep": 0.1}}, "prune.keep is set by the study"),
        ({"recipe": "best"}, "recipe is 'best', expected one of"),
        ({"slr": {"s1": 0.1}}, "entries.third: unknown key 'slr.s1' (did you mean 'slr.s0'?)"),
        ({"slr": {"s0": -1}}, "entries.third: slr.s0 is"),
        ({"train": {"learning": 1}}, "the trainer has no argument 'learning'"),
    ],
)
def test_what_an_entry_may_not_change_is_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    line = refusal(tmp_path, entries=with_entry(**settings))
    assert said in line and "entries.third" in line and str(tmp_path / "arena.yaml") in line


def test_a_difference_that_dense_training_has_is_not_excused_by_unequal(tmp_path: Path) -> None:
    line = refusal(tmp_path, entries=with_entry(train={"lr": 1}, dense={"lr": 1}), unequal=["third"])
    assert "dense.lr" in line and "train.lr" not in line


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unequal": ["slr"]}, "unequal names 'slr', whose trainer's arguments are those of 'base'"),
        ({"unequal": ["slrr"]}, "unequal names 'slrr', which is no entry (did you mean 'slr'?)"),
        ({"baselines": ["amm"]}, "baselines names 'amm', which is no entry (did you mean 'admm'?)"),
        ({"baselines": ["slr"]}, "baselines names 'slr', the first entry"),
        ({"seed": [0]}, "unknown key 'seed' (did you mean 'seeds'?)"),
        ({"seeds": []}, "seeds is not given"),
        ({"seeds": [0, 0]}, "seeds is [0, 0], expected different whole numbers"),
        ({"seeds": [0.5]}, "seeds is [0.5]"),
        ({"rates": [20, "20x"]}, "expected each rate once"),
        ({"rates": [0.5]}, "rates: "),
        ({"rates": ["much"]}, "rates: "),
        ({"target": {"top1": 0.9, "top5": 1}}, "target is"),
        ({"target": {"top1": "high"}}, "target is {'top1': 'high'}, expected one metric and a number"),
        ({"dense": "each"}, "dense is 'each', expected 'shared'"),
        (
            {"plots": ["rate"]},
            "plots names 'rate', expected some of rates, epochs, sweep (did you mean 'rates'?)",
        ),
        ({"task": "classfy"}, "task is 'classfy', expected one of"),
        ({"name": "../up"}, "name is '../up'"),
        ({"entries": [1]}, "entries is [1], expected a section"),
        ({"entries": {"a": {"recipe": "paper"}}}, "entries.a: expected settings with one method"),
        ({"entries": {"a": {"method": ["slr", "admm"]}}}, "expected settings with one method"),
        ({"entries": {"a/b": {"method": "slr"}}}, "entries.a/b: the label names a folder"),
        ({"entries": {"dense": {"method": "slr"}}}, "and not 'dense'"),
        ({"entries": {"a": {"method": "slrr"}}}, "method is 'slrr', expected"),
        ({"sweep_of": "slr"}, "sweep_of is 'slr' and sweep is {}"),
        ({"sweep": {"s0": [1]}}, "expected the label of an entry"),
        ({"sweep_of": "slr", "sweep": {"s1": [1]}}, "unknown hyperparameter 's1' (did you mean 's0'?)"),
        ({"sweep_of": "slr", "sweep": {"s0": ["a"]}}, "sweep.s0 is ['a'], expected different numbers"),
        ({"sweep_of": "slr", "sweep": {"s0": [-1]}}, "entries.slr s0=-1: slr.s0 is -1"),
        ({"base": {**BASE, "method": "slr"}}, "base: method is set by the study: each of 'entries' has one"),
        ({"base": {**BASE, "recipe": "paper"}}, "base: recipe is set by the study: it belongs to an entry"),
        (
            {"base": {**BASE, "min": {"top1": 0.9}}},
            "base: min.top1 is set by the study: a study is judged by",
        ),
        ({"base": {**BASE, "epoch": 3}}, "base: unknown key 'epoch' (did you mean 'epochs'?)"),
        ({"base": {"data": "digits"}}, "model is not given"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, **changes)


def test_words_override_the_base_and_are_named_when_they_are_wrong(tmp_path: Path) -> None:
    assert load(tmp_path, "epochs=3", "batch=16").base["train.batch"] == 16
    assert "command line: seed is set by the study" in refusal(tmp_path, "seed=1")
    assert "command line: epochs is 'many'" in refusal(tmp_path, "epochs=many")
    assert "is not a setting; write key=value" in refusal(tmp_path, "epochs")


def test_a_file_that_is_no_study_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected a study with seeds, rates, base, entries"):
        load_study(path)
    with pytest.raises(ConfigError, match="no such file"):
        load_study(tmp_path / "none.yaml")


def test_a_task_is_found_by_its_name() -> None:
    assert (find_task("classify").adapter, find_task("yolo").adapter) == ("timm", "ultralytics")

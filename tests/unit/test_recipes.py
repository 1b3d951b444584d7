"""Settings of the budget, of recipes and of what a trainer can serve: how they are read, and which one wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slr_det.config import RunConfig, load_config, recipes
from slr_det.errors import ConfigError

RECIPE = {
    "epochs": 30,
    "retrain_epochs": 10,
    "one_schedule": True,
    "prune": {"target_compression": "4x"},
    "slr": {"rho": 0.02},
    "train": {"lr": 0.5, "clip": 1.0},
}


@pytest.fixture(autouse=True)
def _recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "RECIPES", {"paper": {}, "short": RECIPE})
    monkeypatch.setattr("slr_det.config.load.RECIPES", recipes.RECIPES)
    monkeypatch.setattr("slr_det.config.schema.RECIPES", recipes.RECIPES)


def load(*words: str, source: Any = None, **options: Any) -> RunConfig:
    return load_config(source, ["model=m", *words], **{"trainer_keys": ("lr", "clip", "batch"), **options})


def problems_of(*words: str, **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(*words, **options)
    return list(caught.value.problems)


def test_a_recipe_stands_above_the_preset_and_below_the_file_and_the_command_line() -> None:
    preset = {"epochs": 1, "dense_epochs": 2, "train": {"lr": 0.1, "batch": 8}, "slr": {"rho": 1.0, "M": 7}}
    file = {"epochs": 3, "train": {"clip": 5.0}}
    config = load("recipe=short", "retrain_epochs=4", source=file, defaults=preset)
    assert (config.epochs, config.retrain_epochs, config.dense_epochs) == (3, 4, 2)
    assert config.train == {"lr": 0.5, "batch": 8, "clip": 5.0}
    assert (config.slr.rho, config.slr.M, config.one_schedule, config.recipe) == (0.02, 7.0, True, "short")


def test_the_recipe_is_the_last_one_that_is_named() -> None:
    assert load(source={"recipe": "short"}).epochs == 30
    assert load(defaults={"recipe": "short"}).epochs == 30
    assert load("recipe=paper", source={"recipe": "short"}).epochs == RunConfig.epochs
    assert load().recipe == "paper" and load("recipe=paper") == load()


def test_the_rate_of_a_recipe_gives_way_to_a_keep_ratio_and_replaces_the_presets() -> None:
    assert load("recipe=short").prune.target_compression == 4.0
    prune = load("recipe=short", "prune.keep=0.3").prune
    assert (prune.keep, prune.target_compression) == (0.3, None)
    prune = load("recipe=short", defaults={"prune": {"keep": 0.5}}).prune
    assert (prune.keep, prune.target_compression) == (None, 4.0)


def test_an_unknown_recipe_is_named_with_the_nearest_one() -> None:
    assert problems_of("recipe=shrot") == [
        "command line: recipe is 'shrot', expected one of paper, short (did you mean 'short'?)"
    ]
    assert "recipe is 3, expected one of paper, short" in problems_of("recipe=3")[0]


def test_what_is_wrong_in_a_recipe_is_said_of_the_recipe() -> None:
    (only,) = problems_of("recipe=short", trainer_keys=("lr",))
    assert only.startswith("recipe 'short': train.clip: the trainer has no argument 'clip' that can be set")


def test_a_recipe_goes_without_what_the_trainer_cannot_serve_and_a_user_is_told() -> None:
    unsupported = {"one_schedule": "this trainer has none; leave it out"}
    config = load("recipe=short", unsupported=unsupported)
    assert config.recipe == "short" and config.one_schedule is False and config.epochs == 30
    (said,) = problems_of("recipe=short", "one_schedule=true", unsupported=unsupported)
    assert said == "command line: one_schedule is True, but this trainer has none; leave it out"


def test_a_dumped_configuration_does_not_need_its_recipe_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load("recipe=short")
    path = config.dump(tmp_path / "config.yaml")
    monkeypatch.setitem(recipes.RECIPES, "short", {"epochs": 99, "slr": {"rho": 3.0}})
    assert load_config(path) == config


def test_settings_of_the_budget_are_checked() -> None:
    config = load("iterations_per_epoch=4", "one_schedule=true", "distill=1", "distill_temperature=1e1")
    assert (config.iterations_per_epoch, config.one_schedule) == (4, True)
    assert (config.distill, config.distill_temperature) == (1.0, 10.0)
    wrong = ["iterations_per_epoch=0", "one_schedule=1", "distill=1.5", "distill_temperature=0"]
    assert problems_of(*wrong) == [
        "command line: iterations_per_epoch is 0, expected a whole number of at least 1",
        "command line: one_schedule is 1, expected true or false",
        "command line: distill is 1.5, expected a share in [0, 1]",
        "command line: distill_temperature is 0, expected a number above 0",
    ]
    assert len(problems_of("distill=nan", "distill_temperature=inf", "iterations_per_epoch=1.5")) == 3


def test_weights_are_a_file_that_exists_or_the_published_ones(tmp_path: Path) -> None:
    file = tmp_path / "1e3"
    file.write_bytes(b"")
    assert load(f"weights={file}").weights == str(file)
    assert load("weights=pretrained").weights == "pretrained"
    assert load().weights == load(source={"weights": None}).weights == ""
    assert problems_of("weights=pretraind") == [
        "command line: weights is 'pretraind', expected an existing file, or 'pretrained' for the weights that the "
        "trainer publishes (did you mean 'pretrained'?)"
    ]
    (problem,) = problems_of("model=nowhere.th")
    assert "model is 'nowhere.th', expected an existing file" in problem


def test_every_setting_that_a_trainer_cannot_serve_is_refused_but_its_default_is_not() -> None:
    unsupported = {"distill": "use another trainer", "weights": "give model=FILE", "one_schedule": "no"}
    words = ["distill=0.5", "weights=pretrained", "one_schedule=false", "iterations_per_epoch=0"]
    assert problems_of(*words, unsupported=unsupported) == [
        "command line: iterations_per_epoch is 0, expected a whole number of at least 1",
        "command line: weights is 'pretrained', but give model=FILE",
        "command line: distill is 0.5, but use another trainer",
    ]
    assert load("distill=0", unsupported=unsupported) == load()


def test_a_configuration_of_another_task_is_refused(tmp_path: Path) -> None:
    path = load(task="classify").dump(tmp_path / "config.yaml")
    assert load_config(path, task="classify").task == "classify" and load(task="yolo").task == "yolo"
    with pytest.raises(ConfigError) as caught:
        load_config(path, task="yolo")
    assert caught.value.problems == (
        f"{path}: task is 'classify', but this is the command line for 'yolo'; use python -m slr_det.classify",
    )

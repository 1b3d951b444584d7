"""The embedded defaults and their files in configs/ are one, and the help names every setting."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from slr_det import classify, lane, pointpillars, yolo
from slr_det.config import RunConfig, load_config
from slr_det.task import Task

CONFIGS = Path(__file__).parents[2] / "configs"
TASKS = [(yolo.TASK, "shapes"), (classify.TASK, "digits"), (pointpillars.TASK, "world"), (lane.TASK, "road")]
# What this trainer refuses needs no line in its help.
UNSUPPORTED = {
    "yolo": {"weights", "iterations_per_epoch", "one_schedule", "distill", "distill_temperature"},
    "pointpillars": {"distill", "distill_temperature"},
    "lane": {"distill", "distill_temperature"},
}


@pytest.mark.parametrize(("task", "name"), TASKS, ids=lambda value: getattr(value, "name", value))
def test_the_file_holds_the_embedded_settings(task: Task, name: str) -> None:
    file = CONFIGS / task.name / f"{name}.yaml"
    preset = load_config(None, defaults=task.preset, task=task.name, scopes=task.scope_settings)
    assert load_config(file, task=task.name, scopes=task.scope_settings) == preset
    assert (preset.name, preset.task) == (name, task.name)


@pytest.mark.parametrize("task", [task for task, _ in TASKS], ids=lambda task: task.name)
def test_the_help_names_every_section_and_setting(task: Task) -> None:
    unnamed = {"task", "device", "paper", "bn_recalibrate", "train", "minimum"} | UNSUPPORTED.get(
        task.name, set()
    )
    if not task.backends:
        unnamed |= {"backend"}
    missing = {
        field.name
        for field in fields(RunConfig)
        if f" {field.name}=" not in f" {task.settings}" and f" {field.name}." not in task.settings
    }
    assert missing <= unnamed
    assert " min." in task.settings


@pytest.mark.parametrize("task", [task for task, _ in TASKS], ids=lambda task: task.name)
def test_a_task_is_shown_by_its_headline(task: Task) -> None:
    assert task.shown[0] == task.metric
    metrics = dict.fromkeys(task.shown, 0.5) | {"other": 1.0, "per_class": {}}
    assert task.scores(metrics) == ", ".join(f"{name} 0.500" for name in task.shown)
    assert task.scores({task.metric: None}) == ""

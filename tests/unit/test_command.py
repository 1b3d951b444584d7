"""The command lines are one: the same verbs and options for every task, each in its own words."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_example import make_classifier_report

from slr_det import classify, yolo
from slr_det.arguments import parse
from slr_det.command import Command, start
from slr_det.errors import ConfigError
from slr_det.report import write_report
from slr_det.task import SHARED_VERBS, Task

TASKS = [yolo.TASK, classify.TASK]


def options_of(task: Task, verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        start(task, [verb, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    return " ".join(text.split("settings (key=value", 1)[0].replace(task.module, "MODULE").split())


@pytest.mark.parametrize("verb", sorted(set(SHARED_VERBS) - {"eval"}))
def test_a_shared_verb_has_the_same_options_in_every_task(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (options_of(task, verb, capsys) for task in TASKS)
    assert first == second and len(first) > 200


def test_eval_speaks_of_the_tasks_own_metric(capsys: pytest.CaptureFixture[str]) -> None:
    assert "map50=0.35" in options_of(yolo.TASK, "eval", capsys)
    text = options_of(classify.TASK, "eval", capsys)
    assert "top1=0.9" in text and "map50" not in text and "COCO" not in text


def test_only_yolo_scores_result_files() -> None:
    assert (*SHARED_VERBS, "score", "shrink") == yolo.VERBS
    assert (*SHARED_VERBS, "shrink") == classify.VERBS


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_examples_of_the_help_are_understood(task: Task) -> None:
    lines = [line.strip() for line in task.epilog.splitlines() if line.startswith(f"  {task.module}")]
    assert len(lines) >= 6
    for line in lines:
        words = line.removeprefix(task.module).split()
        verb = words if words and words[0] in task.verbs else ["compress", *words]
        assert parse(task, verb).verb in task.verbs


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_an_interrupt_before_anything_started_says_so(task: Task) -> None:
    command = Command(task, parse(task, ["compress", "model=a"]), ["model=a"])
    assert command.interrupted() == "interrupted; nothing was started"
    assert command.line == f"{task.module} model=a"


def test_a_report_is_shown_without_any_trainer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(tmp_path, make_classifier_report())
    assert classify.main(["report", str(tmp_path)]) == 0
    assert "top-1 accuracy" in capsys.readouterr().out
    assert classify.main(["report", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_an_unknown_option_ends_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        classify.main(["--compresion", "2x", "model=a"])
    assert stop.value.code == 2
    assert "settings are written key=value" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "key"), [("train", "dense_epochs"), ("retrain", "retrain_epochs"), ("compress", "epochs")]
)
def test_epochs_are_those_of_the_verb_however_they_are_given(verb: str, key: str) -> None:
    model = ["model=digits_cnn", "data=digits"]
    for said in (["epochs=7"], ["--epochs", "7"]):
        command = Command(classify.TASK, parse(classify.TASK, [verb, *model, *said]), model)
        assert command._config().to_dict()[key] == 7


def test_training_for_no_epochs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert classify.main(["train", "model=digits_cnn", "data=digits", f"project={tmp_path}"]) == 2
    assert capsys.readouterr().err == "error: nothing says how long to train; give --epochs N\n"
    assert not list(tmp_path.iterdir())


def test_retraining_alone_goes_without_the_recipes_teacher(tmp_path: Path) -> None:
    """The recommended recipe distils from the dense model, which a pruned checkpoint does not bring."""
    settings = ["model=digits_cnn", "data=digits", "recipe=recommended"]
    for verb, share in (("compress", 0.9), ("retrain", 0.0)):
        command = Command(classify.TASK, parse(classify.TASK, [verb, *settings]), settings)
        assert command._config().distill == share
    asked = [*settings, "distill=0.5"]
    command = Command(classify.TASK, parse(classify.TASK, ["retrain", *asked]), asked)
    with pytest.raises(ConfigError, match="distill is 0.5, but `retrain` has no dense model to learn from"):
        command._config()

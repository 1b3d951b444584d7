"""The command lines are one: the same verbs and options for every task, each in its own words."""

from __future__ import annotations

import re
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
    said = " ".join(text.split("settings (key=value", 1)[0].replace(task.module, "MODULE").split())
    # A task of several backends has an option to choose among them.
    return re.sub(
        r" \[--backend \{\S+\}\]| --backend \{\S+\} whose trainer; default: the first of these", "", said
    )


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


@pytest.mark.parametrize(
    ("task", "backend", "word", "said"),
    [
        (classify.TASK, "", "lr=-3", "lr is -3, expected a number above 0"),
        (classify.TASK, "", "retrain.batch=0", "batch is 0, expected at least 1"),
        (yolo.TASK, "ultralytics", "lr0=1e12", "Valid 'lr0' values are between 0.0 and 1.0."),
        (yolo.TASK, "ultralytics", "retrain.imgsz=big", "imgsz is 'big', expected a whole number"),
        (yolo.TASK, "ultralytics", "dense.optimizer=sdg", "optimizer is 'sdg', expected one of auto, SGD"),
        (yolo.TASK, "yolov3", "retrain.lr0=-1", "lr0 is -1, expected a number of at least 0"),
    ],
)
def test_values_that_the_trainer_refuses_are_refused_before_anything_is_done(
    task: Task,
    backend: str,
    word: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of retraining too: it would come to them after everything else."""
    monkeypatch.setenv("SLR_DET_YOLOV3", str(tmp_path))
    words = ["model=any.yaml", "dense_epochs=1", "data=any", f"project={tmp_path}", word]
    assert start(task, [*words, *(["--backend", backend] if backend else [])]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and re.search(said, error), error
    assert not list(tmp_path.iterdir())

"""What each phase asks of the trainer: schedules that add up, iterations, weights, a teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slr_det.adapter import EngineSpec, TrainJob
from slr_det.config import RunConfig
from slr_det.errors import CheckpointError, ConfigError
from slr_det.groups import GroupSpec
from slr_det.jobs import WHOLE, Jobs
from slr_det.projections import Projection
from slr_det.runstate import RunState, fingerprint_of
from slr_det_adapters.ultralytics import adapter as ultralytics

GROUPS = [GroupSpec("conv", ("conv.weight",), 0.25, Projection.parse("2:4"))]
DENSE = Path("run") / "dense.pt"


def jobs(**settings: Any) -> Jobs:
    settings = {"model": "net", "epochs": 9, "retrain_epochs": 3, "dense_epochs": 5, **settings}
    return Jobs(RunConfig(**settings), Path("data.yaml"))


def under_the_method(made: Jobs) -> TrainJob:
    return made.method(Path("run/slr/train"), "slr", DENSE, GROUPS)


def retraining(made: Jobs, dense: Path | None = DENSE) -> TrainJob:
    return made.retraining(Path("run/slr/retrain"), "masked retraining", "run/slr/hard_pruned.pt", dense)


def test_by_default_every_phase_has_a_schedule_of_its_own() -> None:
    made = jobs()
    for job in (made.dense(Path("run/dense")), under_the_method(made), retraining(made)):
        assert (job.schedule, job.teacher, job.distill, job.iterations_per_epoch) == (WHOLE, "", 0.0, 1)


@pytest.mark.parametrize(
    ("epochs", "retrain", "border"), [(9, 3, 0.75), (7, 3, 0.7), (1, 0, 1.0), (50, 150, 0.25)]
)
def test_one_schedule_is_cut_where_the_method_ends(epochs: int, retrain: int, border: float) -> None:
    made = jobs(epochs=epochs, retrain_epochs=retrain, one_schedule=True)
    assert under_the_method(made).schedule == (0.0, pytest.approx(border))
    assert retraining(made).schedule == (pytest.approx(border), 1.0)
    assert under_the_method(made).schedule[1] == retraining(made).schedule[0]
    assert made.dense(Path("run/dense")).schedule == WHOLE  # before the budget that methods share
    assert retraining(made, None).schedule == WHOLE  # a pruned file retrained alone has no first part


def test_iterations_are_those_of_all_epochs() -> None:
    job = under_the_method(jobs(iterations_per_epoch=4))
    assert job.engine is not None
    assert (job.epochs, job.iterations_per_epoch, job.engine.iterations) == (9, 4, 36)
    assert (job.model, job.engine.groups) == (str(DENSE), tuple(GROUPS))
    assert retraining(jobs(iterations_per_epoch=4)).iterations_per_epoch == 1


def test_given_weights_are_for_dense_training_and_the_teacher_for_what_follows() -> None:
    made = jobs(weights="net.th", distill=0.4, distill_temperature=3.0, train={"lr": 1}, dense={"lr": 2})
    dense = made.dense(Path("run/dense"))
    assert (dense.model, dense.weights, dense.teacher, dense.distill) == ("net", "net.th", "", 0.0)
    assert dense.args == {"lr": 2}
    for job in (under_the_method(made), retraining(made)):
        assert (job.weights, job.teacher, job.distill, job.temperature) == ("", str(DENSE), 0.4, 3.0)
        assert job.args == {"lr": 1}
    with pytest.raises(ConfigError, match=r"distill=0.4 needs the dense model"):
        retraining(made, None)


def test_a_job_survives_json() -> None:
    job = under_the_method(jobs(one_schedule=True, distill=0.5, iterations_per_epoch=2))
    again = TrainJob.from_dict(json.loads(json.dumps(job.to_dict())))
    assert again == job and isinstance(again.engine, EngineSpec)


def test_ultralytics_refuses_what_it_would_ignore(tmp_path: Path) -> None:
    made = jobs(iterations_per_epoch=2, one_schedule=True, distill=0.5)
    with pytest.raises(ConfigError) as caught:
        ultralytics.train(under_the_method(made), resume=False)
    named = [problem.partition(":")[0] for problem in caught.value.problems]
    assert named == ["iterations_per_epoch", "one_schedule", "distill"]
    assert set(named) < set(ultralytics.unsupported())
    with pytest.raises(ConfigError, match="weights=w.th: an ultralytics checkpoint brings its own"):
        ultralytics.given("a.yaml", "w.th", tmp_path, tmp_path / "start.pt")
    with pytest.raises(ConfigError, match="model=a.yaml is an architecture without weights.*dense_epochs=N"):
        ultralytics.given("a.yaml", "", tmp_path, tmp_path / "start.pt")
    assert ultralytics.given("a.pt", "", tmp_path, tmp_path / "start.pt") == "a.pt"
    assert ultralytics.last("run/train") == str(Path("run/train/weights/last.pt"))


def test_a_run_goes_on_only_from_the_files_it_was_started_from(tmp_path: Path) -> None:
    weights, model = tmp_path / "net.th", tmp_path / "net.pt"
    weights.write_bytes(b"one")
    model.write_bytes(b"two")
    for config, file in (
        (RunConfig(model="net", weights=str(weights)), weights),
        (RunConfig(model=str(model)), model),
    ):
        folder = tmp_path / f"run-{file.suffix[1:]}"
        folder.mkdir()
        RunState.create(folder, config, "compress")
        state = RunState.open(folder)
        state.check_start(config)
        before = file.read_bytes()
        file.write_bytes(b"other")
        with pytest.raises(CheckpointError, match=r"its content has changed"):
            state.check_start(config)
        file.write_bytes(before)
        state.check_start(config)
    assert fingerprint_of("net", "pretrained") == fingerprint_of("net", "") == ""
    assert len(fingerprint_of(str(model))) == 64  # as runs of versions without weights have it
    assert (
        len({fingerprint_of(str(a), str(b)) for a, b in ((model, weights), (weights, model), (model, "x"))})
        == 3
    )

"""Phases of the PointPillars trainer: what each argument does, resuming to the same bits, and bad numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slr_det.adapter import EngineSpec, EvalJob, TrainJob
from slr_det.allocation import allocate
from slr_det.errors import NumericsError

pytest.importorskip("mmengine", reason='needs the pointpillars extra: uv pip install "slr-det[pointpillars]"')

from pointpillars_runs import DENSE_EPOCHS, FULL, NETWORK, PLAIN, make_world, weights

from slr_det_adapters.mmengine.checkpoint_hook import SafeCheckpointHook
from slr_det_adapters.mmengine.checkpoints import last_checkpoint, read_checkpoint
from slr_det_adapters.pointpillars import PointPillarsAdapter, checkpoints

ADAPTER = PointPillarsAdapter()
LEVELS = ("easy", "moderate", "hard")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The objects to paste are collected in a folder of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLR_DET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def dense(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    (folder / "tiny.yaml").write_text(NETWORK)
    args = {**PLAIN, "val_every": 0}
    job = TrainJob(
        str(folder / "tiny.yaml"), str(world), str(folder / "train"), DENSE_EPOCHS, args, device="cpu"
    )
    assert ADAPTER.train(job, resume=False) == []
    ADAPTER.export(ADAPTER.last(job.folder), folder / "dense.pt", job)
    return folder / "dense.pt"


@pytest.fixture
def make_job(dense: Path, world: Path) -> Callable[..., TrainJob]:
    """A phase under a method that keeps half of the body of the dense model."""

    def make(folder: Path, method: str = "slr", epochs: int = 1, per_epoch: int = 1, **args: Any) -> TrainJob:
        info = ADAPTER.inspect(str(dense))
        groups = tuple(allocate(info.layers, keep=0.5, model_parameters=info.parameters).specs())
        engine = EngineSpec(method, epochs * per_epoch, groups, {})
        return TrainJob(
            str(dense),
            str(world),
            str(folder),
            epochs,
            {**PLAIN, **args},
            engine,
            device="cpu",
            iterations_per_epoch=per_epoch,
        )

    return make


def trained(job: TrainJob) -> dict[str, torch.Tensor]:
    """Train a phase and return what it ends in, batch-norm statistics included."""
    ADAPTER.train(job, resume=False)
    state = checkpoints.read(ADAPTER.last(job.folder)).state_dict()
    del state["global_step"]
    return state


def test_the_score_in_training_is_that_of_the_hard_pruned_model(
    make_job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    job = make_job(tmp_path / "train", epochs=2, per_epoch=2)
    history = ADAPTER.train(job, resume=False)
    assert [(record["epoch"], bool(record.get("metric"))) for record in history] == [
        (1, False),
        (1, True),
        (2, False),
        (2, True),
    ]
    last = history[-1]["metric"]
    assert last["moderate"] > 0.01, "a score of nothing would agree with any other"
    assert job.engine is not None
    source = ADAPTER.last(job.folder)
    named = dict(checkpoints.read(source).named_parameters())
    job.engine.build(named).hard_prune()
    ADAPTER.export(source, tmp_path / "pruned.pt", job, named)
    found = ADAPTER.evaluate(EvalJob(str(tmp_path / "pruned.pt"), job.data, job.args, "cpu"))
    assert {key: found[key] for key in last} == pytest.approx(last, abs=1e-3)


def test_an_epoch_of_few_steps_has_as_many_iterations_as_steps(
    make_job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    """The recommended recipe ends four iterations in an epoch, and a few frames make fewer batches than that."""
    history = ADAPTER.train(make_job(tmp_path / "train", epochs=2, per_epoch=6), resume=False)
    assert [record["iteration"] for record in history] == list(range(1, 9))
    log = (tmp_path / "train" / "train.log").read_text()
    assert "iterations_per_epoch=6 is more than the steps of an epoch, 4" in log


def test_the_score_of_an_epoch_is_taken_on_as_many_frames_as_asked(
    make_job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    """Of frames 0 to 5 two are chosen: the first and the last."""
    job = make_job(tmp_path / "train", epoch_val_frames=2, lr=1e-9, clip=1e-9, bn_momentum=1e-9)
    job = replace(job, engine=None)
    (record,) = ADAPTER.train(job, resume=False)
    few = tmp_path / "data.yaml"
    root = tmp_path / "data"
    root.mkdir()
    (root / "training").symlink_to(Path(job.data) / "training")
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "val.txt").write_text("000000\n000005\n")
    few.write_text(f"path: {root}\n")
    found = ADAPTER.evaluate(EvalJob(job.model, str(few), job.args, "cpu"))
    assert found["frames"] == 2 and found["moderate"] > 0.01
    assert {key: found[key] for key in record["metric"]} == pytest.approx(record["metric"], abs=1e-3)


def test_each_argument_changes_what_is_trained(make_job: Callable[..., TrainJob], tmp_path: Path) -> None:
    """Against the same phase without it; an argument that is ignored would give the same bits."""
    few = {"train_frames": 4, "val_every": 0}
    plain = trained(make_job(tmp_path / "plain", **few))
    again = trained(make_job(tmp_path / "again", **few))
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    changes: dict[str, dict[str, Any]] = {
        "train_frames": {"train_frames": 2},
        "batch": {"batch": 4},
        "accumulate": {"accumulate": 2},
        "clip": {"clip": 0.01},
        "ema": {"ema": 0.9},
        "amp": {"amp": "bf16"},
        "weight_decay": {"weight_decay": 0.5},
        "warmup_epochs": {"warmup_epochs": 1.0},
        "schedule": {"schedule": "constant"},
        "optimizer": {"optimizer": "sgd", "lr": 0.001},
        "paste": {"paste": 2},
        "flip": {"flip": True},
        "rotation": {"rotation": 45.0},
        "scaling": {"scaling": 0.1},
        "camera_only": {"camera_only": False},
        "bn_momentum": {"bn_momentum": 0.5},
    }
    for name, change in changes.items():
        other = trained(make_job(tmp_path / name, **{**few, **change}))
        assert all(torch.isfinite(value).all() for value in other.values()), name
        assert not all(torch.equal(plain[key], other[key]) for key in plain), name


class Lost(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("method", ["slr", None])
def test_a_stopped_phase_ends_in_the_same_bits(
    method: str | None,
    make_job: Callable[..., TrainJob],
    tmp_path: Path,
    dense: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With every variation of the frames, an average and accumulation; under a method and in masked retraining."""
    start = tmp_path / "start.pt"
    pruned = {k: v * (v.abs() > 0.05) if v.dim() > 1 else v for k, v in ADAPTER.averaged(str(dense)).items()}
    ADAPTER.export(str(dense), start, make_job(tmp_path), pruned)

    def job(folder: Path) -> TrainJob:
        made = make_job(folder, epochs=3, per_epoch=2, **FULL)
        if method is not None:
            return made
        return replace(made, engine=None, keep_zeros=True, model=str(start), iterations_per_epoch=1)

    whole = job(tmp_path / "whole")
    history = ADAPTER.train(whole, resume=False)

    # The process is lost in the second epoch, after its last step and before its checkpoint.
    stopped = job(tmp_path / "stopped")
    save = SafeCheckpointHook.after_train_epoch

    def lose(hook: Any, runner: Any) -> None:
        if runner.epoch + 1 == 2:
            raise Lost
        save(hook, runner)

    monkeypatch.setattr(SafeCheckpointHook, "after_train_epoch", lose)
    with pytest.raises(Lost):
        ADAPTER.train(stopped, resume=True)
    monkeypatch.undo()
    again = ADAPTER.train(stopped, resume=True)
    untimed = [
        [{k: v for k, v in record.items() if k != "seconds"} for record in h] for h in (history, again)
    ]
    assert untimed[0] == untimed[1]
    one, other = (read_checkpoint(ADAPTER.last(made.folder)) for made in (whole, stopped))
    for part in ("state_dict", "ema_state_dict"):
        different = [key for key, value in one[part].items() if not torch.equal(value, other[part][key])]
        assert not different, (part, different[:3])
    if method is None:
        for name, value in checkpoints.read(ADAPTER.last(stopped.folder)).named_parameters():
            assert not value[pruned[name] == 0].any(), name


def test_bad_numbers_end_the_phase_and_leave_the_last_checkpoint(
    make_job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    plain = {"optimizer": "sgd", "lr": 1e-3, "clip": 0.0, "val_every": 0}
    job = replace(make_job(tmp_path / "dense", **plain), engine=None)
    ADAPTER.train(job, resume=False)
    kept = Path(ADAPTER.last(job.folder)).read_bytes()
    hot = {**plain, "lr": 1e30}
    for bad in (make_job(tmp_path / "slr", **hot), replace(job, epochs=2, args={**job.args, **hot})):
        with pytest.raises(NumericsError, match="learning rate") as caught:
            ADAPTER.train(bad, resume=True)
        assert "\n" not in str(caught.value)
    assert last_checkpoint(tmp_path / "slr") is None
    assert Path(ADAPTER.last(job.folder)).read_bytes() == kept


def test_recalibration_moves_statistics_alone_and_is_the_same_each_time(
    dense: Path, world: Path, tmp_path: Path
) -> None:
    args = {**PLAIN, "paste": 2, "rotation": 30, "recalibration_frames": 5}
    job = TrainJob(str(dense), str(world), "", 1, args, device="cpu")
    for name in ("one", "other"):
        torch.rand(3)
        ADAPTER.recalibrate(str(dense), tmp_path / f"{name}.pt", job)
    before, one, other = weights(dense), weights(tmp_path / "one.pt"), weights(tmp_path / "other.pt")
    for name, value in before.items():
        assert torch.equal(one[name], other[name]), name
        if "num_batches" not in name:
            assert torch.equal(one[name], value) is ("running" not in name), name


def test_pictures_have_the_frames_with_the_most_objects_and_a_panel_per_model(
    dense: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, int, set[str]]] = []

    def draw(points: Any, truths: Any, found: Any, classes: Any, path: Path, *, area: Any) -> None:
        assert classes == ("Car", "Pedestrian", "Cyclist") and area == (0.0, -10.24, 20.48, 10.24)
        inside = (truths[:, 0] > 0) & (truths[:, 0] < 20.48) & (truths[:, 1].abs() < 10.24)
        drawn.append((path.name, int(inside.sum()), set(found)))
        assert all(len(boxes) == len(scores) == len(labels) for boxes, scores, labels in found.values())

    monkeypatch.setattr("slr_det_adapters.pointpillars.pictures.draw_scan", draw)
    models = {"dense": str(dense), "slr": str(dense)}
    pictures = ADAPTER.illustrate(models, EvalJob(str(dense), str(world), PLAIN, "cpu"), tmp_path)
    assert [picture.file for picture in pictures] == [name for name, _, _ in drawn] and len(drawn) == 2
    assert all(names == {"dense", "slr"} for _, _, names in drawn)
    assert drawn[0][1] >= drawn[1][1] > 0

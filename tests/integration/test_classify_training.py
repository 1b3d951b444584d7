"""Phases of the classifier trainer: what each argument does, resuming to the same bits, and bad numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slr_det.adapter import EngineSpec, EvalJob, TrainJob
from slr_det.allocation import allocate
from slr_det.errors import CheckpointError, NumericsError

pytest.importorskip("timm", reason='needs the classify extra: uv pip install "slr-det[classify]"')

from classify_runs import weights

from slr_det_adapters.mmengine.checkpoint_hook import SafeCheckpointHook
from slr_det_adapters.mmengine.checkpoints import last_checkpoint, read_checkpoint
from slr_det_adapters.timm import ClassifierAdapter, checkpoints

ADAPTER = ClassifierAdapter()
ARGUMENTS = {"train_images": 300, "val_images": 100, "batch": 50, "lr": 0.05, "pad": 1, "flip": False}
# Everything whose state a resume has to carry.
FULL = {"optimizer": "adam", "lr": 0.005, "ema": 0.9, "accumulate": 2, "clip": 1.0, "label_smoothing": 0.1}
FULL |= {"warmup_epochs": 0.5}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    job = TrainJob("digits_cnn", "digits", str(folder / "train"), 6, {**ARGUMENTS, "lr": 0.1}, device="cpu")
    ADAPTER.train(job, resume=False)
    ADAPTER.export(ADAPTER.last(job.folder), folder / "dense.pt", job)
    return folder / "dense.pt"


@pytest.fixture
def make_job(dense: Path) -> Callable[..., TrainJob]:
    """A phase under a method that keeps a tenth of the body of the dense model."""

    def make(folder: Path, method: str = "slr", epochs: int = 2, per_epoch: int = 1, **args: Any) -> TrainJob:
        info = ADAPTER.inspect(str(dense))
        groups = tuple(allocate(info.layers, keep=0.1, model_parameters=info.parameters).specs())
        engine = EngineSpec(method, epochs * per_epoch, groups, {})
        return TrainJob(
            str(dense),
            "digits",
            str(folder),
            epochs,
            {**ARGUMENTS, **args},
            engine,
            device="cpu",
            iterations_per_epoch=per_epoch,
        )

    return make


def trained(job: TrainJob) -> dict[str, torch.Tensor]:
    """Train a phase and return what it ends in."""
    ADAPTER.train(job, resume=False)
    return ADAPTER.averaged(ADAPTER.last(job.folder))


def test_the_history_has_the_score_of_each_epochs_end(
    make_job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    history = ADAPTER.train(make_job(tmp_path, per_epoch=3), resume=False)
    assert [record["iteration"] for record in history] == [1, 2, 3, 4, 5, 6]
    assert [record["epoch"] for record in history] == [1, 1, 1, 2, 2, 2]
    assert [record["iteration"] for record in history if record.get("metric")] == [3, 6]
    assert set(history[-1]["metric"]) == {"top1", "top5", "loss"}


def test_the_score_in_training_is_that_of_the_hard_pruned_model(
    make_job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    job = make_job(tmp_path / "train")
    last = ADAPTER.train(job, resume=False)[-1]["metric"]
    assert job.engine is not None
    source = ADAPTER.last(job.folder)
    named = dict(checkpoints.read(source)[0].named_parameters())
    job.engine.build(named).hard_prune()
    ADAPTER.export(source, tmp_path / "pruned.pt", job, named)
    found = ADAPTER.evaluate(EvalJob(str(tmp_path / "pruned.pt"), "digits", job.args, "cpu"))
    assert {key: found[key] for key in ("top1", "top5")} == {key: last[key] for key in ("top1", "top5")}
    assert found["loss"] == pytest.approx(last["loss"], rel=1e-5)


def test_without_validation_there_are_no_scores(make_job: Callable[..., TrainJob], tmp_path: Path) -> None:
    history = ADAPTER.train(make_job(tmp_path, val_every=0), resume=False)
    assert len(history) == 2 and not any("metric" in record for record in history)


def test_each_argument_changes_what_is_trained(make_job: Callable[..., TrainJob], tmp_path: Path) -> None:
    """Against the same phase without it; an argument that is ignored would give the same bits."""
    plain = trained(make_job(tmp_path / "plain", epochs=1))
    again = trained(make_job(tmp_path / "again", epochs=1))
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    changes: dict[str, dict[str, Any]] = {
        "accumulate": {"accumulate": 2},
        "clip": {"clip": 0.01},
        "label_smoothing": {"label_smoothing": 0.1},
        "ema": {"ema": 0.9},
        "amp": {"amp": "bf16"},
        "nesterov": {"nesterov": True},
        "momentum": {"momentum": 0.5},
        "weight_decay": {"weight_decay": 0.1},
        "warmup_epochs": {"warmup_epochs": 1.0},
        "schedule": {"schedule": "step"},
        "augment": {"augment": "none"},
        "pad": {"pad": 2},
        "flip": {"flip": True},
        "size": {"size": 10},  # pooled twice, it gives the output layer as many inputs as 8 does
        "optimizer": {"optimizer": "rmsprop", "lr": 0.001},
    }
    for name, change in changes.items():
        other = trained(make_job(tmp_path / name, epochs=1, **change))
        assert not all(torch.equal(plain[key], other[key]) for key in plain), name


def test_the_average_is_the_average(make_job: Callable[..., TrainJob], tmp_path: Path) -> None:
    """It starts as the weights W1 after the first step; the second step to W2 leaves d W1 + (1 - d) W2."""
    given = {"train_images": 50, "val_every": 0, "schedule": "constant"}  # one step an epoch

    def after(epochs: int, **more: Any) -> dict[str, torch.Tensor]:
        job = make_job(tmp_path / f"{epochs}{more}", epochs=epochs, **given, **more)
        return trained(replace(job, engine=None))

    first, second, averaged = after(1), after(2), after(2, ema=0.75)
    for name in first:
        assert torch.allclose(averaged[name], 0.75 * first[name] + 0.25 * second[name], atol=1e-6), name


def test_distillation_follows_its_formula(dense: Path) -> None:
    from torch.nn.functional import cross_entropy, softmax

    from slr_det_adapters.timm.trainable import Trainable

    teacher, card = checkpoints.read(str(dense))
    torch.manual_seed(0)
    net = checkpoints.build("digits_cnn", 10, 1).eval()
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    labels = torch.arange(6)
    model = Trainable(net, card, channels_last=False, teacher=teacher, share=0.3, temperature=4.0).eval()
    loss = model(images, labels)["loss"]
    inputs = (images / 255 - card.mean[0]) / card.std[0]
    student, wanted = net(inputs), teacher(inputs)
    p, q = softmax(wanted / 4, 1), softmax(student / 4, 1)
    soft = (p * (p.log() - q.log())).sum(1).mean()
    assert torch.allclose(loss, 0.7 * cross_entropy(student, labels) + 0.3 * 16 * soft, rtol=1e-4)
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert not [name for name, _ in model.named_parameters() if not name.startswith("net.")]


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
    """With teacher, average, accumulation, clipping, smoothing and Adam; under a method and in masked retraining."""
    start = tmp_path / "start.pt"
    pruned = {k: v * (v.abs() > 0.05) if v.dim() > 1 else v for k, v in ADAPTER.averaged(str(dense)).items()}
    ADAPTER.export(str(dense), start, make_job(tmp_path), pruned)

    def job(folder: Path) -> TrainJob:
        made = replace(make_job(folder, epochs=3, per_epoch=2, **FULL), teacher=str(dense), distill=0.5)
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


def test_bad_numbers_end_the_phase_and_leave_the_last_checkpoint(
    make_job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    job = replace(make_job(tmp_path / "dense", epochs=1), engine=None)
    ADAPTER.train(job, resume=False)
    kept = Path(ADAPTER.last(job.folder)).read_bytes()
    hot = {"lr": 1e6, "val_every": 0}
    for bad in (make_job(tmp_path / "slr", **hot), replace(job, epochs=2, args={**job.args, **hot})):
        with pytest.raises(NumericsError, match="learning rate") as caught:
            ADAPTER.train(bad, resume=True)
        assert "\n" not in str(caught.value)
    assert last_checkpoint(tmp_path / "slr") is None
    assert Path(ADAPTER.last(job.folder)).read_bytes() == kept


def test_a_finished_phase_is_not_trained_again_and_a_longer_one_is_refused(
    make_job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    job = make_job(tmp_path)
    history = ADAPTER.train(job, resume=False)
    before = Path(ADAPTER.last(job.folder)).read_bytes()
    assert ADAPTER.train(job, resume=True) == history
    assert Path(ADAPTER.last(job.folder)).read_bytes() == before
    with pytest.raises(CheckpointError, match="holds 2 epochs already, more than 1"):
        ADAPTER.train(replace(job, epochs=1), resume=True)


def test_recalibration_moves_statistics_alone_and_is_the_same_each_time(dense: Path, tmp_path: Path) -> None:
    job = TrainJob(str(dense), "digits", "", 1, {**ARGUMENTS, "recalibration_images": 150}, device="cpu")
    for name in ("one", "other"):
        torch.rand(3)
        ADAPTER.recalibrate(str(dense), tmp_path / f"{name}.pt", job)
    before, one, other = weights(dense), weights(tmp_path / "one.pt"), weights(tmp_path / "other.pt")
    for name, value in before.items():
        assert torch.equal(one[name], other[name])
        assert torch.equal(one[name], value) is ("running" not in name and "num_batches" not in name), name

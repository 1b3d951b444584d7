"""The engine inside the real ultralytics trainer: scale, masks, state, native files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slr_det import masks
from slr_det.adapter import EvalJob, TrainJob, load_adapter
from slr_det.errors import CheckpointError, NumericsError, StorageError
from slr_det.groups import build_groups

Make = Callable[..., TrainJob]


def last(job: TrainJob) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(
        Path(job.folder) / "weights" / "last.pt", map_location="cpu", weights_only=False
    )
    return checkpoint


def same(a: Any, b: Any, path: str = "") -> None:
    """Fail with the path of the first difference between two nested states, bit for bit."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), f"{path}: max difference {(a - b).abs().max()}"
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            if key != "seconds":
                same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}/{i}")
    else:
        assert a == b or (a != a and b != b), f"{path}: {a} != {b}"


@pytest.mark.parametrize("method", ["slr", "admm", "penalty", "gradual", "oneshot"])
def test_every_method_trains_and_its_record_is_complete(make_job: Make, tmp_path: Path, method: str) -> None:
    job = make_job(tmp_path / "train", method)
    history = load_adapter("ultralytics").train(job, resume=False)
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert all({"map50", "map"} == record["metric"].keys() for record in history)
    assert all(record["method"] == method for record in history)
    distances = [record["distance"] for record in history]
    if method == "oneshot":
        assert distances == [0.0, 0.0, 0.0]
    if method == "penalty":
        assert distances[2] < distances[0], "the penalty pulls W towards Z"


@pytest.mark.parametrize("method", ["slr", "gradual"])
def test_a_resumed_run_ends_in_the_same_bits(
    make_job: Make, tmp_path: Path, method: str, monkeypatch: Any
) -> None:
    from slr_det_adapters.ultralytics.trainer import SLRDetectionTrainer

    adapter = load_adapter("ultralytics")
    whole = make_job(tmp_path / "whole", method, epochs=4)
    adapter.train(whole, resume=False)

    stopped = make_job(tmp_path / "stopped", method, epochs=4)
    original = SLRDetectionTrainer._on_train_batch_start

    def stop_in_the_third_epoch(self: Any) -> None:
        original(self)
        if self.epoch == 2 and self._batch_index == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(SLRDetectionTrainer, "_on_train_batch_start", stop_in_the_third_epoch)
    with pytest.raises(KeyboardInterrupt):
        adapter.train(stopped, resume=False)
    monkeypatch.setattr(SLRDetectionTrainer, "_on_train_batch_start", original)
    assert last(stopped)["epoch"] == 1
    adapter.train(stopped, resume=True)
    same(last(whole)["slr_det"], last(stopped)["slr_det"])


def test_masked_retraining_keeps_every_zero(make_job: Make, tmp_path: Path) -> None:
    adapter = load_adapter("ultralytics")
    job = make_job(tmp_path / "train", "oneshot", epochs=1)
    adapter.train(job, resume=False)
    pruned = tmp_path / "pruned.pt"
    adapter.export(str(Path(job.folder) / "weights" / "last.pt"), pruned, job)
    before = adapter.averaged(str(pruned))
    zeros = {name: w == 0 for name, w in before.items() if w.ndim > 1 and bool((w == 0).any())}
    assert sum(int(z.sum()) for z in zeros.values()) > 10_000

    retrain = make_job(tmp_path / "retrain", None, epochs=2, keep_zeros=True, args={"weight_decay": 0.01})
    retrain = replace(retrain, model=str(pruned))
    adapter.train(retrain, resume=False)
    state = last(retrain)["slr_det"]
    for copy in (state["model"], state["ema"]):
        for name, zero in zeros.items():
            assert not copy[name][zero].any(), name
    assert any(not torch.equal(state["model"][n], before[n]) for n in zeros), "the kept weights did train"


@pytest.mark.parametrize(("batch", "nbs"), [(4, 4), (8, 8), (4, 8)])
def test_penalty_keeps_its_ratio_to_the_loss_per_image(
    make_job: Make, tmp_path: Path, monkeypatch: Any, batch: int, nbs: int
) -> None:
    """One optimizer step sees images x (Lam + rho (W - Z)), however the images are split into batches."""
    from slr_det_adapters.ultralytics import trainer as module

    seen: list[tuple[float, int]] = []

    def step(self: Any) -> None:
        images = min(nbs, 20 - nbs * len(seen))
        if self.epoch == 0 and len(seen) < 2:
            for group in self.engine.groups:
                for name, p in group.params:
                    gradient = p.grad.clone()
                    expected = images * 1e6 * (p.detach() - self.engine.state.z[name])
                    # The task's gradient is at most a few hundred; the penalty's is made dominant by rho = 1e6.
                    seen.append(((gradient - expected).norm().item() / expected.norm().item(), images))
                    break
                break
        self.optimizer.zero_grad()
        self._last_step = self._batch_index

    monkeypatch.setattr(module.SLRDetectionTrainer, "optimizer_step", step)
    monkeypatch.setattr(module.SLRDetectionTrainer, "save_model", lambda self: False)
    job = make_job(
        tmp_path / "t",
        "penalty",
        1,
        hyper={"rho": 1e6},
        args={"batch": batch, "nbs": nbs, "warmup_epochs": 0},
    )
    with pytest.raises(CheckpointError, match="stopped before"):
        load_adapter("ultralytics").train(job, resume=False)
    assert seen and all(error < 1e-3 for error, _ in seen), seen


def test_a_pruned_file_is_native(make_job: Make, tmp_path: Path, tiny_data: Path) -> None:
    """Plain ultralytics, with slr_det unimportable, gives the reported mAP and can train on from the file."""
    adapter = load_adapter("ultralytics")
    # Gentle enough that the model still detects something: a score of zero would prove nothing.
    job = make_job(tmp_path / "train", "slr", epochs=2, keep=0.9, args={"lr0": 1e-5, "warmup_epochs": 0})
    adapter.train(job, resume=False)
    source = str(Path(job.folder) / "weights" / "last.pt")
    weights = adapter.averaged(source)
    assert job.engine is not None
    supports = masks.supports(build_groups(weights, job.engine.groups))
    pruned = tmp_path / "pruned.pt"
    adapter.export(source, pruned, job, {name: weights[name] * mask for name, mask in supports.items()})
    for name, w in adapter.averaged(str(pruned)).items():
        if name in supports:
            assert not w[~supports[name]].any(), name

    checkpoint = torch.load(pruned, weights_only=False)
    assert checkpoint["ema"] is None and checkpoint["optimizer"] is None
    assert all(p.dtype == torch.float16 for p in checkpoint["model"].parameters())

    reported = adapter.evaluate(EvalJob(str(pruned), str(tiny_data), {"imgsz": 64}, "cpu"))
    script = (
        "import sys; sys.modules['slr_det'] = sys.modules['slr_det_adapters'] = None\n"
        "from ultralytics import YOLO\n"
        f"m = YOLO({str(pruned)!r}).val(device='cpu', plots=False, project={str(tmp_path)!r})\n"
        "print('MAP', repr(float(m.box.map50)), repr(float(m.box.map)))\n"
        f"YOLO({str(pruned)!r}).train(data={str(tiny_data)!r}, epochs=1, imgsz=64, batch=8, device='cpu', "
        f"plots=False, project={str(tmp_path)!r}, name='on')\n"
        "print('TRAINED')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert "TRAINED" in done.stdout, done.stderr[-2000:]
    values = next(line for line in done.stdout.splitlines() if line.startswith("MAP")).split()[1:]
    assert reported["trainer_map50"] > 0.001
    assert [float(v) for v in values] == [reported["trainer_map50"], reported["trainer_map"]]


def test_a_nan_weight_stops_the_run_and_names_it(make_job: Make, tmp_path: Path, monkeypatch: Any) -> None:
    from slr_det_adapters.ultralytics.trainer import SLRDetectionTrainer

    original = SLRDetectionTrainer._on_train_epoch_end

    def poison(self: Any) -> None:
        if self.epoch == 1:
            with torch.no_grad():
                dict(self.model.named_parameters())["model.4.conv.weight"][0, 0, 0, 0] = float("nan")
        original(self)

    monkeypatch.setattr(SLRDetectionTrainer, "_on_train_epoch_end", poison)
    job = make_job(tmp_path / "train", "slr")
    with pytest.raises(NumericsError, match=r"model\.4\.conv\.weight.*iteration 2"):
        load_adapter("ultralytics").train(job, resume=False)
    assert last(job)["epoch"] == 0, "the last good checkpoint stays"


@pytest.fixture
def stopped_job(make_job: Make, tmp_path: Path, monkeypatch: Any) -> TrainJob:
    """A job of three epochs that was stopped in the second."""
    from slr_det_adapters.ultralytics.trainer import SLRDetectionTrainer

    def stop(self: Any) -> None:
        self._batch_index += 1
        if self.epoch == 1:
            raise KeyboardInterrupt

    job = make_job(tmp_path / "train", "slr", epochs=3)
    with monkeypatch.context() as patch:
        patch.setattr(SLRDetectionTrainer, "_on_train_batch_start", stop)
        with pytest.raises(KeyboardInterrupt):
            load_adapter("ultralytics").train(job, resume=False)
    return job


def test_resume_refuses_another_ratio(stopped_job: TrainJob) -> None:
    assert stopped_job.engine is not None
    groups = tuple(replace(group, keep=0.5) for group in stopped_job.engine.groups)
    other = replace(stopped_job, engine=replace(stopped_job.engine, groups=groups))
    with pytest.raises(CheckpointError, match="keep"):
        load_adapter("ultralytics").train(other, resume=True)


def test_resume_refuses_another_number_of_epochs(stopped_job: TrainJob) -> None:
    with pytest.raises(CheckpointError, match="3 epochs, not 5"):
        load_adapter("ultralytics").train(replace(stopped_job, epochs=5), resume=True)


def test_a_full_disk_leaves_the_last_checkpoint(stopped_job: TrainJob, monkeypatch: Any) -> None:
    import errno

    path = Path(stopped_job.folder) / "weights" / "last.pt"
    before = path.read_bytes()
    save = torch.save

    def full(obj: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(obj, dict) and "slr_det" in obj:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(obj, file, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(StorageError, match="No space left"):
            load_adapter("ultralytics").train(stopped_job, resume=True)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir() if p.name not in ("last.pt", "best.pt")] == []
    (path.parent / ".saving-killed").mkdir()
    (path.parent / ".last.pt.killed.tmp").touch()
    assert len(load_adapter("ultralytics").train(stopped_job, resume=True)) == 3
    assert not list(path.parent.glob(".*")), "what a killed process leaves is cleared away"


@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty"])
def test_a_damaged_checkpoint_is_refused_in_one_line(stopped_job: TrainJob, damage: str) -> None:
    path = Path(stopped_job.folder) / "weights" / "last.pt"
    data = path.read_bytes()
    if damage == "foreign":
        torch.save({"epoch": 0, "weights": torch.zeros(2)}, path)
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "truncated" else b"")
    with pytest.raises(CheckpointError) as caught:
        load_adapter("ultralytics").train(stopped_job, resume=True)
    assert "\n" not in str(caught.value) and "last.pt" in str(caught.value)

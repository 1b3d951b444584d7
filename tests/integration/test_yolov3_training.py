"""The engine inside the own train() of ultralytics/yolov3, on generated and on real images, on a CPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slr_det import masks
from slr_det.adapter import EngineSpec, EvalJob, TrainJob, load_adapter
from slr_det.errors import CheckpointError, ConfigError, NumericsError
from slr_det.groups import GroupSpec, build_groups
from slr_det.projections import Projection
from slr_det.report import validate
from slr_det.yolo import main

pytest.importorskip("ultralytics")
pytestmark = pytest.mark.slow

# The classic form: every scale's head is one convolution, with anchors.
MINI = """\
nc: 6
depth_multiple: 1.0
width_multiple: 1.0
anchors: [[10, 14, 23, 27, 37, 58], [81, 82, 135, 169, 344, 319]]
backbone:
  [[-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [32, 3, 2]], [-1, 1, Conv, [32, 3, 1]]]
head:
  [[-1, 1, Conv, [32, 3, 1]], [-1, 1, Conv, [32, 3, 2]], [[4, 5], 1, Detect, [nc, anchors]]]
"""
ARGUMENTS = {"imgsz": 64, "batch": 4, "workers": 0, "lr0": 0.02, "warmup_epochs": 0}
PLAIN = {"mosaic": 0, "scale": 0, "translate": 0, "fliplr": 0, "hsv_h": 0, "val": False, "optimizer": "AdamW"}
#: Packages that upstream's programs import and do not need here.
STUBS = {
    "pandas": """\
class options:
    class display: ...
class DataFrame:
    def __init__(self, rows, columns):
        vars(self).update(zip(columns, map(list, zip(*rows))))
""",
    "seaborn": "",
}


def _files(folder: Path) -> dict[str, int]:
    git = folder / ".git"
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and git not in p.parents}


@pytest.fixture(scope="module")
def checkout(yolov3: Path) -> Iterator[Path]:
    """The checkout, in which no test may leave or change a file."""
    before = _files(yolov3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLR_DET_YOLOV3", str(yolov3))
        yield yolov3
    assert _files(yolov3) == before


@pytest.fixture(scope="module")
def dense(checkout: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that is fitted to its few pictures, exported."""
    adapter = load_adapter("yolov3")
    folder = tmp_path_factory.mktemp("dense")
    (folder / "mini.yaml").write_text(MINI)
    args = {**ARGUMENTS, **PLAIN, "batch": 64, "lr0": 0.01}  # a step with every epoch
    job = TrainJob(str(folder / "mini.yaml"), str(tiny_data), str(folder / "train"), 120, args, device="cpu")
    assert adapter.train(job, resume=True) == []
    adapter.export(adapter.last(job.folder), folder / "dense.pt", job)
    return folder / "dense.pt"


def job_of(dense: Path, data: Path, folder: Path, method: str | None, epochs: int, **more: Any) -> TrainJob:
    hyper, args, engine = more.pop("hyper", {}), {**ARGUMENTS, **more.pop("args", {})}, None
    if method is not None:
        layers = load_adapter("yolov3").inspect(str(dense)).layers
        names = tuple(layer.name for layer in layers if layer.role == "body")
        group = GroupSpec("all", names, more.pop("keep", 0.5), Projection.parse("unstructured"))
        engine = EngineSpec(method, epochs, (group,), hyper)
    return TrainJob(str(dense), str(data), str(folder), epochs, args, engine=engine, device="cpu", **more)


def same(a: Any, b: Any, path: str = "") -> None:
    """Fail with the path of the first difference between two nested states, bit for bit."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), path
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


def last(job: TrainJob) -> dict[str, Any]:
    from slr_det_adapters.yolov3 import checkpoints

    return dict(checkpoints.read(load_adapter("yolov3").last(job.folder)).content)


def by_its_own_program(checkout: Path, scratch: Path, *words: str) -> str:
    """What upstream's val.py says, in a process without slr_det."""
    (scratch / "Arial.ttf").touch()  # it would fetch the font
    for name, text in STUBS.items():
        if find_spec(name) is None:
            (scratch / f"{name}.py").write_text(text)
    environment = {
        **os.environ,
        "PYTHONPATH": str(scratch),
        "PYTHONDONTWRITEBYTECODE": "1",
        "YOLOV3_CONFIG_DIR": str(scratch),
    }
    command = [sys.executable, str(checkout / "val.py"), *words, "--device", "cpu", "--project", str(scratch)]
    run = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return re.sub(r"\x1b\[[0-9;]*[mK]", "", run.stdout + run.stderr)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("yolov3-tiny.yaml", 8_852_366), ("yolov3.yaml", 61_949_149), ("yolov3-spp.yaml", 62_998_749)],
)
def test_its_models_have_the_papers_sizes(checkout: Path, name: str, parameters: int) -> None:
    """8.8 M, and 63 M for the one with pyramid pooling; anchors and one convolution for each scale's head."""
    info = load_adapter("yolov3").inspect(name)
    assert (info.parameters, info.classes) == (parameters, 80)
    heads = [layer.shape[0] for layer in info.layers if layer.role == "head"]
    assert heads == [3 * 85] * (2 if "tiny" in name else 3)
    assert [layer.role for layer in info.layers].count("first") == 1
    assert load_adapter("yolov3").inspect(name, 6).layers[-1].shape[0] == 3 * 11


def test_pruned_under_slr_its_own_val_gives_the_reported_map(
    checkout: Path, dense: Path, tiny_data: Path, tmp_path: Path
) -> None:
    adapter = load_adapter("yolov3")
    job = job_of(dense, tiny_data, tmp_path / "slr", "slr", 2, keep=0.8, args={"lr0": 1e-4})
    history = adapter.train(job, resume=True)
    assert [(record["epoch"], record["method"]) for record in history] == [(1, "slr"), (2, "slr")]
    assert all(record["objective"] > 0 and {"map50", "map"} == record["metric"].keys() for record in history)
    assert adapter.train(job, resume=True) == history, "a finished phase is not trained again"
    assert [path.name for path in Path(job.folder, "weights").iterdir()] == ["last.pt"]

    weights = adapter.averaged(adapter.last(job.folder))
    assert job.engine is not None
    found = masks.supports(build_groups(weights, job.engine.groups))
    pruned = tmp_path / "pruned.pt"
    adapter.export(
        adapter.last(job.folder), pruned, job, {n: weights[n].masked_fill(~m, 0.0) for n, m in found.items()}
    )
    after = adapter.averaged(str(pruned))
    kept, total = (sum(int(f(m)) for m in found.values()) for f in (torch.count_nonzero, torch.numel))
    assert kept == round(0.8 * total)
    assert all(not after[name][~mask].any() for name, mask in found.items())

    # On the pictures that it was fitted to: a score near zero would prove nothing.
    args = {**job.args, "split": "train"}
    metrics = adapter.evaluate(EvalJob(str(pruned), str(tiny_data), args, "cpu"))
    assert metrics["images"] == 20 and metrics["trainer_map50"] > 0.3
    assert metrics["AP50"] == pytest.approx(metrics["trainer_map50"], abs=0.03)
    words = ["--weights", str(pruned), "--data", str(tiny_data), "--imgsz", "64", "--batch-size", "4"]
    said = by_its_own_program(checkout, tmp_path, *words, "--task", "train")
    row = re.search(r"^\s+all\s+20\s+\d+\s+(\S+)\s+(\S+)\s+(\S+)\s+(\S+)\s*$", said, flags=re.MULTILINE)
    assert row is not None, said
    assert float(row[3]) == pytest.approx(metrics["trainer_map50"], rel=5e-3)
    assert float(row[4]) == pytest.approx(metrics["trainer_map"], rel=5e-3)

    target = tmp_path / "recalibrated.pt"
    adapter.recalibrate(str(pruned), target, job)
    same(adapter.averaged(str(target)), after)
    from slr_det_adapters.yolov3 import checkpoints

    old, new = (checkpoints.read(str(path)).model.state_dict() for path in (pruned, target))
    assert any(not torch.equal(new[name], old[name]) for name in new if name.endswith("running_mean"))


@pytest.mark.parametrize(("method", "hyper"), [("slr", {"objective": "fixed"}), ("gradual", {})])
def test_a_resumed_run_ends_in_the_same_bits(
    dense: Path,
    checkout: Path,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    hyper: dict[str, Any],
) -> None:
    """Weights, average, momentum, multipliers, history; steps that epochs share, which upstream's resume moves."""
    from slr_det_adapters.yolov3.training import Phase

    adapter = load_adapter("yolov3")
    make = lambda folder: job_of(dense, tiny_data, tmp_path / folder, method, 4, hyper=hyper)  # noqa: E731
    whole, stopped = make("whole"), make("stopped")
    adapter.train(whole, resume=True)
    ended = Phase._on_train_batch_end

    def stop_in_the_third_epoch(self: Phase, *args: Any) -> None:
        ended(self, *args)
        if self.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Phase, "_on_train_batch_end", stop_in_the_third_epoch)
    with pytest.raises(KeyboardInterrupt):
        adapter.train(stopped, resume=True)
    monkeypatch.setattr(Phase, "_on_train_batch_end", ended)
    assert last(stopped)["slr_det"]["epoch"] == 2
    with pytest.raises(CheckpointError, match="started for 4 epochs, not 5"):
        adapter.train(replace(stopped, epochs=5), resume=True)
    adapter.train(stopped, resume=True)
    states = [last(job) for job in (whole, stopped)]
    same(states[0]["slr_det"], states[1]["slr_det"])
    same(states[0]["optimizer"], states[1]["optimizer"])
    assert states[0]["updates"] == states[1]["updates"] > 4


@pytest.mark.parametrize(("batch", "images"), [(4, 4), (64, 20)])
def test_the_penalty_in_the_gradient_has_the_scale_of_the_loss(
    dense: Path,
    checkout: Path,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    images: int,
) -> None:
    """With rho = 1e6 the gradient before upstream's clipping is images x rho (W - Z)."""
    from slr_det_adapters.yolov3.training import Phase

    errors: list[float] = []
    phases: list[Phase] = []
    begin, clip = Phase._begin, torch.nn.utils.clip_grad_norm_

    def remember(self: Phase, upstream: Any) -> Any:
        phases.append(self)
        return begin(self, upstream)

    def look(parameters: Any, max_norm: float) -> Any:
        if not errors:
            engine = phases[0].engine
            assert engine is not None
            for name, p in engine.groups[0].params:
                expected = images * 1e6 * (p.detach() - engine.state.z[name])
                errors.append(float((p.grad - expected).norm() / expected.norm()))
        return clip(parameters, max_norm)

    monkeypatch.setattr(Phase, "_begin", remember)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", look)
    job = job_of(
        dense, tiny_data, tmp_path, "penalty", 1, hyper={"rho": 1e6}, args={"batch": batch, "lr0": 1e-9}
    )
    load_adapter("yolov3").train(job, resume=True)
    assert len(errors) == 5 and max(errors) < 1e-3


def test_zeros_stay_zero_in_the_model_and_in_its_average(
    dense: Path, checkout: Path, tiny_data: Path, tmp_path: Path
) -> None:
    adapter = load_adapter("yolov3")
    job = job_of(dense, tiny_data, tmp_path / "oneshot", "oneshot", 1)
    adapter.train(job, resume=True)
    pruned = tmp_path / "pruned.pt"
    adapter.export(adapter.last(job.folder), pruned, job)
    before = adapter.averaged(str(pruned))
    zeros = {
        name: w == 0 for name, w in before.items() if w.ndim > 1 and float((w == 0).float().mean()) > 0.1
    }
    assert len(zeros) == 5
    retrain = job_of(
        pruned, tiny_data, tmp_path / "retrain", None, 2, keep_zeros=True, args={"weight_decay": 0.01}
    )
    adapter.train(retrain, resume=True)
    state = last(retrain)["slr_det"]
    for copy in (state["model"], state["ema"]):
        for name, zero in zeros.items():
            assert not copy[name][zero].any(), name
    assert any(not torch.equal(state["model"][name], before[name]) for name in zeros), "the rest did train"


def test_a_checkpoint_of_its_own_is_a_start_and_a_bad_one_ends_the_run(
    dense: Path, checkout: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """As upstream saves one in training: the average beside the model, numpy's scores, its options."""
    from slr_det_adapters.yolov3 import building, evaluation

    adapter = load_adapter("yolov3")
    own, bad = tmp_path / "own.pt", tmp_path / "bad.pt"
    with building.opened("", torch.device("cpu")) as upstream:
        model, average = (evaluation.loaded(str(dense), upstream).half() for _ in range(2))
        with torch.no_grad():
            next(iter(model.parameters())).zero_()
        content = {
            "epoch": 3,
            "best_fitness": np.array([0.25]),
            "model": model,
            "ema": average,
            "updates": 9,
            "optimizer": None,
            "opt": {"weights": Path("yolov3-tiny.pt"), "hyp": {"lr0": 0.01}},
            "git": {"remote": None},
            "date": "today",
        }
        torch.save(content, own)
        with torch.no_grad():
            next(iter(model.parameters())).fill_(float("nan"))
        torch.save({**content, "ema": None}, bad)
    assert adapter.given(str(own), "", tiny_data, tmp_path / "start.pt") == str(own)
    same(adapter.averaged(str(own)), adapter.averaged(str(dense)))
    job = job_of(dense, tiny_data, tmp_path / "train", None, 1)
    with pytest.raises(NumericsError, match="the training loss is nan in epoch 1"):
        adapter.train(replace(job, model=str(bad)), resume=True)
    assert not list(Path(job.folder).rglob("*.pt"))
    adapter.train(replace(job, model=str(own)), resume=True)
    assert last(job)["epoch"] == 0

    other = tmp_path / "other.yaml"
    other.write_text(tiny_data.read_text().replace("names:", "notes: []\nnames:\n  6: one more"))
    with pytest.raises(ConfigError, match="predicts 6 classes, but .* has 7"):
        adapter.evaluate(EvalJob(str(dense), str(other), job.args, "cpu"))


@pytest.mark.samples
def test_the_command_line_compresses_yolov3_tiny_on_real_images(
    checkout: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Thirty-two photographs of COCO, the classic 8.8 M detector: dense, pruned, retrained, reported, judged."""
    data = samples / "coco" / "tiny"
    before = _files(data)
    settings = [f"data={data}", "imgsz=96", "batch=16", "workers=0", "--backend", "yolov3", "--device", "cpu"]
    arguments = ["model=yolov3-tiny.yaml", "dense_epochs=1", f"project={tmp_path}", "name=run", *settings]
    options = ["--method", "slr", "--compression", "3.33x", "--epochs", "1", "--retrain-epochs", "1"]
    assert main([*arguments, *options]) == 0
    run = tmp_path / "run"
    report = json.loads((run / "report.json").read_text())
    validate(report)
    assert report["phases"].keys() == {"dense", "hard_prune", "bn_recalibrated", "retrain"}
    assert 3.33 <= report["compression"]["model"]["rate"] < 3.36
    assert report["config"]["backend"] == "yolov3" and _files(data) == before
    assert (run / "report.md").is_file() and (run / "pruned.pt").stat().st_size < 19e6
    capsys.readouterr()

    assert main(["eval", f"model={run / 'pruned.pt'}", *settings, "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["AP50"] == report["phases"]["retrain"]["metrics"]["AP50"]
    assert metrics["images"] == 32 and "trainer_map50" in metrics
    assert main(["analyze", f"model={run / 'pruned.pt'}", "--backend", "yolov3", "--compression", "4x"]) == 0
    assert "8,852,366 weights" in capsys.readouterr().out
    assert main(["eval", f"model={run / 'pruned.pt'}", f"data={data}", f"project={tmp_path}"]) == 2
    assert "give --backend yolov3" in capsys.readouterr().err
    assert main(["export", f"model={run / 'pruned.pt'}", *settings, "-o", str(tmp_path / "a.onnx")]) == 2
    error = capsys.readouterr().err
    assert "python export.py --weights" in error and "Traceback" not in error

"""The engine inside the own train() of Ultra-Fast-Lane-Detection, on four real frames, on a CPU.

Its images are always 288 x 800; few cells and no auxiliary head keep an epoch at a few seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slr_det import masks
from slr_det.adapter import EngineSpec, EvalJob, TrainJob, load_adapter
from slr_det.errors import CheckpointError, ConfigError, NumericsError
from slr_det.groups import GroupSpec, build_groups
from slr_det.metrics import tusimple
from slr_det.metrics.tusimple import Scores
from slr_det.projections import Projection

pytest.importorskip("torchvision")
pytestmark = [pytest.mark.samples, pytest.mark.slow]

SMALL = {"use_aux": False, "griding_num": 20, "warmup": None}


def _files(folder: Path) -> dict[str, int]:
    git = folder / ".git"
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and git not in p.parents}


@pytest.fixture(scope="module")
def checkout(ufld: Path) -> Iterator[Path]:
    """The checkout, in which no test may leave or change a file."""
    before = _files(ufld)
    yield ufld
    assert _files(ufld) == before


@pytest.fixture(scope="module")
def data(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    mini = samples / "tusimple" / "mini"
    before = _files(mini)
    yield load_adapter("ufld").prepare_data(str(mini), tmp_path_factory.mktemp("data"))
    assert _files(mini) == before


def arguments(checkout: Path) -> dict[str, Any]:
    return {"upstream": str(checkout), "set": SMALL, "batch": 2, "workers": 0}


@pytest.fixture(scope="module")
def dense(checkout: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained for one epoch, exported."""
    adapter = load_adapter("ufld")
    folder = tmp_path_factory.mktemp("dense")
    job = TrainJob("parsingnet18", str(data), str(folder / "train"), 1, arguments(checkout), device="cpu")
    assert adapter.train(job, resume=True) == []
    adapter.export(adapter.last(job.folder), folder / "dense.pt", job)
    return folder / "dense.pt"


def job_of(
    checkout: Path, data: Path, dense: Path, folder: Path, method: str | None, epochs: int, **more: Any
) -> TrainJob:
    hyper, args = more.pop("hyper", {}), more.pop("args", {})
    engine = None
    if method is not None:
        layers = load_adapter("ufld").inspect(str(dense)).layers
        # Both: the backbone, and the two layers that most weights are in.
        names = tuple(layer.name for layer in layers if layer.role == "body" or layer.name.startswith("cls"))
        group = GroupSpec("all", names, 0.2, Projection.parse("unstructured"))
        engine = EngineSpec(method, epochs, (group,), hyper)
    return TrainJob(
        str(dense),
        str(data),
        str(folder),
        epochs,
        {**arguments(checkout), **args},
        engine=engine,
        device="cpu",
        **more,
    )


@pytest.fixture(scope="module")
def trained(
    checkout: Path, data: Path, dense: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainJob, list[dict[str, Any]]]:
    """Two epochs under SLR, images read by another process, and their history."""
    folder = tmp_path_factory.mktemp("slr") / "train"
    job = job_of(checkout, data, dense, folder, "slr", 2, args={"workers": 1})
    return job, load_adapter("ufld").train(job, resume=True)


def last(job: TrainJob) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(load_adapter("ufld").last(job.folder), weights_only=True)
    return content


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


def test_two_epochs_under_slr_then_hard_pruning_and_its_own_evaluation(
    trained: tuple[TrainJob, list[dict[str, Any]]],
    checkout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = load_adapter("ufld")
    job, history = trained
    assert [(record["epoch"], record["method"]) for record in history] == [(1, "slr"), (2, "slr")]
    assert all(record["objective"] > 0 for record in history)
    assert adapter.train(job, resume=True) == history, "a finished phase is not trained again"
    assert [path.name for path in Path(job.folder).glob("*.pth")] == ["ep001.pth"]

    weights = adapter.averaged(adapter.last(job.folder))
    assert job.engine is not None
    found = masks.supports(build_groups(weights, job.engine.groups))
    pruned = tmp_path / "pruned.pt"
    adapter.export(adapter.last(job.folder), pruned, job, {n: weights[n] * mask for n, mask in found.items()})
    after = adapter.averaged(str(pruned))
    total = sum(mask.numel() for mask in found.values())
    assert sum(int(after[name].count_nonzero()) for name in found) == round(0.2 * total)

    scored: list[Scores] = []
    score = tusimple.evaluate

    def listen(*rows: Any) -> Scores:
        scored.append(score(*rows))
        return scored[-1]

    monkeypatch.setattr(tusimple, "evaluate", listen)
    metrics = adapter.evaluate(EvalJob(str(pruned), job.data, job.args, "cpu"))
    assert metrics["frames"] == 4 and 0.0 < metrics["empty_accuracy"] < 1.0
    # What upstream's scorer printed is what slr_det's gives for the same predictions.
    for key in ("accuracy", "fp", "fn"):
        assert metrics[key] == pytest.approx(getattr(scored[0], key), abs=1e-9), key

    target = tmp_path / "recalibrated.pt"
    adapter.recalibrate(str(pruned), target, job)
    old, new = (torch.load(path, weights_only=True)["model"] for path in (pruned, target))
    assert all(torch.equal(new[name], tensor) for name, tensor in old.items() if name in after)
    assert any(not torch.equal(new[name], old[name]) for name in new if name.endswith("running_mean"))

    # As upstream's test.py loads it, with torch's own defaults.
    from slr_det_adapters.ufld import building, checkpoints

    with building.opened(checkout, torch.device("cpu")) as upstream:
        net = building.network(
            checkpoints.read(str(pruned)).network, upstream, torch.device("cpu"), aux=False
        )
        result = net.load_state_dict(torch.load(pruned, map_location="cpu")["model"], strict=False)
        optimizer = torch.optim.Adam(net.parameters())
        optimizer.load_state_dict(torch.load(adapter.last(job.folder), map_location="cpu")["optimizer"])
    assert not result.missing_keys and not result.unexpected_keys
    shapes = {name: p.shape for name, p in net.named_parameters()}
    moments = {n: optimizer.state[p]["exp_avg"].shape for n, p in net.named_parameters()}
    assert moments == shapes, "the optimizer's state goes by the order of the weights"


def test_a_resumed_run_ends_in_the_same_bits(
    trained: tuple[TrainJob, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, Adam's moments, multipliers and history: upstream's own resume would start its schedule anew."""
    from slr_det_adapters.ufld.training import Phase

    adapter = load_adapter("ufld")
    stopped = replace(trained[0], folder=str(tmp_path / "stopped"))
    advance = Phase.advance

    def stop_in_the_second_epoch(self: Phase, loss: str) -> None:
        advance(self, loss)
        if self._epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Phase, "advance", stop_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        adapter.train(stopped, resume=True)
    monkeypatch.setattr(Phase, "advance", advance)
    assert last(stopped)["slr_det"]["epoch"] == 1
    with pytest.raises(CheckpointError, match="started for 2 epochs, not 3"):
        adapter.train(replace(stopped, epochs=3), resume=True)
    adapter.train(stopped, resume=True)
    same(last(trained[0]), last(stopped))


def test_the_penalty_is_in_the_gradient_and_zeros_stay_zero(
    checkout: Path, data: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rho = 1e6 the gradient that reaches upstream's optimizer is rho (W - Z), at batches of 3 and of 1."""
    from slr_det_adapters.ufld.training import Phase

    errors: list[float] = []
    run = Phase.run

    def watched(self: Phase, saved: Any) -> None:
        step = torch.optim.Adam.step

        def look(optimizer: Any, *args: Any, **options: Any) -> Any:
            assert self.engine is not None
            for name, p in self.engine.groups[0].params:
                expected = 1e6 * (p.detach() - self.engine.state.z[name])
                errors.append(float((p.grad - expected).norm() / expected.norm()))
            return step(optimizer, *args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.Adam, "step", look)
            run(self, saved)

    monkeypatch.setattr(Phase, "run", watched)
    adapter = load_adapter("ufld")
    hyper = {"rho": 1e6, "objective": "fixed"}
    job = job_of(checkout, data, dense, tmp_path / "p", "penalty", 1, hyper=hyper, args={"batch": 3})
    (record,) = adapter.train(job, resume=True)
    assert record["objective"] > 0
    assert len(errors) > 20 and max(errors) < 1e-3
    monkeypatch.undo()

    # Masked retraining.
    state = torch.load(dense, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in state["model"].items():
        if tensor.ndim > 1 and not name.startswith("model.conv1"):
            tensor *= torch.rand(tensor.shape, generator=generator) < 0.3
    torch.save(state, tmp_path / "sparse.pt")
    retrain = replace(
        job_of(checkout, data, dense, tmp_path / "retrain", None, 1, keep_zeros=True),
        model=str(tmp_path / "sparse.pt"),
    )
    adapter.train(retrain, resume=True)
    after = adapter.averaged(adapter.last(retrain.folder))
    for name, tensor in state["model"].items():
        if tensor.ndim > 1 and not name.startswith("model.conv1"):
            assert not after[name][tensor == 0].any(), name
            assert not torch.equal(after[name], tensor), f"{name}: the kept weights did not train"


def test_bad_numbers_end_a_run_and_the_last_checkpoint_stays(
    checkout: Path, data: Path, dense: Path, tmp_path: Path
) -> None:
    state = torch.load(dense, weights_only=True)
    state["model"]["cls.2.bias"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    job = job_of(checkout, data, dense, tmp_path / "train", None, 1, args={"batch": 4})
    with pytest.raises(NumericsError, match="the training loss is nan in epoch 1"):
        load_adapter("ufld").train(replace(job, model=str(tmp_path / "nan.pt")), resume=True)
    assert not list((tmp_path / "train").glob("*.pth"))


def test_its_lists_and_labels_train_its_data_set_as_its_own_conversion_does(
    checkout: Path, data: Path, samples: Path, tmp_path: Path
) -> None:
    """Upstream's data set on our lists, against upstream's conversion script run on a copy of the frames."""
    import shutil

    import numpy as np

    pytest.importorskip("cv2")
    from slr_det_adapters.ufld import building
    from slr_det_adapters.ufld.tusimple import complete

    complete(data)
    copy = tmp_path / "copy"
    shutil.copytree(samples / "tusimple" / "mini", copy)
    script: dict[str, Any] = {"__name__": "convert"}
    source = (checkout / "scripts" / "convert_tusimple.py").read_text()
    exec(compile(source, "convert_tusimple.py", "exec"), script)
    names, lines = script["get_tusimple_list"](str(copy), ["label_data_0601.json"])
    script["generate_segmentation_and_train_list"](str(copy), lines, names)
    ours = (data / "train_gt.txt").read_text().splitlines()
    theirs = (copy / "train_gt.txt").read_text().splitlines()
    assert len(ours) == len(theirs) == 4
    assert [line.split()[2:] for line in ours] == [line.split()[2:] for line in theirs]
    targets = []
    with building.opened(checkout, torch.device("cpu")) as upstream:
        anchors = upstream.seam("data.constant", "tusimple_row_anchor")
        for root in (data, copy):
            dataset = upstream.seam("data.dataset", "LaneClsDataset")(
                str(root), str(root / "train_gt.txt"), row_anchor=list(anchors), griding_num=100
            )
            targets.append(np.stack([dataset[n][1] for n in range(4)]))
    assert targets[0].shape == (4, 56, 4) and (targets[0] < 100).mean() > 0.4
    assert (targets[0] == targets[1]).mean() > 0.99 and np.abs(targets[0] - targets[1]).max() <= 1


def test_a_picture_of_lanes_is_drawn_for_every_model(
    dense: Path, data: Path, checkout: Path, tmp_path: Path
) -> None:
    job = EvalJob(str(dense), str(data), arguments(checkout), "cpu")
    drawn = load_adapter("ufld").illustrate({"dense": str(dense), "slr": str(dense)}, job, tmp_path)
    assert [picture.file for picture in drawn] == ["lanes_0.png", "lanes_1.png"]
    assert all((tmp_path / picture.file).stat().st_size > 10_000 for picture in drawn)


def test_its_configuration_and_its_checkpoint_are_a_start(
    checkout: Path, dense: Path, data: Path, tmp_path: Path
) -> None:
    adapter = load_adapter("ufld")
    info = adapter.inspect(str(checkout / "configs" / "tusimple.py"))
    assert (info.parameters, info.classes) == (61_225_640, 4)
    own = tmp_path / "ep099.pth"
    state = torch.load(dense, weights_only=True)["model"]
    torch.save({"model": {f"module.{name}": t for name, t in state.items()}, "optimizer": {}}, own)
    assert adapter.given(str(own), "", data, tmp_path / "start.pt") == str(own)
    same(adapter.averaged(str(own)), adapter.averaged(str(dense)))
    job = job_of(checkout, data, dense, tmp_path / "train", None, 1, args={"set": {"griding_num": 30}})
    with pytest.raises(ConfigError, match=r"griding_num is 30, but model=.* has 20"):
        adapter.train(job, resume=True)
    culane = job_of(checkout, data, dense, tmp_path / "train", None, 1, args={"cfg": "configs/culane.py"})
    with pytest.raises(ConfigError, match=r"culane\.py: dataset is 'CULane', expected 'Tusimple'"):
        adapter.train(culane, resume=True)

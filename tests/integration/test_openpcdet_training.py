"""The engine inside OpenPCDet's own train_model, on real frames, from a checkout that was never built.

The network and its range are small, so that an epoch takes a second; one test has the whole grid.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slr_det import masks
from slr_det.adapter import EngineSpec, EvalJob, TrainJob, load_adapter
from slr_det.data.kitti.labels import read_objects
from slr_det.errors import CheckpointError, ConfigError, NumericsError
from slr_det.groups import GroupSpec, build_groups
from slr_det.projections import Projection

pytestmark = [pytest.mark.samples, pytest.mark.slow]

CONFIG = "cfgs/kitti_models/pointpillar.yaml"
SMALL = {
    "DATA_CONFIG.POINT_CLOUD_RANGE": [0, -10.24, -3, 20.48, 10.24, 1],
    "MODEL.VFE.NUM_FILTERS": [16],
    "MODEL.MAP_TO_BEV.NUM_BEV_FEATURES": 16,
    "MODEL.BACKBONE_2D.LAYER_NUMS": [1, 1, 1],
    "MODEL.BACKBONE_2D.NUM_FILTERS": [16, 16, 16],
    "MODEL.BACKBONE_2D.NUM_UPSAMPLE_FILTERS": [16, 16, 16],
}
Make = Callable[..., TrainJob]


@pytest.fixture(scope="module")
def checkout(openpcdet: Path) -> Iterator[Path]:
    """The checkout, in which no test may leave or change a file."""
    before = _files(openpcdet)
    yield openpcdet
    assert _files(openpcdet) == before


def _files(folder: Path) -> dict[str, int]:
    git = folder / ".git"
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and git not in p.parents}


@pytest.fixture(scope="module")
def data(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    before = _files(samples / "kitti")
    yield load_adapter("openpcdet").prepare_data(str(samples / "kitti"), tmp_path_factory.mktemp("data"))
    assert _files(samples / "kitti") == before


@pytest.fixture(scope="module")
def dense(checkout: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained for one epoch, exported."""
    adapter = load_adapter("openpcdet")
    folder = tmp_path_factory.mktemp("dense")
    job = TrainJob(CONFIG, str(data), str(folder / "train"), 1, arguments(checkout), device="cpu")
    assert adapter.train(job, resume=True) == []
    adapter.export(adapter.last(job.folder), folder / "dense.pt", job)
    return folder / "dense.pt"


@pytest.fixture
def make(checkout: Path, data: Path, dense: Path) -> Make:
    def job(folder: Path, method: str | None = "slr", epochs: int = 2, **fields: Any) -> TrainJob:
        hyper, args = fields.pop("hyper", {}), fields.pop("args", {})
        engine = None
        if method is not None:
            layers = load_adapter("openpcdet").inspect(str(dense)).layers
            names = tuple(layer.name for layer in layers if layer.role == "body" and layer.kind != "other")
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
            **fields,
        )

    return job


def arguments(checkout: Path) -> dict[str, Any]:
    return {"upstream": str(checkout), "set": SMALL, "batch": 2, "workers": 0}


def last(job: TrainJob) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(load_adapter("openpcdet").last(job.folder), weights_only=True)
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


def test_two_epochs_under_slr_then_hard_pruning_and_its_own_evaluation(make: Make, tmp_path: Path) -> None:
    adapter = load_adapter("openpcdet")
    job = make(tmp_path / "train")
    history = adapter.train(job, resume=True)
    assert [(record["epoch"], record["method"]) for record in history] == [(1, "slr"), (2, "slr")]
    assert all(record["objective"] > 0 for record in history)
    assert adapter.train(job, resume=True) == history, "a finished phase is not trained again"

    weights = adapter.averaged(adapter.last(job.folder))
    assert job.engine is not None
    found = masks.supports(build_groups(weights, job.engine.groups))
    pruned = tmp_path / "pruned.pt"
    adapter.export(adapter.last(job.folder), pruned, job, {n: weights[n] * mask for n, mask in found.items()})
    after = adapter.averaged(str(pruned))
    total = sum(mask.numel() for mask in found.values())
    kept = sum(int(after[name].count_nonzero()) for name in found)
    assert kept == round(0.2 * total)

    metrics = adapter.evaluate(EvalJob(str(pruned), job.data, job.args, "cpu"))
    assert metrics["frames"] == 6
    assert set(metrics["per_class"]) == {"Car", "Pedestrian", "Cyclist"}
    for level in ("easy", "moderate", "hard"):
        assert metrics[level] == pytest.approx(sum(v[level] for v in metrics["per_class"].values()) / 3)

    pictures = adapter.illustrate(
        {"dense": job.model, "slr": str(pruned)},
        EvalJob(job.model, job.data, job.args, "cpu"),
        tmp_path / "pictures",
    )
    assert len(pictures) == 2 and all(
        (tmp_path / "pictures" / p.file).stat().st_size > 10_000 for p in pictures
    )

    target = tmp_path / "recalibrated.pt"
    adapter.recalibrate(str(pruned), target, job)
    recalibrated = torch.load(target, weights_only=True)["model_state"]
    for name, tensor in torch.load(pruned, weights_only=True)["model_state"].items():
        if name in after:
            assert torch.equal(tensor, recalibrated[name]), name
    means = [name for name in recalibrated if name.endswith("running_mean")]
    assert any(
        not torch.equal(recalibrated[n], torch.load(pruned, weights_only=True)["model_state"][n])
        for n in means
    )


@pytest.mark.parametrize(("method", "workers"), [("slr", 0), ("admm", 1)])
def test_a_resumed_run_ends_in_the_same_bits(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, workers: int
) -> None:
    from slr_det_adapters.openpcdet.training import Phase

    adapter = load_adapter("openpcdet")
    whole = make(tmp_path / "whole", method, epochs=3, args={"workers": workers})
    adapter.train(whole, resume=True)

    stopped = make(tmp_path / "stopped", method, epochs=3, args={"workers": workers})
    show = Phase._show

    def stop_in_the_second_epoch(self: Phase, loss: torch.Tensor) -> None:
        show(self, loss)
        if self._bar is not None and self._bar.n == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Phase, "_show", stop_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        adapter.train(stopped, resume=True)
    monkeypatch.setattr(Phase, "_show", show)
    assert last(stopped)["epoch"] == 1
    adapter.train(stopped, resume=True)
    same(last(whole), last(stopped))
    assert last(whole)["it"] == 9

    with pytest.raises(CheckpointError, match="started for 3 epochs, not 4"):
        adapter.train(replace(stopped, epochs=4), resume=True)


def test_admm_moves_the_multipliers_by_rho_times_the_distance(make: Make, tmp_path: Path) -> None:
    """After the first iteration, with Lam^0 = 0: Z = proj(W + Lam/rho) and Lam = rho (W - Z)."""
    adapter = load_adapter("openpcdet")
    job = make(tmp_path / "train", "admm", epochs=1, hyper={"rho": 0.5})
    adapter.train(job, resume=True)
    content = last(job)
    state = content["slr_det"]["engine"]["state"]
    assert job.engine is not None
    names = job.engine.groups[0].params
    weights = {name: content["model_state"][name] for name in names}
    found = masks.supports(build_groups(weights, job.engine.groups))
    for name in names:
        assert torch.equal(state["z"][name], weights[name] * found[name]), name
        distance = weights[name] - state["z"][name]
        assert torch.allclose(state["multipliers"][name], 0.5 * distance, atol=1e-7), name


def test_the_penalty_is_in_the_gradient_of_the_real_loss(
    make: Make, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rho = 1e6 the gradient that reaches OpenPCDet's optimizer is rho (W - Z), at any batch size."""
    from slr_det_adapters.openpcdet.inject import import_checkout
    from slr_det_adapters.openpcdet.training import Phase

    wrapper = import_checkout(checkout).seam("train_utils.optimization.fastai_optim", "OptimWrapper")
    phases: list[Phase] = []
    errors: list[float] = []
    build = Phase.run

    def run(self: Phase, saved: Any) -> None:
        phases.append(self)
        build(self, saved)

    def step(self: Any) -> None:
        engine = phases[-1].engine
        assert engine is not None
        for name, p in engine.groups[0].params:
            assert p.grad is not None
            expected = 1e6 * (p.detach() - engine.state.z[name])
            errors.append(float((p.grad - expected).norm() / expected.norm()))

    monkeypatch.setattr(Phase, "run", run)
    monkeypatch.setattr(wrapper, "step", step)
    for batch in (2, 3):
        loose = {**SMALL, "OPTIMIZATION.GRAD_NORM_CLIP": 1e12}
        job = make(
            tmp_path / str(batch),
            "penalty",
            2,
            hyper={"rho": 1e6},
            args={"batch": batch, "set": loose},
        )
        load_adapter("openpcdet").train(job, resume=True)
    assert len(errors) > 20 and max(errors) < 1e-3


def test_the_fixed_objective_changes_no_statistics_and_no_random_numbers(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch ends in the same weights and statistics, whichever objective decides about the multipliers."""
    from slr_det_adapters.openpcdet.training import Phase

    states = {}
    values: list[float] = []
    measure = Phase._fixed_objective
    monkeypatch.setattr(Phase, "_fixed_objective", lambda self: values.append(measure(self)) or values[-1])
    for objective in ("fixed", "running"):
        job = make(tmp_path / objective, epochs=1, hyper={"objective": objective})
        load_adapter("openpcdet").train(job, resume=True)
        states[objective] = last(job)["model_state"]
    same(states["fixed"], states["running"])
    assert len(values) == 2 and values[0] != values[1], "f(W^0) and f(W^1) of the same batches"


def test_masked_retraining_keeps_every_zero(make: Make, tmp_path: Path) -> None:
    adapter = load_adapter("openpcdet")
    job = make(tmp_path / "train", "oneshot", epochs=2)
    adapter.train(job, resume=True)
    pruned = tmp_path / "pruned.pt"
    adapter.export(adapter.last(job.folder), pruned, job)
    before = adapter.averaged(str(pruned))
    zeros = {name: w == 0 for name, w in before.items() if w.ndim > 1 and bool((w == 0).any())}
    assert sum(int(zero.sum()) for zero in zeros.values()) > 5_000

    retrain = replace(make(tmp_path / "retrain", None, keep_zeros=True), model=str(pruned))
    adapter.train(retrain, resume=True)
    after = adapter.averaged(adapter.last(retrain.folder))
    for name, zero in zeros.items():
        assert not after[name][zero].any(), name
        assert not torch.equal(after[name], before[name]), f"{name}: the kept weights did not train"


def test_openpcdet_itself_loads_what_is_written(
    make: Make, checkout: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own loaders, with torch's own defaults: the exported model, and the optimizer of a checkpoint in training."""
    from slr_det_adapters.openpcdet import building, configs
    from slr_det_adapters.openpcdet.arguments import Arguments

    adapter = load_adapter("openpcdet")
    job = make(tmp_path / "train", "slr")
    adapter.train(job, resume=True)
    exported = tmp_path / "pruned.pth"
    adapter.export(adapter.last(job.folder), exported, job)
    logger = logging.getLogger("loading")
    with building.opened(checkout, torch.device("cpu")) as upstream:
        config = configs.with_arguments(configs.read(CONFIG, upstream), Arguments.read(job.args))
        model: Any = building.network(config, upstream, torch.device("cpu"))
        with caplog.at_level(logging.INFO, "loading"):
            model.load_params_from_file(filename=str(exported), logger=logger, to_cpu=True)
        count = len(model.state_dict())
        assert f"loaded {count}/{count}" in caplog.text
        same(dict(model.named_parameters()).keys(), adapter.averaged(str(exported)).keys())
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, adapter.averaged(str(exported))[name]), name

        optimizer = upstream.seam("train_utils.optimization", "build_optimizer")(
            model, configs.live(config, upstream).OPTIMIZATION
        )
        steps, epoch = model.load_params_with_optimizer(
            adapter.last(job.folder), to_cpu=True, optimizer=optimizer, logger=logger
        )
        assert (steps, epoch) == (6, 2)
        assert len(optimizer.opt.state) == len(list(model.parameters()))


def test_its_own_checkpoint_and_configuration_are_a_start(checkout: Path, data: Path, tmp_path: Path) -> None:
    """A file as OpenPCDet writes it, with numpy numbers in the optimizer, which plain torch.load refuses."""
    import numpy as np

    adapter = load_adapter("openpcdet")
    config = str(checkout / "tools" / CONFIG)
    info = adapter.inspect(config)
    assert (info.parameters, info.classes) == (4_834_888, 3)
    assert [layer.name for layer in info.layers if layer.role == "head"] == [
        "dense_head.conv_cls.weight",
        "dense_head.conv_box.weight",
        "dense_head.conv_dir_cls.weight",
    ]
    from slr_det_adapters.openpcdet import building, configs

    with building.opened(checkout, torch.device("cpu")) as upstream:
        model = building.network(configs.read(config, upstream), upstream, torch.device("cpu"))
    own = tmp_path / "own.pth"
    torch.save(
        {"epoch": 1, "model_state": model.state_dict(), "optimizer_state": {"lr": np.float64(0.1)}}, own
    )
    with pytest.raises(CheckpointError, match=r"not the configuration.*weights="):
        adapter.given(str(own), "", data, tmp_path / "start.pt")
    start = adapter.given(config, str(own), data, tmp_path / "start.pt")
    assert adapter.classes(data) == adapter.inspect(start).classes == 3
    for name, weight in adapter.averaged(start).items():
        assert torch.equal(weight, model.state_dict()[name]), name
    with pytest.raises(ConfigError, match="without weights"):
        adapter.given(config, "", data, tmp_path / "start.pt")
    state = model.state_dict()
    state["dense_head.conv_cls.weight"] = state["dense_head.conv_cls.weight"][:9]
    torch.save({"model_state": state}, own)
    with pytest.raises(CheckpointError, match=r"own\.pth: 'dense_head\.conv_cls\.weight' has shape \[9"):
        adapter.given(config, str(own), data, tmp_path / "start.pt")


def test_its_evaluation_code_and_ours_score_real_detections_alike(
    checkout: Path, data: Path, samples: Path, tmp_path: Path
) -> None:
    """OpenPCDet's evaluator with our rotated overlaps inside, not compiled, and slr_det's: the same table."""
    import numpy as np

    from slr_det_adapters.openpcdet import building, configs, surroundings
    from slr_det_adapters.openpcdet.evaluation import Scores, standard

    classes = ["Car", "Pedestrian", "Cyclist"]
    with building.opened(checkout, torch.device("cpu")) as upstream:
        ready = configs.live(configs.read(CONFIG, upstream), upstream)
        logger = logging.getLogger("scoring")
        batches = building.loader(ready, data, upstream, training=False, workers=0, logger=logger)
        detections = []
        for info in batches.dataset.kitti_infos:
            file = samples / "kitti" / "predictions" / f"{info['point_cloud']['lidar_idx']}.txt"
            if not file.is_file():
                file = tmp_path / "nothing.txt"
                file.touch()
            found = read_objects(file, scored=True)
            detections.append(
                {
                    "name": np.array(found.names),
                    "alpha": found.alpha,
                    "truncated": found.truncated,
                    "occluded": found.occluded,
                    "bbox": found.boxes_2d,
                    "dimensions": found.dimensions[:, [2, 0, 1]],  # OpenPCDet: length, height, width
                    "location": found.locations,
                    "rotation_y": found.rotations,
                    "score": found.scores,
                }
            )
        with surroundings.stand_ins():
            _, own = batches.dataset.evaluation(detections, classes)
        for overlap in ("standard", "loose", "0.5"):
            scores = Scores(batches.dataset, overlap, upstream)
            ours = scores.ours(detections, classes)
            with surroundings.stand_ins():
                theirs = scores.own_at(detections, classes)
            assert ours["3d_R40"]["Car"]["moderate"] > 0
            assert set(theirs) == {"3d_R40", "bev_R40", "bbox_R40"}
            for measure, table in theirs.items():
                for name in classes:
                    assert ours[measure][name] == pytest.approx(table[name], abs=1e-6)
            if overlap == "standard":
                assert set(standard(own, classes)) == {*theirs, "aos_R40"}
                for measure, table in standard(own, classes).items():
                    for name in classes:
                        assert ours[measure][name] == pytest.approx(table[name], abs=1e-6)


def test_a_nan_stops_the_run_and_the_last_good_checkpoint_stays(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slr_det_adapters.openpcdet.training import Phase

    begin = Phase._begin_epoch

    def poison(self: Phase, epoch: int) -> None:
        begin(self, epoch)
        if epoch == 1:
            with torch.no_grad():
                self.named["backbone_2d.blocks.0.1.weight"][0, 0, 0, 0] = float("nan")

    monkeypatch.setattr(Phase, "_begin_epoch", poison)
    for method in ("slr", None):
        job = make(tmp_path / str(method), method)
        with pytest.raises(NumericsError):
            load_adapter("openpcdet").train(job, resume=True)
        assert last(job)["epoch"] == 1


def test_what_it_cannot_serve_is_refused_before_anything_starts(make: Make, tmp_path: Path) -> None:
    adapter = load_adapter("openpcdet")
    job = make(tmp_path / "train")
    for field, value in (("iterations_per_epoch", 2), ("distill", 0.5), ("schedule", (0.0, 0.5))):
        with pytest.raises(ConfigError, match="OpenPCDet"):
            adapter.train(replace(job, **{field: value}), resume=True)
    with pytest.raises(ConfigError, match="too few for the learning rate's cycle"):
        adapter.train(replace(job, epochs=1, args={**job.args, "batch": 6}), resume=True)
    with pytest.raises(ConfigError, match="no 'MODEL.VFE.NUM_FILTER'.*NUM_FILTERS"):
        adapter.train(replace(job, args={**job.args, "set": {"MODEL.VFE.NUM_FILTER": [8]}}), resume=True)
    assert not (tmp_path / "train" / "ckpt").exists()


def test_frames_without_a_point_in_range_pass(make: Make, samples: Path, tmp_path: Path) -> None:
    """Alone in a batch and beside others: skipped in training, and without detections in evaluation."""
    import numpy as np

    source, folder = samples / "kitti" / "training", tmp_path / "kitti" / "training"
    for part, suffix in (("calib", ".txt"), ("label_2", ".txt"), ("velodyne", ".bin"), ("image_2", ".png")):
        (folder / part).mkdir(parents=True)
        for frame in ("000000", "000001", "000004"):
            (folder / part / f"{frame}{suffix}").symlink_to(source / part / f"{frame}{suffix}")
    for frame, cloud in (("000001", np.zeros((0, 4))), ("000004", np.full((5, 4), 500.0))):
        (folder / "velodyne" / f"{frame}.bin").unlink()
        cloud.astype("<f4").tofile(folder / "velodyne" / f"{frame}.bin")
    adapter = load_adapter("openpcdet")
    data = str(adapter.prepare_data(str(tmp_path / "kitti"), tmp_path / "data"))
    job = replace(make(tmp_path / "train", args={"batch": 1}), data=data)
    assert len(adapter.train(job, resume=True)) == 2
    for batch in (1, 2):
        args = {**job.args, "batch": batch}
        metrics = adapter.evaluate(EvalJob(adapter.last(job.folder), data, args, "cpu"))
        assert metrics["frames"] == 3
    adapter.recalibrate(adapter.last(job.folder), tmp_path / "recalibrated.pt", job)


COMPILED = """
import sys, torch
from slr_det_adapters.openpcdet.inject import use_checkout
name = "pcdet.ops.iou3d_nms.iou3d_nms_cuda"
with use_checkout(sys.argv[1], "cpu") as checkout:
    import pcdet
    from pcdet.ops.iou3d_nms import iou3d_nms_utils as users
    box = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]])
    print(pcdet.__version__.startswith("9.9"), sorted(checkout.compiled), float(users.boxes_iou_bev(box, box)))
    print(users.nms_gpu(box, torch.ones(1), 0.5)[0].tolist(), sys.modules[name].NAME)
print(users.iou3d_nms_cuda.NAME, torch.zeros(1).cuda.__name__)
"""


def test_what_was_compiled_is_used_and_on_a_cpu_ours_serves(openpcdet: Path, tmp_path: Path) -> None:
    """A copy of the checkout with a version file and one extension, which stands in for a compiled one."""
    copy = tmp_path / "OpenPCDet"
    for part in ("pcdet", "tools"):
        shutil.copytree(openpcdet / part, copy / part)
    (copy / "pcdet" / "version.py").write_text("__version__ = '9.9'\n")
    (copy / "pcdet" / "ops" / "iou3d_nms" / "iou3d_nms_cuda.py").write_text("NAME = 'compiled'\n")
    run = subprocess.run(
        [sys.executable, "-c", COMPILED, str(copy)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.splitlines()[-3:] == [
        "True ['iou3d_nms.iou3d_nms_cuda'] 1.0",
        "[0] compiled",
        "compiled cuda",
    ]
    assert not list(copy.rglob("__pycache__"))


@pytest.mark.timeout(900)
def test_the_whole_grid_trains_with_workers(checkout: Path, samples: Path, tmp_path: Path) -> None:
    """The configuration as it is but for the batch: 432 x 496 pillars, 4.8 million weights. Two frames, two epochs."""
    source = tmp_path / "kitti"
    (source / "ImageSets").mkdir(parents=True)
    (source / "training").symlink_to(samples / "kitti" / "training")
    for split in ("train", "val"):
        (source / "ImageSets" / f"{split}.txt").write_text("000000\n000004\n")
    adapter = load_adapter("openpcdet")
    info = adapter.inspect(CONFIG)
    names = tuple(layer.name for layer in info.layers if layer.role == "body" and layer.kind != "other")
    group = GroupSpec("all", names, 0.1, Projection.parse("unstructured"))
    job = TrainJob(
        CONFIG,
        str(adapter.prepare_data(str(source), tmp_path / "data")),
        str(tmp_path / "train"),
        2,
        {"upstream": str(checkout), "batch": 1, "workers": 1},
        engine=EngineSpec("slr", 2, (group,)),
        device="cpu",
    )
    history = adapter.train(job, resume=True)
    assert [record["epoch"] for record in history] == [1, 2]
    assert last(job)["model_state"]["global_step"].item() == 4

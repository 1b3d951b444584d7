"""PointPillars against OpenPCDet's own, with the same weights on real frames: outputs, losses, boxes, speed."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from slr_det.data.kitti import KittiDataset, KittiFolder
from slr_det.models.pointpillars import (
    PRESETS,
    Outputs,
    Pillars,
    PointPillars,
    PointPillarsConfig,
    from_openpcdet,
    pillars_of,
)
from slr_det.models.pointpillars.targets import assign
from slr_det.models.weights import load_into, read_state_dict
from slr_det.pointcloud import in_range, voxelize

pytestmark = [pytest.mark.samples, pytest.mark.slow]

CONFIG = "cfgs/kitti_models/pointpillar.yaml"
KITTI = PRESETS["pointpillars"]
CLOSE = 1e-4
# Objects of each class at odd angles, and one that fits no anchor.
ODD = torch.tensor(
    [
        [12.0, 4.0, -1.0, 4.1, 1.7, 1.5, 0.8, 1.0],
        [15.0, -8.0, -0.8, 0.7, 0.6, 1.7, -2.0, 2.0],
        [9.0, 6.0, -0.8, 1.8, 0.5, 1.7, 2.9, 3.0],
        [30.0, 0.0, -1.0, 9.0, 3.0, 3.0, -0.7, 1.0],
    ]
)


@dataclass(frozen=True)
class Theirs:
    """OpenPCDet's network with random weights, what builds others, and what its trainer saves a model with."""

    model: Any
    config: dict[str, Any]
    build: Callable[[dict[str, Any]], Any]
    checkpoint_state: Any


@pytest.fixture(scope="module")
def theirs(openpcdet: Path) -> Iterator[Theirs]:
    building = pytest.importorskip("slr_det_adapters.openpcdet.building")
    configs = pytest.importorskip("slr_det_adapters.openpcdet.configs")
    cpu = torch.device("cpu")
    with building.opened(openpcdet, cpu) as checkout:
        torch.manual_seed(0)
        config = configs.read(CONFIG, checkout)

        def build(config: dict[str, Any]) -> Any:
            return building.network(config, checkout, cpu)

        save = checkout.seam("train_utils.train_utils", "checkpoint_state")
        yield Theirs(build(config), config, build, save)


@pytest.fixture(scope="module")
def frames(samples: Path) -> list[tuple[Tensor, Tensor]]:
    """Points and the objects in range of four real frames."""
    data = KittiDataset(KittiFolder.open(samples / "kitti"), "val", KITTI.classes, KITTI.point_range)
    chosen = [data[i] for i in range(len(data))][:4]
    return [(frame.points, frame.boxes[in_range(frame.boxes, KITTI.point_range)]) for frame in chosen]


def pillars(
    frames: list[tuple[Tensor, Tensor]], training: bool, config: PointPillarsConfig = KITTI
) -> Pillars:
    return pillars_of([points for points, _ in frames], config, voxelize, training=training)


def their_batch(cut: Pillars, frames: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """The same batch as OpenPCDet's loader would put it together."""
    boxes = torch.zeros(len(frames), max(1, *(len(b) for _, b in frames)), 8)
    for row, (_, own) in zip(boxes, frames, strict=True):
        row[: len(own)] = own
    return {
        "voxels": cut.features.clone(),
        "voxel_coords": cut.coordinates.float(),
        "voxel_num_points": cut.counts.float(),
        "batch_size": len(frames),
        "gt_boxes": boxes,
    }


@pytest.fixture(scope="module")
def ours(theirs: Theirs, frames: list[tuple[Tensor, Tensor]]) -> PointPillars:
    """Ours with weights that find something: statistics of real frames, scores around the threshold.

    Theirs gets the same; a fresh network says "nothing" everywhere, and its boxes are its anchors.
    """
    torch.manual_seed(1)
    model = PointPillars(KITTI)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.momentum = None
    nn.init.normal_(model.dense_head.conv_box.weight, std=0.01)
    nn.init.normal_(model.dense_head.conv_cls.weight, std=0.035)
    with torch.no_grad():
        model.train()(pillars(frames[:2], True))
    theirs.model.load_state_dict(model.state_dict(), strict=True)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.01
    return model


def test_openpcdets_configuration_is_the_preset(openpcdet: Path) -> None:
    document = yaml.safe_load((openpcdet / "tools" / CONFIG).read_text(encoding="utf-8"))
    assert from_openpcdet(document) == KITTI


def test_every_name_shape_and_type_is_theirs_in_their_order(theirs: Theirs, ours: PointPillars) -> None:
    expected = [(name, t.shape, t.dtype) for name, t in theirs.model.state_dict().items()]
    assert [(name, t.shape, t.dtype) for name, t in ours.state_dict().items()] == expected
    assert sum(p.numel() for p in theirs.model.parameters()) == 4_834_888


def test_checkpoints_load_on_either_side(theirs: Theirs, ours: PointPillars, tmp_path: Path) -> None:
    path = tmp_path / "theirs.pth"
    torch.save(theirs.checkpoint_state(theirs.model, None, 3, 40), path)
    torch.manual_seed(5)
    fresh = PointPillars(KITTI)
    load_into(fresh, read_state_dict(path), path)
    fresh.load_state_dict(torch.load(path, weights_only=True)["model_state"], strict=True)
    for name, value in theirs.model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
    back = tmp_path / "ours.pth"
    torch.save({"model_state": ours.state_dict()}, back)
    theirs.model.load_params_with_optimizer(str(back), to_cpu=True, logger=logging.getLogger(__name__))
    for name, value in ours.state_dict().items():
        assert torch.equal(theirs.model.state_dict()[name], value), name


def test_anchors_are_theirs(theirs: Theirs, ours: PointPillars) -> None:
    assert torch.equal(torch.cat(theirs.model.dense_head.anchors, dim=-3)[0].flatten(2, 3), ours.anchors)


def their_outputs(model: Any) -> Outputs:
    said = model.dense_head.forward_ret_dict
    frames = said["cls_preds"].shape[0]
    return Outputs(
        said["cls_preds"].reshape(frames, -1, 3),
        said["box_preds"].reshape(frames, -1, 7),
        said["dir_cls_preds"].reshape(frames, -1, 2),
    )


@torch.no_grad()
def test_outputs_and_boxes_are_theirs(
    theirs: Theirs, ours: PointPillars, frames: list[tuple[Tensor, Tensor]]
) -> None:
    cut = pillars(frames, False)
    batch = their_batch(cut, frames)
    del batch["gt_boxes"]
    expected, _ = theirs.model.eval()(batch)
    outputs = ours.eval()(cut)
    said = their_outputs(theirs.model)
    for name in ("cls", "box", "direction"):
        assert (getattr(outputs, name) - getattr(said, name)).abs().max() < CLOSE, name
    assert len(expected) == len(frames)
    for exact, their in zip(ours.decode(said), expected, strict=True):
        assert torch.equal(exact.boxes, their["pred_boxes"])
        assert torch.equal(exact.scores, their["pred_scores"])
        assert torch.equal(exact.labels, their["pred_labels"])
        assert len(exact.labels.unique()) > 1 and exact.scores.min() >= KITTI.score_threshold
    for mine, their in zip(ours.decode(outputs), expected, strict=True):
        # Scores that differ by one rounding may change places.
        pairs = torch.cdist(
            mine.boxes, their["pred_boxes"], compute_mode="donot_use_mm_for_euclid_dist"
        ).argmin(1)
        assert pairs.sort().values.tolist() == list(range(len(their["pred_scores"])))
        assert (mine.scores - their["pred_scores"][pairs]).abs().max() < CLOSE
        assert (mine.boxes - their["pred_boxes"][pairs]).abs().max() < CLOSE
        assert torch.equal(mine.labels, their["pred_labels"][pairs])


def test_targets_losses_and_statistics_are_theirs(
    theirs: Theirs, ours: PointPillars, frames: list[tuple[Tensor, Tensor]]
) -> None:
    some = [frames[0], frames[1]]
    # A frame without objects, and one with objects of each class at odd angles.
    some[0] = (some[0][0], some[0][1][:0])
    some[1] = (some[1][0], torch.cat([some[1][1], ODD]))
    cut = pillars(some, True)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    batch = their_batch(cut, some)
    total, expected, _ = theirs.model.train()(batch)
    outputs = ours.train()(cut)
    loss, parts = ours.loss(outputs, [boxes for _, boxes in some])
    targets = assign(ours.anchors, [boxes for _, boxes in some], KITTI)
    assert torch.equal(targets.labels.int(), theirs.model.dense_head.forward_ret_dict["box_cls_labels"])
    assert set(targets.labels.unique().tolist()) == {-1, 0, 1, 2, 3}
    said = their_outputs(theirs.model)
    for name in ("cls", "box", "direction"):
        assert (getattr(outputs, name) - getattr(said, name)).abs().max() < CLOSE, name
    for name, value in parts.items():
        assert value.item() == pytest.approx(expected[name], abs=CLOSE, rel=0), name
    assert loss.item() == pytest.approx(total["loss"].item(), abs=CLOSE, rel=0)
    for name, value in theirs.model.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-4)
    ours.load_state_dict(before)
    theirs.model.load_state_dict(before)


def in_double(model: Any) -> Any:
    """Their network in float64."""
    model.dense_head.forward_ret_dict = {}
    double = copy.deepcopy(model).double()
    head = double.dense_head
    head.anchors = [anchors.double() for anchors in head.anchors]
    head.reg_loss_func.code_weights = head.reg_loss_func.code_weights.double()
    return double.train()


def their_batch_in_double(cut: Pillars, frames: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    batch = their_batch(cut, frames)
    return {name: value.double() if isinstance(value, Tensor) else value for name, value in batch.items()}


def test_gradients_are_theirs(theirs: Theirs, frames: list[tuple[Tensor, Tensor]]) -> None:
    """In a smaller network and range, which OpenPCDet can compute in float64 as the referee."""
    small = copy.deepcopy(theirs.config)
    small["DATA_CONFIG"]["POINT_CLOUD_RANGE"] = [0, -10.24, -3, 20.48, 10.24, 1]
    small["MODEL"]["VFE"]["NUM_FILTERS"] = [32]
    small["MODEL"]["MAP_TO_BEV"]["NUM_BEV_FEATURES"] = 32
    small["MODEL"]["BACKBONE_2D"] |= {
        "LAYER_NUMS": [2, 1],
        "LAYER_STRIDES": [2, 2],
        "NUM_FILTERS": [32, 48],
        "UPSAMPLE_STRIDES": [1, 2],
        "NUM_UPSAMPLE_FILTERS": [24, 32],
    }
    config = from_openpcdet(small)
    torch.manual_seed(2)
    ours, model = PointPillars(config).train(), theirs.build(small)
    model.load_state_dict(ours.state_dict(), strict=True)
    referee = in_double(model)
    some = [(points, torch.cat([boxes, ODD])) for points, boxes in frames[:2]]
    cut = pillars(some, True, config)
    loss, _ = ours.loss(ours(cut), [boxes for _, boxes in some])
    loss.backward()
    total, _, _ = model.train()(their_batch(cut, some))
    total["loss"].backward()
    exact, _, _ = referee(their_batch_in_double(cut, some))
    exact["loss"].backward()
    assert loss.item() == pytest.approx(total["loss"].item(), abs=CLOSE, rel=0)
    trio = zip(ours.named_parameters(), model.named_parameters(), referee.named_parameters(), strict=True)
    for (name, mine), (_, their), (_, real) in trio:
        # A rectifier's gradient jumps at zero: both are off by rounding, ours by no more than theirs.
        off, allowed = ((p.grad.double() - real.grad).norm() / real.grad.norm() for p in (mine, their))
        assert off <= 2 * allowed + 1e-4, name


def test_a_training_step_is_not_slower_than_theirs(
    theirs: Theirs,
    ours: PointPillars,
    frames: list[tuple[Tensor, Tensor]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Forward, loss, backward and SGD of the whole grid, batch 1, one thread; processor time, in turn."""
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = frames[:1]
    cut = pillars(one, True)
    optimizers = [torch.optim.SGD(m.parameters(), lr=1e-5, momentum=0.9) for m in (ours, theirs.model)]
    ours.train()
    theirs.model.train()

    def my_step() -> None:
        loss, _ = ours.loss(ours(cut), [boxes for _, boxes in one])
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()

    def their_step() -> None:
        result, _, _ = theirs.model(their_batch(cut, one))
        optimizers[1].zero_grad()
        result["loss"].backward()
        optimizers[1].step()

    def seconds(step: Any) -> float:
        began = time.process_time()
        step()
        return time.process_time() - began

    try:
        taken = np.array([(seconds(my_step), seconds(their_step)) for _ in range(6)])[1:]
    finally:
        torch.set_num_threads(threads)
        ours.load_state_dict(before)
        theirs.model.load_state_dict(before)
    ratio = float(np.median(taken[:, 0] / taken[:, 1]))
    with capsys.disabled():
        mine, their = np.median(taken, axis=0)
        print(
            f"\ntraining step, whole grid, batch 1, 1 thread: {mine:.2f} s, OpenPCDet's {their:.2f} s, {ratio:.2f}x"
        )
    assert ratio < 1.0

"""The network as a whole: it learns a frame, survives empty ones, and is what the pruner sees."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from pointpillars_frames import TINY, batch, cloud, objects, tiny

from slr_det.errors import CheckpointError
from slr_det.models.pointpillars import PRESETS, PointPillars, describe
from slr_det.models.weights import load_into, read_state_dict
from slr_det.pointcloud import iou_bev


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Points on two objects far apart and on the ground around them."""
    truths = torch.tensor(
        [[4.0, -3.0, -1.0, 3.9, 1.6, 1.5, 2.5, 1.0], [9.0, 3.0, 0.2, 0.8, 0.6, 1.7, -1.2, 2.0]]
    )
    generator = torch.Generator().manual_seed(0)
    clouds = [cloud(300) * torch.tensor([1.0, 1.0, 0.0, 1.0]) - torch.tensor([0.0, 0.0, 1.9, 0.0])]
    for box in truths:
        inside = (torch.rand(200, 3, generator=generator) - 0.5) * box[3:6]
        cos, sin = box[6].cos(), box[6].sin()
        x, y, z = inside.unbind(1)
        placed = torch.stack([x * cos - y * sin, x * sin + y * cos, z], 1) + box[:3]
        clouds.append(torch.cat([placed, torch.rand(200, 1, generator=generator)], 1))
    return torch.cat(clouds), truths


def test_training_finds_the_objects_of_a_frame_with_their_headings() -> None:
    torch.manual_seed(0)
    model = PointPillars(TINY).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.1
    points, truths = scene()
    pillars = batch(points)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    first = None
    for _ in range(120):
        total, parts = model.loss(model(pillars), [truths])
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        first = first if first is not None else parts["rpn_loss"]
    assert parts["rpn_loss"] < 0.05 * first
    assert parts["rpn_loss"].item() == pytest.approx(
        sum(parts[f"rpn_loss_{name}"].item() for name in ("cls", "loc", "dir")), rel=1e-5
    )
    (found,) = model.eval().decode(model(pillars), score_threshold=0.5)
    assert found.labels.sort().values.tolist() == [1, 2]
    for truth in truths:
        box = found.boxes[found.labels == int(truth[7])]
        assert iou_bev(box, truth[None, :7]).item() > 0.8
        assert torch.cos(box[0, 6] - truth[6]) > 0.95


@pytest.mark.parametrize("clouds", [(0, 300), (0,), (0, 0)])
def test_training_goes_on_past_frames_without_points_and_objects(clouds: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = PointPillars(TINY).train()
    pillars = batch(*(cloud(count) for count in clouds))
    total, parts = model.loss(model(pillars), [objects(0) for _ in clouds])
    total.backward()
    assert total.isfinite() and parts["rpn_loss_loc"] == 0 and parts["rpn_loss_dir"] == 0
    assert parts["rpn_loss_cls"] > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    assert len(model.eval().decode(model(pillars))) == len(clouds)


def test_mixed_precision_changes_little_and_leaves_losses_and_boxes_in_float32() -> None:
    torch.manual_seed(0)
    model = PointPillars(TINY).train()
    pillars, truths = batch(cloud(500)), [objects(4)]
    full, _ = model.loss(model(pillars), truths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(pillars)
        half, parts = model.loss(outputs, truths)
        (found,) = model.decode(outputs, score_threshold=0.0)
    assert outputs.cls.dtype == torch.bfloat16
    assert half.dtype == found.boxes.dtype == found.scores.dtype == torch.float32
    assert {part.dtype for part in parts.values()} == {torch.float32}
    assert half.item() == pytest.approx(full.item(), rel=0.05)
    half.backward()


def test_a_state_dict_has_openpcdets_names_and_no_anchors() -> None:
    model = PointPillars(TINY)
    names = list(model.state_dict())
    assert names[0] == "global_step" and model.global_step.shape == (1,)
    for name, shape in {
        "vfe.pfn_layers.0.linear.weight": (8, 10),
        "vfe.pfn_layers.0.norm.running_var": (8,),
        "backbone_2d.blocks.0.1.weight": (8, 8, 3, 3),
        "backbone_2d.blocks.1.4.weight": (12, 12, 3, 3),
        "backbone_2d.deblocks.1.0.weight": (12, 8, 2, 2),
        "dense_head.conv_cls.weight": (14, 16, 1, 1),
        "dense_head.conv_box.bias": (49,),
        "dense_head.conv_dir_cls.weight": (14, 16, 1, 1),
    }.items():
        assert model.state_dict()[name].shape == shape
    assert not [name for name in names if "anchors" in name]
    model.count_step()
    model.count_step()
    assert model.state_dict()["global_step"].tolist() == [2]


def test_weights_go_through_a_file_and_other_classes_are_refused_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, other = PointPillars(TINY), PointPillars(TINY)
    path = tmp_path / "model.pth"
    torch.save({"model_state": model.state_dict(), "epoch": 3, "it": 4, "version": "pcdet"}, path)
    load_into(other, read_state_dict(path), path)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)
    car = PointPillars(tiny(classes=("Car",), anchors=TINY.anchors[:1]))
    before = copy.deepcopy(car.state_dict())
    with pytest.raises(CheckpointError, match=r"model\.pth: does not fit.*dense_head\.conv_cls"):
        load_into(car, read_state_dict(path), path)
    assert all(torch.equal(before[name], value) for name, value in car.state_dict().items())


def test_the_pruner_sees_layers_in_order_with_the_outputs_as_heads() -> None:
    model = PointPillars(PRESETS["pointpillars_small"])
    info = describe(model)
    roles = {layer.name: layer.role for layer in info.layers}
    assert [name for name, role in roles.items() if role == "head"] == [
        "dense_head.conv_cls.weight",
        "dense_head.conv_box.weight",
        "dense_head.conv_dir_cls.weight",
    ]
    assert [name for name, role in roles.items() if role == "first"] == ["vfe.pfn_layers.0.linear.weight"]
    assert info.classes == 3 and info.parameters == sum(p.numel() for p in model.parameters())
    assert list(info.weights) == [name for name, _ in model.named_parameters()]
    assert len(describe(PointPillars(PRESETS["pointpillars"])).layers) == 23

"""Losses against their formulas, written out for one number at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pointpillars_frames import TINY, objects, tiny

from slr_det.models.pointpillars import Outputs
from slr_det.models.pointpillars.coder import decode, encode
from slr_det.models.pointpillars.losses import box_loss, direction_bin, focal_loss, losses
from slr_det.models.pointpillars.targets import Targets


def focal(logit: float, hit: bool) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -0.25 * (1 - p) ** 2 * math.log(p) if hit else -0.75 * p**2 * math.log(1 - p)


def smooth(x: float) -> float:
    return 4.5 * x * x if abs(x) < 1 / 9 else abs(x) - 1 / 18


def test_the_focal_loss_is_its_formula() -> None:
    logits = torch.linspace(-6, 6, 24).view(2, 4, 3)
    labels = torch.tensor([[0, 1, -1, 3], [2, 0, 0, -1]])
    found = focal_loss(logits, labels)
    for frame in range(2):
        for place in range(4):
            label = int(labels[frame, place])
            row = logits[frame, place].tolist()
            expected = 0.0 if label < 0 else sum(focal(x, label == c) for c, x in enumerate(row, 1))
            assert found[frame, place].item() == pytest.approx(expected, rel=1e-5)


def test_the_focal_loss_of_large_logits_is_finite_with_finite_gradients() -> None:
    logits = torch.tensor([[[-80.0, 80.0], [80.0, -80.0]]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[1, 0]])).sum()
    assert loss.item() == pytest.approx(0.25 * 80 + 2 * 0.75 * 80)
    loss.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_the_box_loss_is_its_formula_and_forgets_half_turns() -> None:
    weights = (1.0, 2.0, 0.5, 1.0, 1.0, 3.0, 1.5)
    torch.manual_seed(0)
    offsets, wanted = torch.randn(6, 7) * 0.2, torch.randn(6, 7) * 0.2
    expected = []
    for mine, target in zip(offsets.tolist(), wanted.tolist(), strict=True):
        difference = [a - b for a, b in zip(mine, target, strict=True)]
        difference[6] = math.sin(difference[6])
        expected.append(sum(smooth(w * d) for w, d in zip(weights, difference, strict=True)))
    torch.testing.assert_close(box_loss(offsets, wanted, weights), torch.tensor(expected))
    turned = offsets + torch.tensor([0, 0, 0, 0, 0, 0, math.pi])
    torch.testing.assert_close(
        box_loss(turned, wanted, weights), torch.tensor(expected), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("bins", [1, 2, 4])
def test_a_direction_is_the_part_of_the_circle_behind_the_offset(bins: int) -> None:
    config = tiny(direction_bins=bins, direction_offset=0.5)
    headings = torch.linspace(-7.0, 7.0, 57)
    expected = [int(((h - 0.5) % (2 * math.pi)) / (2 * math.pi / bins)) for h in headings.tolist()]
    assert direction_bin(headings, config).tolist() == expected
    assert set(expected) == set(range(bins))


def test_each_frame_is_divided_by_its_own_objects_and_the_frames_are_averaged() -> None:
    torch.manual_seed(0)
    anchors = torch.rand(5, 7) + 1
    labels = torch.tensor([[1, 2, 0, -1, 1], [0, 0, 0, -1, 0]])
    at, places = (labels > 0).nonzero().unbind(1)
    boxes = torch.rand(3, 7) + 1
    outputs = Outputs(torch.randn(2, 5, 2), torch.randn(2, 5, 7), torch.randn(2, 5, 2))
    config = tiny(class_weight=3.0, box_weight=5.0, direction_weight=7.0)
    parts = losses(outputs, Targets(labels, at, places, boxes), anchors, config)
    cls = focal_loss(outputs.cls, labels).sum(1)
    assert parts["rpn_loss_cls"].item() == pytest.approx(3 * (cls[0] / 3 + cls[1]).item() / 2, rel=1e-5)
    wanted = encode(boxes, anchors[places])
    loc = box_loss(outputs.box[0, places], wanted, (1.0,) * 7).sum().item()
    assert parts["rpn_loss_loc"].item() == pytest.approx(5 * loc / 3 / 2, rel=1e-5)
    bins = direction_bin(boxes[:, 6], config).tolist()
    said = outputs.direction[0, places].log_softmax(1)
    direction = -sum(said[row, column].item() for row, column in enumerate(bins))
    assert parts["rpn_loss_dir"].item() == pytest.approx(7 * direction / 3 / 2, rel=1e-5)


def test_half_precision_outputs_are_summed_in_float32() -> None:
    torch.manual_seed(0)
    anchors, labels = torch.rand(5, 7) + 1, torch.tensor([[1, 0, 0, 2, 0]])
    targets = Targets(labels, *(labels > 0).nonzero().unbind(1), torch.rand(2, 7) + 1)
    half = Outputs(*(torch.randn(1, 5, n, dtype=torch.bfloat16) for n in (2, 7, 2)))
    full = Outputs(half.cls.float(), half.box.float(), half.direction.float())
    expected = losses(full, targets, anchors, TINY)
    for name, value in losses(half, targets, anchors, TINY).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_box_comes_back_from_its_offsets(seed: int) -> None:
    boxes, anchors = objects(6, seed)[:, :7], objects(6, seed + 1)[:, :7]
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes, rtol=1e-4, atol=1e-4)


def test_offsets_are_their_formulas() -> None:
    anchor = torch.tensor([1.0, 2.0, 3.0, 3.0, 4.0, 2.0, 0.5])
    box = torch.tensor([2.0, 4.0, 2.0, 6.0, 2.0, 2.0, 2.0])
    expected = torch.tensor([1 / 5, 2 / 5, -1 / 2, math.log(2), math.log(0.5), 0.0, 1.5])
    torch.testing.assert_close(encode(box, anchor), expected)

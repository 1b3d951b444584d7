"""Anchors and their targets against one anchor and one object at a time."""

from __future__ import annotations

import math

import pytest
import torch
from pointpillars_frames import TINY, objects, tiny
from torch import Tensor

from slr_det.models.pointpillars import AnchorClass
from slr_det.models.pointpillars.anchors import anchors_of, owners_of
from slr_det.models.pointpillars.targets import assign


def test_anchors_stand_where_and_how_the_description_says() -> None:
    anchors = anchors_of(TINY)
    assert anchors.shape == (16, 16, 7, 7) and TINY.anchors_per_cell == 7
    torch.testing.assert_close(anchors[0, 0, 0], torch.tensor([0, -6.4, -1.0, 3.9, 1.6, 1.56, 0]))
    torch.testing.assert_close(anchors[-1, -1, 1], torch.tensor([12.8, 6.4, -1.0, 3.9, 1.6, 1.56, 1.57]))
    torch.testing.assert_close(
        anchors[2, 5, 3],
        torch.tensor([5 * 12.8 / 15, -6.4 + 2 * 12.8 / 15, -0.78, 5.0, 2.0, 2.0, 1.57]),
    )
    torch.testing.assert_close(anchors[0, 1, 5], torch.tensor([12.8 / 15, -6.4, 0.265, 0.8, 0.6, 1.73, 0.8]))
    assert owners_of(TINY) == [slice(0, 4), slice(4, 7)]


def test_centred_anchors_stand_in_the_middle_of_their_cells() -> None:
    car = AnchorClass("Car", ((4.0, 2.0, 1.5),), -1.0, centred=True)
    anchors = anchors_of(tiny(classes=("Car",), anchors=(car,)))
    torch.testing.assert_close(anchors[0, :, 0, 0], torch.arange(16) * 0.8 + 0.4)
    torch.testing.assert_close(anchors[:, 0, 0, 1], torch.arange(16) * 0.8 - 6.0)


def iou(a: list[float], b: list[float]) -> float:
    """Of two boxes turned to the nearest axis."""

    def sides(box: list[float]) -> tuple[float, float, float, float]:
        turn = abs(box[6] - math.floor(box[6] / math.pi + 0.5) * math.pi)
        dx, dy = (box[3], box[4]) if turn < math.pi / 4 else (box[4], box[3])
        return box[0] - dx / 2, box[0] + dx / 2, box[1] - dy / 2, box[1] + dy / 2

    ax, aX, ay, aY = sides(a)
    bx, bX, by, bY = sides(b)
    shared = max(0.0, min(aX, bX) - max(ax, bx)) * max(0.0, min(aY, bY) - max(ay, by))
    return shared / ((aX - ax) * (aY - ay) + (bX - bx) * (bY - by) - shared)


def one_by_one(anchors: Tensor, truths: Tensor) -> tuple[list[int], list[int]]:
    """Label and object of every anchor of a frame, by the rules in words."""
    labels, which = [0] * len(anchors), [-1] * len(anchors)
    for anchor, owner in zip(TINY.anchors, owners_of(TINY), strict=True):
        label = TINY.classes.index(anchor.name) + 1
        mine = [i for i, truth in enumerate(truths.tolist()) if truth[7] == label]
        places = [i for i in range(len(anchors)) if owner.start <= i % 7 < owner.stop]
        table = {(p, i): iou(anchors[p].tolist(), truths[i].tolist()) for p in places for i in mine}
        most = {i: max(table[p, i] for p in places) for i in mine}
        for p in places:
            if not mine:
                continue
            best = max(mine, key=lambda i: table[p, i])
            forced = any(most[i] > 0 and abs(table[p, i] - most[i]) < 1e-7 for i in mine)
            if forced or table[p, best] >= anchor.matched:
                labels[p], which[p] = label, best
            elif table[p, best] >= anchor.unmatched:
                labels[p] = -1
    return labels, which


@pytest.mark.parametrize("seed", range(4))
def test_targets_are_those_of_the_rules_one_by_one(seed: int) -> None:
    anchors = anchors_of(TINY)
    frames = [objects(count, 10 * seed + count) for count in (5, 0, 1)]
    targets = assign(anchors, frames, TINY)
    found = {}
    for frame, place, box in zip(
        targets.frames.tolist(), targets.places.tolist(), targets.boxes, strict=True
    ):
        found[frame, place] = box
    expected = {}
    for frame, truths in enumerate(frames):
        labels, which = one_by_one(anchors.flatten(0, 2), truths)
        assert targets.labels[frame].tolist() == labels
        expected |= {(frame, p): truths[i, :7] for p, i in enumerate(which) if i >= 0}
    assert found.keys() == expected.keys() and expected
    for key, box in expected.items():
        torch.testing.assert_close(found[key], box)


def test_an_object_that_fits_no_anchor_still_takes_its_best() -> None:
    anchors = anchors_of(TINY)
    odd = torch.tensor([[6.0, 0.0, -1.0, 9.0, 0.4, 1.5, 0.3, 1.0]])
    targets = assign(anchors, [odd], TINY)
    overlaps = [iou(anchor.tolist(), odd[0].tolist()) for anchor in anchors.flatten(0, 2)[targets.places]]
    assert overlaps and max(overlaps) < 0.45
    assert (targets.labels == 1).sum() == len(overlaps)


def test_what_overlaps_no_anchor_or_is_of_no_class_takes_none() -> None:
    anchors = anchors_of(TINY)
    far = torch.tensor([[90.0, 0.0, -1.0, 4.0, 1.6, 1.5, 0.0, 1.0]])
    unknown = torch.tensor([[6.0, 0.0, -1.0, 4.0, 1.6, 1.5, 0.0, 3.0]])
    for truths in (far, unknown, torch.zeros(0, 8)):
        targets = assign(anchors, [truths], TINY)
        assert not targets.labels.any() and not len(targets.places) and targets.boxes.shape == (0, 7)


def test_no_frame_has_no_target() -> None:
    targets = assign(anchors_of(TINY), [], TINY)
    assert targets.labels.shape == (0, 16 * 16 * 7) and targets.boxes.shape == (0, 7)

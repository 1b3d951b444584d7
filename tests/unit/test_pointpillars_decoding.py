"""Detections against decoding every anchor and suppressing pair by pair."""

from __future__ import annotations

import math

import pytest
import torch
from pointpillars_frames import TINY, objects, tiny

from slr_det.models.pointpillars import Outputs
from slr_det.models.pointpillars.anchors import anchors_of
from slr_det.models.pointpillars.coder import encode
from slr_det.models.pointpillars.decoding import boxes_of, detections
from slr_det.models.pointpillars.losses import direction_bin
from slr_det.pointcloud import iou_bev

ANCHORS = anchors_of(TINY).flatten(0, 2)


def outputs(frames: int, seed: int) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    shape = frames, len(ANCHORS)
    return Outputs(
        torch.randn(*shape, 2, generator=generator) - 2,
        torch.randn(*shape, 7, generator=generator) * 0.2,
        torch.randn(*shape, 2, generator=generator),
    )


@pytest.mark.parametrize("bins", [2, 4])
@pytest.mark.parametrize("limit", [0.0, 0.5])
def test_a_heading_comes_back_whichever_way_its_anchor_lies(bins: int, limit: float) -> None:
    config = tiny(direction_bins=bins, direction_limit=limit)
    boxes = objects(40, 3)[:, :7]
    anchors = ANCHORS[torch.arange(40) * 7]
    offsets = encode(boxes, anchors)
    if limit == 0.0:
        offsets[:, 6] += torch.randint(-2, 3, (40,)) * 2 * torch.pi / bins
    bin_of = direction_bin(boxes[:, 6], config)
    found = boxes_of(offsets, torch.nn.functional.one_hot(bin_of, bins).float(), anchors, config)
    torch.testing.assert_close(found[:, :6], boxes[:, :6], rtol=1e-4, atol=1e-4)
    if limit == 0.0:
        assert (torch.sin((found[:, 6] - boxes[:, 6]) / 2).abs() < 1e-4).all()
    else:
        period = 2 * math.pi / bins
        assert (torch.sin((found[:, 6] - boxes[:, 6]) * math.pi / period).abs() < 1e-3).all()


@pytest.mark.parametrize("seed", range(3))
def test_detections_are_those_of_every_anchor_decoded_and_suppressed_in_turn(seed: int) -> None:
    config = tiny(nms_pre=120, nms_post=15, nms_threshold=0.1, score_threshold=0.3)
    out = outputs(2, seed)
    for frame, found in enumerate(detections(out, ANCHORS, config)):
        scores, labels = out.cls[frame].sigmoid().max(1)
        boxes = boxes_of(out.box[frame], out.direction[frame], ANCHORS, config)
        order = [i for i in scores.argsort(descending=True).tolist() if scores[i] >= 0.3][:120]
        assert len(order) == 120
        table = iou_bev(boxes[order], boxes[order])
        kept: list[int] = []
        for row in range(len(order)):
            if all(table[row, other] <= 0.1 for other in kept):
                kept.append(row)
        expected = [order[row] for row in kept[:15]]
        torch.testing.assert_close(found.boxes, boxes[expected])
        torch.testing.assert_close(found.scores, scores[expected])
        assert found.labels.tolist() == (labels[expected] + 1).tolist()
        assert set(found.labels.tolist()) == {1, 2}


def test_a_threshold_may_be_given_and_may_leave_nothing() -> None:
    out = outputs(1, 0)
    (some,) = detections(out, ANCHORS, TINY, 0.5)
    assert len(some.scores) and some.scores.min() >= 0.5
    (none,) = detections(out, ANCHORS, TINY, 1.0)
    assert none.boxes.shape == (0, 7) and none.scores.shape == none.labels.shape == (0,)


def test_an_anchor_with_numbers_that_are_none_is_no_detection() -> None:
    out = outputs(1, 0)
    out.cls[:] = -9.0
    out.cls[0, :4, 0] = torch.tensor([9.0, math.nan, 8.0, 7.0])
    out.box[0, 0, 3] = math.inf
    out.box[0, 3, 0] = math.nan
    (found,) = detections(out, ANCHORS, TINY)
    assert found.scores.tolist() == pytest.approx([1 / (1 + math.exp(-8.0))])

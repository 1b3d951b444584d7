"""Lanes as cells of row anchors and back: slots, targets, the way down to the border, and expectations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tusimple_frames import HEIGHTS, STRAIGHT, lanes, straight

from slr_det.data.tusimple.anchors import (
    ROW_ANCHORS,
    lane_slots,
    marks_to_targets,
    slot_marks,
    to_lanes,
    to_targets,
)
from slr_det.data.tusimple.marks import draw_marks
from slr_det.errors import DataError

CELL = 1279 / 99


def test_lanes_get_their_slots_in_any_order() -> None:
    assert lane_slots(lanes(), HEIGHTS) == (1, 3, 0, 2)
    assert lane_slots(lanes()[::-1], HEIGHTS) == (2, 0, 3, 1)


def test_lanes_fill_slots_from_the_middle_outwards_and_flat_ones_are_left_out() -> None:
    left, right = straight(620, -0.7), straight(660, 0.8)
    assert lane_slots(np.stack([right]), HEIGHTS) == (None, None, 0, None)
    assert lane_slots(np.stack([right, left]), HEIGHTS) == (None, 1, 0, None)
    three = np.stack([straight(500, -3.0), straight(600, -2.0), left])
    assert lane_slots(three, HEIGHTS) == (1, 2, None, None)
    assert lane_slots(np.zeros((0, 56), np.int64), HEIGHTS) == (None,) * 4


def test_short_and_level_lanes_have_no_slot_and_an_upright_one_is_right() -> None:
    short = straight(660, 0.8, last=260)  # 60 down and 48 across: 77 pixels
    assert lane_slots(np.stack([short]), HEIGHTS) == (None,) * 4
    long = straight(660, 0.8, last=280)  # 80 down and 64 across: 102 pixels
    assert lane_slots(np.stack([long]), HEIGHTS) == (None, None, 0, None)
    single = np.where(HEIGHTS == 300, 5, -2)
    assert lane_slots(np.stack([single, np.full(56, -2)]), HEIGHTS) == (None,) * 4
    assert lane_slots(np.full((1, 56), 640), HEIGHTS) == (None, None, 0, None)


def test_targets_are_the_cells_of_straight_lanes() -> None:
    targets = to_targets(lanes(), HEIGHTS)
    assert targets.shape == (56, 4) and targets.dtype == np.int64
    y = np.array(ROW_ANCHORS) * 2.5
    for slot, (start, slope) in enumerate(STRAIGHT):
        x = start + slope * (y - 200)
        # Away from the ends, where the round ends of the drawn line and the border of the picture begin.
        inside = (y >= 210) & (x > 30) & (x < 1250)
        # Half a line's width, as rows are up to a pixel off, and where lanes are drawn over each other near the top.
        near = np.abs((targets[inside, slot] + 0.5) * CELL - x[inside]) < CELL / 2 + 9
        assert near.all() and inside.sum() > 25
        apart = inside & (y > 260)
        assert np.abs((targets[apart, slot] + 0.5) * CELL - x[apart]).max() < CELL / 2 + 2.5
        assert (targets[y < 190, slot] == 100).all()


def test_a_lane_goes_on_to_the_border_along_its_lower_half() -> None:
    ends = straight(660, 0.8, last=500)
    whole = to_targets(np.stack([straight(660, 0.8)]), HEIGHTS)[:, 2]
    extended = to_targets(np.stack([ends]), HEIGHTS)[:, 2]
    assert np.abs(whole - extended).max() <= 1 and (extended[-21:] < 100).all()
    # Outwards of the picture it ends.
    steep = to_targets(np.stack([straight(600, -2.0, last=400)]), HEIGHTS)[:, 1]
    y = np.array(ROW_ANCHORS) * 2.5
    assert (steep[y > 506] == 100).all() and (steep[(y > 210) & (y < 490)] < 100).all()
    # A bend in the upper half does not matter.
    bent = ends.copy()
    bent[:17] = np.where(bent[:17] != -2, bent[:17] - 40, -2)
    assert np.array_equal(to_targets(np.stack([bent]), HEIGHTS)[-15:, 2], extended[-15:])


def test_few_points_are_not_extended() -> None:
    marks = np.zeros((720, 1280), np.uint8)
    for rows, goes_on in ((5, False), (6, True)):
        marks[:] = 0
        marks[160 : 160 + 10 * (rows - 1) + 1, 640] = 1
        targets = marks_to_targets(marks)[:, 0]
        assert (targets[:rows] == 640 // CELL).all()
        assert (targets[rows:] == (640 // CELL if goes_on else 100)).all()


def test_a_target_is_the_mean_of_a_lanes_pixels_and_later_slots_lie_over_earlier_ones() -> None:
    marks = np.zeros((720, 1280), np.uint8)
    marks[:, 100:105] = 1  # mean 102: cell 7
    marks[:, 1279] = 4
    targets = marks_to_targets(marks)
    assert (targets[:, 0] == 7).all() and (targets[:, 3] == 99).all() and (targets[:, 1:3] == 100).all()
    points = np.array([[10, 10], [90, 10]])
    both = draw_marks([(1, points), (2, points)], (100, 20))
    assert set(np.unique(both)) == {0, 2}
    # 17 pixels high, with round ends that reach 8 further.
    assert np.flatnonzero(both[:, 50]).tolist() == list(range(2, 19))
    assert np.flatnonzero(both[10]).tolist() == list(range(2, 99))


def test_other_sizes_anchors_and_cells() -> None:
    half = to_targets(lanes() // 2, HEIGHTS // 2, (640, 360), ROW_ANCHORS[10::5], 50)
    whole = to_targets(lanes(), HEIGHTS, (1280, 720), ROW_ANCHORS[10::5], 50)
    assert half.shape == whole.shape == (10, 4) and half.max() == 50
    # A lane that leaves the half picture ends a row earlier or later, as its line is as wide as in the whole one.
    assert (np.abs(half - whole) <= 1).mean() > 0.9


def test_rows_without_lanes_have_no_targets_and_lengths_must_agree() -> None:
    assert (to_targets(np.zeros((0, 56), np.int64), HEIGHTS) == 100).all()
    assert (to_targets(np.full((3, 56), -2), HEIGHTS) == 100).all()
    assert not slot_marks(np.full((3, 56), -2), HEIGHTS).any()
    with pytest.raises(DataError, match=r"lanes of shape \(4, 56\) for 55 h_samples"):
        to_targets(lanes(), HEIGHTS[:-1])


def test_outputs_become_expected_cells() -> None:
    logits = torch.full((5, 2, 3), -30.0)
    logits[1, 0, 0] = 10
    logits[1, 1, 0] = logits[2, 1, 0] = 10
    logits[4, :, 1] = 11
    logits[3, 0, 2], logits[4, 0, 2] = 9, 10  # "no lane here" is the largest
    logits[3, 1, 2], logits[4, 1, 2] = 10, 9
    lanes = to_lanes(logits, row_anchors=(64, 68), image_size=(300, 720))
    # Four cells: (expected cell + 0.5) x 300 / 3.
    assert lanes.tolist() == [[150, 200], [-2, -2], [-2, 350]]
    batch = to_lanes(torch.stack([logits, logits.flip(2)]), row_anchors=(64, 68), image_size=(300, 720))
    assert np.array_equal(batch[0], lanes) and np.array_equal(batch[1], lanes[::-1])
    with pytest.raises(DataError, match="outputs with 2 rows, expected 56"):
        to_lanes(logits)


def test_lanes_at_other_heights_lie_on_straight_lines_between_anchors() -> None:
    logits = torch.full((101, 56, 1), -30.0)
    for row in range(56):
        logits[row if row < 50 else 100, row, 0] = 10
    at_anchors = to_lanes(logits)[0]
    assert np.array_equal(to_lanes(logits, HEIGHTS)[0], at_anchors)
    between = to_lanes(logits, [150, 160, 165, 640, 650, 655, 660, 710, 720])[0]
    first, second = at_anchors[:2]
    assert abs(between[2] - (first + second) / 2) <= 1
    assert between[[0, 1, 3, 4, 5, 6, 7, 8]].tolist() == [
        -2,
        first,
        at_anchors[48],
        at_anchors[49],
        -2,
        -2,
        -2,
        -2,
    ]


def test_every_anchor_is_at_the_height_of_a_label() -> None:
    """A point does not vanish because the anchor above or below it has none."""
    logits = torch.full((101, 56, 2), -30.0)
    logits[5, ::2, 0] = logits[5, 1::2, 1] = 10
    logits[100, 1::2, 0] = logits[100, ::2, 1] = 10
    found = to_lanes(logits, HEIGHTS)
    assert np.array_equal(found, to_lanes(logits))
    assert ((found >= 0) == [np.arange(56) % 2 == 0, np.arange(56) % 2 == 1]).all()


def test_targets_taken_as_outputs_give_the_lanes_again() -> None:
    targets = torch.from_numpy(to_targets(lanes(), HEIGHTS))
    logits = torch.nn.functional.one_hot(targets, 101).permute(2, 0, 1) * 40.0
    found = to_lanes(logits, HEIGHTS)
    for slot, index in enumerate((1, 3, 0, 2)):
        truth = lanes()[index]
        both = (truth >= 0) & (found[slot] >= 0) & (HEIGHTS > 260)
        assert both.sum() > 20 and np.abs(truth - found[slot])[both].max() < CELL / 2 + 3

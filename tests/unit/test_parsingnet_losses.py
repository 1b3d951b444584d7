"""parsingNet's losses against the formulas written out, and against cases that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from slr_det.models.parsingnet import ParsingNetConfig
from slr_det.models.parsingnet.losses import focal_loss, losses, shape_loss, similarity_loss, total


def some_logits(rows: int = 7) -> torch.Tensor:
    return torch.randn(2, 6, rows, 3, generator=torch.Generator().manual_seed(rows)) * 2


def softmax(values: np.ndarray) -> np.ndarray:
    exponents = np.exp(values - values.max())
    return exponents / exponents.sum()


def test_focal_loss_is_the_mean_over_rows_and_lanes() -> None:
    logits = some_logits()
    targets = torch.randint(6, (2, 7, 3), generator=torch.Generator().manual_seed(1))
    values = []
    for b, r, lane in np.ndindex(2, 7, 3):
        p = softmax(logits[b, :, r, lane].double().numpy())[int(targets[b, r, lane])]
        values.append(-((1 - p) ** 2) * math.log(p))
    assert float(focal_loss(logits, targets)) == pytest.approx(np.mean(values), rel=1e-5)


def test_focal_loss_of_a_sure_answer_is_nothing_and_of_a_wrong_one_finite() -> None:
    logits = torch.zeros(1, 6, 1, 1)
    logits[0, 2] = 1e4
    right = torch.full((1, 1, 1), 2)
    assert float(focal_loss(logits, right)) == 0.0
    assert float(focal_loss(logits, right - 1)) == pytest.approx(1e4)


def test_similarity_is_the_smooth_distance_of_neighbouring_rows() -> None:
    logits = some_logits()
    values = []
    for b, c, r, lane in np.ndindex(2, 6, 6, 3):
        d = abs(float(logits[b, c, r, lane] - logits[b, c, r + 1, lane]))
        values.append(d * d / 2 if d < 1 else d - 0.5)
    assert float(similarity_loss(logits)) == pytest.approx(np.mean(values), rel=1e-5)
    assert float(similarity_loss(logits[:, :, :1].expand(2, 6, 5, 3))) == 0.0


@pytest.mark.parametrize("rows", [4, 5, 8])
def test_shape_is_the_mean_second_difference_in_the_upper_half(rows: int) -> None:
    """Every sum written out: places by the expectation without the last class, then |d_i - d_(i+1)|."""
    logits = some_logits(rows)
    places = np.empty((2, rows, 3))
    for b, r, lane in np.ndindex(2, rows, 3):
        places[b, r, lane] = softmax(logits[b, :5, r, lane].double().numpy()) @ np.arange(5)
    slopes = [places[:, i] - places[:, i + 1] for i in range(rows // 2)]
    bends = [np.abs(slopes[i] - slopes[i + 1]).mean() for i in range(len(slopes) - 1)]
    assert float(shape_loss(logits)) == pytest.approx(np.mean(bends), rel=1e-4)


def test_a_straight_lane_has_no_bend_and_a_bent_one_its_own() -> None:
    straight = torch.full((1, 11, 6, 1), -1e4)
    for row in range(6):
        straight[0, row, row] = 0.0
    assert float(shape_loss(straight)) == pytest.approx(0.0, abs=1e-6)
    bent = torch.full((1, 11, 6, 1), -1e4)
    for row in range(6):
        bent[0, row * (row + 1) // 2 % 10, row] = 0.0  # cells 0, 1, 3, 6: the slope changes by 1 in each row
    assert float(shape_loss(bent)) == pytest.approx(1.0)


def test_the_sum_has_the_weights_of_the_configuration() -> None:
    logits, targets = some_logits(), torch.zeros(2, 7, 3, dtype=torch.int64)
    segmentation, places = torch.randn(2, 4, 3, 5), torch.ones(2, 3, 5, dtype=torch.int64)
    parts = losses(logits.bfloat16(), targets, segmentation.bfloat16(), places)
    assert all(part.dtype == torch.float32 and part.ndim == 0 for part in parts.values())
    assert list(losses(logits, targets, None, None)) == ["cls_loss", "relation_loss", "relation_dis"]
    config = ParsingNetConfig(similarity_weight=2.0, shape_weight=0.5, aux_weight=3.0)
    expected = (
        parts["cls_loss"] + 2 * parts["relation_loss"] + 3 * parts["aux_loss"] + 0.5 * parts["relation_dis"]
    )
    assert float(total(parts, config)) == pytest.approx(float(expected), rel=1e-6)

"""Top-1 and top-5 accuracy, the loss, and what is no answer at all."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from slr_det.errors import ConfigError, DataError, NumericsError
from slr_det.metrics.classification import TopK

NAMES = [f"c{i}" for i in range(8)]


@pytest.mark.parametrize("ties", [False, True])
def test_the_numbers_are_those_of_a_sort_per_image(ties: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(500, 8, generator=generator) * 2
    if ties:
        logits = logits.round()
    labels = torch.randint(0, 7, (500,), generator=generator)  # class 7 never occurs
    metric = TopK(NAMES)
    for start in range(0, 500, 37):
        metric.process(logits[start : start + 37], labels[start : start + 37])
    result = metric.evaluate()

    # Stable: of equal logits the lower index comes first.
    order = np.argsort(-logits.numpy(), axis=1, kind="stable")
    right = labels.numpy()[:, None]
    first = (order[:, :1] == right).any(1)
    rows = logits.double().numpy()
    loss = [math.log(sum(map(math.exp, row))) - row[label] for row, label in zip(rows, labels, strict=True)]
    assert result.images == 500
    assert result.metrics == {
        "top1": first.mean(),
        "top5": (order[:, :5] == right).any(1).mean(),
        "loss": pytest.approx(sum(loss) / 500, rel=1e-12),
    }
    assert result.per_class == {
        f"c{label}": {"top1": pytest.approx(first[labels.numpy() == label].mean())} for label in range(7)
    }
    assert 0 < result.metrics["top1"] < result.metrics["top5"] < 1
    assert json.loads(json.dumps(result.to_dict()))["metrics"] == result.metrics


def test_of_tied_classes_the_lower_index_is_the_answer() -> None:
    metric = TopK(NAMES[:3])
    metric.process(torch.zeros(3, 3), torch.tensor([0, 1, 2]))
    assert metric.evaluate().per_class == {"c0": {"top1": 1.0}, "c1": {"top1": 0.0}, "c2": {"top1": 0.0}}
    metric = TopK(NAMES)
    metric.process(torch.zeros(8, 8), torch.arange(8))
    assert metric.evaluate().metrics == {"top1": 1 / 8, "top5": 5 / 8, "loss": pytest.approx(math.log(8))}


def test_top5_is_reported_with_more_than_five_classes_only() -> None:
    for count in (2, 5, 6):
        metric = TopK(NAMES[:count])
        metric.process(torch.eye(count), torch.arange(count))
        assert ("top5" in metric.evaluate().metrics) is (count > 5)
        assert metric.evaluate().metrics["top1"] == 1.0


def test_half_precision_and_int32_labels_are_taken() -> None:
    metric = TopK(NAMES)
    metric.process(torch.eye(8, dtype=torch.bfloat16), torch.arange(8, dtype=torch.int32))
    assert metric.evaluate().metrics["top1"] == 1.0


def test_reset_forgets() -> None:
    metric = TopK(NAMES)
    metric.process(torch.eye(8), torch.arange(8).flip(0))
    metric.reset()
    with pytest.raises(DataError, match=r"no image was evaluated"):
        metric.evaluate()
    metric.process(torch.eye(8), torch.arange(8))
    result = metric.evaluate()
    assert (result.images, result.metrics["top1"], result.metrics["top5"]) == (8, 1.0, 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_no_number_stops_and_names_the_image(bad: float) -> None:
    metric = TopK(NAMES)
    metric.process(torch.eye(8), torch.arange(8))
    logits = torch.eye(8)
    logits[3, 1] = bad
    with pytest.raises(NumericsError, match=r"^image 11 of the evaluation"):
        metric.process(logits, torch.arange(8))
    assert metric.evaluate().images == 8


def test_what_does_not_fit_is_refused() -> None:
    metric = TopK(NAMES)
    with pytest.raises(DataError, match=r"logits \(4, 7\) and labels \(4,\), expected \(N, 8\) and \(N,\)"):
        metric.process(torch.zeros(4, 7), torch.zeros(4).long())
    with pytest.raises(DataError, match=r"labels \(3,\)"):
        metric.process(torch.zeros(4, 8), torch.zeros(3).long())
    for label in (-1, 8):
        with pytest.raises(DataError, match=rf"label {label}, expected a class index from 0 to 7"):
            metric.process(torch.zeros(1, 8), torch.tensor([label]))
    for names in ([], ["a", "a"]):
        with pytest.raises(ConfigError, match=r"expected at least one and none twice"):
            TopK(names)

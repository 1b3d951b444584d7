"""A minimum is met or missed by a metric's own name, or by one that users have for it."""

from __future__ import annotations

import pytest

from slr_det import classify, lane, yolo
from slr_det.errors import ConfigError
from slr_det.metrics.coco import METRIC_ALIASES
from slr_det.metrics.minimum import check_minimum


def test_minimum_names_each_metric_below_it() -> None:
    metrics = {"AP": 0.31, "AP50": 0.52, "AR100": 0.4, "per_class": {}, "trainer_map50": 0.5}
    assert METRIC_ALIASES == {"map50": "AP50", "map": "AP", "map75": "AP75"} == yolo.TASK.metric_aliases
    assert check_minimum(metrics, {"map50": 0.52, "map": 0.3, "AR100": 0.1}, METRIC_ALIASES) == []
    assert check_minimum(metrics, {"map50": 0.5201, "AP": 0.3}, METRIC_ALIASES) == [
        "map50 is 0.5200, below the minimum of 0.5201"
    ]
    assert len(check_minimum(metrics, {"mAP50": 0.6, "ap": 0.6}, METRIC_ALIASES)) == 2
    found = check_minimum({"AP": float("nan")}, {"map": 0.1}, METRIC_ALIASES)
    assert found == ["map is nan, below the minimum of 0.1"]


def test_a_minimum_in_percent_is_told_that_scores_are_fractions() -> None:
    assert check_minimum({"AP": 0.31}, {"AP": 30}, {}) == [
        "AP is 0.3100, below the minimum of 30; scores are fractions of 1: 0.3?"
    ]
    assert check_minimum({"bytes": 12.0}, {"bytes": 13}, {}) == ["bytes is 12.0000, below the minimum of 13"]


def test_an_error_has_no_minimum() -> None:
    metrics = {"accuracy": 0.9, "fp": 0.5}
    assert check_minimum(metrics, {"accuracy": 0.8}, {}, lane.TASK.lower_is_better) == []
    with pytest.raises(ConfigError, match="of FP fewer is better, so that it has no minimum"):
        check_minimum(metrics, {"FP": 0.1}, {}, lane.TASK.lower_is_better)


def test_a_classifiers_accuracy_has_two_names() -> None:
    metrics = {"top1": 0.9, "top5": 0.99, "per_class": {"0": {"top1": 0.8}}}
    aliases = classify.TASK.metric_aliases
    assert check_minimum(metrics, {"accuracy": 0.91, "Top1": 0.89, "top5": 1.0}, aliases) == [
        "accuracy is 0.9000, below the minimum of 0.91",
        "top5 is 0.9900, below the minimum of 1",
    ]
    with pytest.raises(ConfigError, match=r"no metric 'acuracy' \(did you mean 'accuracy'\?\)"):
        check_minimum(metrics, {"acuracy": 0.9}, aliases)


def test_all_unknown_minima_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        minimum = {"map5": 0.1, "recal": 0.2, "AP": float("nan")}
        check_minimum({"AP": 0.3, "AP50": 0.5}, minimum, METRIC_ALIASES)
    assert len(caught.value.problems) == 3
    assert "no metric 'map5' (did you mean 'map50'?)" in str(caught.value)
    with pytest.raises(ConfigError, match="no metric 'map75'"):  # an alias of what was not measured
        check_minimum({"AP": 0.3}, {"map75": 0.1}, METRIC_ALIASES)

"""The arguments of the classifier trainer: every problem at once, in sentences that say what is expected."""

from __future__ import annotations

from typing import Any

import pytest

from slr_det.errors import ConfigError
from slr_det_adapters.timm.arguments import Arguments


def test_what_is_not_given_has_its_default() -> None:
    given = Arguments.read({"lr": 1, "amp": False, "batch": 8})
    assert given == Arguments(lr=1.0, amp="", batch=8)
    assert isinstance(given.lr, float)


def test_all_problems_come_at_once_and_name_what_was_expected() -> None:
    wrong: dict[str, Any] = {
        "lr": 0,
        "batch": 1.5,
        "momentum": 1.0,
        "optimizer": "adamm",
        "flip": "no",
        "learning_rate": 0.1,
        "min_lr": -0.1,
        "clip": float("nan"),
        "val_every": True,
    }
    with pytest.raises(ConfigError) as caught:
        Arguments.read(wrong)
    assert list(caught.value.problems) == [
        "lr is 0, expected a number above 0",
        "batch is 1.5, expected a whole number",
        "momentum is 1.0, expected a number in [0, 1)",
        "optimizer is 'adamm', expected one of sgd, adam, adamw, rmsprop (did you mean 'adam'?)",
        "flip is 'no', expected true or false",
        "the trainer has no argument 'learning_rate'",
        "min_lr is -0.1, expected a fraction of lr, in [0, 1]",
        "clip is nan, expected a number",
        "val_every is True, expected a whole number",
    ]


@pytest.mark.parametrize("key", ["batch", "accumulate", "processes", "recalibration_images"])
def test_counts_start_at_one(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is 0, expected at least 1"):
        Arguments.read({key: 0})


@pytest.mark.parametrize("key", ["clip", "pad", "size", "workers", "threads", "train_images", "val_every"])
def test_what_zero_switches_off_is_never_negative(key: str) -> None:
    assert Arguments.read({key: 0}) is not None
    with pytest.raises(ConfigError, match=f"{key} is -1, expected at least 0"):
        Arguments.read({key: -1})


def test_a_misspelt_argument_is_told_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"no argument 'label_smooting' \(did you mean 'label_smoothing'\?\)"
    ):
        Arguments.read({"label_smooting": 0.1})

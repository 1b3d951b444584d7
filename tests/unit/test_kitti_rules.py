"""What counts in KITTI's average precision, cases without much in them, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from kitti_scenes import LEVELS, joined, numbers, objects, scenes

from slr_det.data.kitti.labels import KittiObjects
from slr_det.errors import ConfigError, DataError
from slr_det.metrics import kitti_pairs
from slr_det.metrics.kitti import MEASURES, evaluate
from slr_det.metrics.kitti_rules import CLASSES, OVERLAPS, minimum_overlaps


@pytest.mark.parametrize(
    ("truth", "reached"),
    [
        ({}, LEVELS),
        ({"height": 40.0}, ("moderate", "hard")),
        ({"height": 25.0}, ()),
        ({"occluded": 1}, ("moderate", "hard")),
        ({"occluded": 2}, ("hard",)),
        ({"occluded": 3}, ()),
        ({"truncated": 0.15}, LEVELS),
        ({"truncated": 0.16}, ("moderate", "hard")),
        ({"truncated": 0.31}, ("hard",)),
        ({"truncated": 0.51}, ()),
    ],
)
def test_an_object_beyond_a_difficulty_neither_counts_nor_makes_its_detection_false(
    truth: dict[str, Any], reached: tuple[str, ...]
) -> None:
    """The other object is found at a lower score: a false detection above it would halve the precision."""
    found = {"height": truth["height"]} if "height" in truth else {}
    truths = [objects(("Car", 0.0), **truth), objects(("Car", 0.0))]
    predictions = [objects(("Car", 0.0), score=0.9, **found), objects(("Car", 0.0), score=0.5)]
    result = evaluate(truths, predictions, ("Car",))
    for level in LEVELS:
        # With both objects there are two levels of recall, the second at 2/2: R40 counts one level of 40.
        assert result["3d_R40"]["Car"][level] == pytest.approx(100 / 40 if level in reached else 0)
        assert result["3d_R11"]["Car"][level] == pytest.approx(100 / 11)


@pytest.mark.parametrize(
    ("name", "other", "excused"),
    [
        ("Car", "Van", True),
        ("Pedestrian", "Person_sitting", True),
        ("Cyclist", "Pedestrian", False),
        ("Car", "Truck", False),
    ],
)
def test_a_detection_on_a_neighbouring_class_is_not_false(name: str, other: str, excused: bool) -> None:
    truths = [objects((name, 0.0), (other, 20.0))]
    predictions = [objects((name, 0.0), (name, 20.0), score=0.5)]
    result = evaluate(truths, predictions, (name,), "0.5")
    assert result["3d_R11"][name]["easy"] == pytest.approx((100 if excused else 50) / 11)


def test_a_dont_care_region_excuses_in_the_picture_only() -> None:
    truths = [objects(("Car", 0.0), ("DontCare", 20.0))]
    predictions = [objects(("Car", 0.0), ("Car", 20.0), score=0.5)]
    result = evaluate(truths, predictions, ("Car",))
    assert result["bbox_R11"]["Car"]["easy"] == pytest.approx(100 / 11)
    assert result["bev_R11"]["Car"]["easy"] == pytest.approx(50 / 11)
    assert result["3d_R11"]["Car"]["easy"] == pytest.approx(50 / 11)


def test_an_object_counts_once_however_often_it_is_found() -> None:
    truths = [objects(("Car", 0.0))]
    predictions = [objects(("Car", 0.0), ("Car", 0.1), ("Car", 0.2), score=0.5)]
    assert evaluate(truths, predictions, ("Car",))["3d_R11"]["Car"]["easy"] == pytest.approx(100 / 3 / 11)


def test_scores_matter_by_their_order_only() -> None:
    truths, predictions = scenes(20, frames=5, objects=6, detections=12, odd=False)
    moved = [
        KittiObjects(
            p.names, p.truncated, p.occluded, p.alpha, p.boxes_2d, p.dimensions, p.locations, p.rotations, s
        )
        for p, s in ((p, 80 * p.scores - 300) for p in predictions if p.scores is not None)
    ]
    assert numbers(evaluate(truths, moved)) == pytest.approx(numbers(evaluate(truths, predictions)))


def test_the_order_of_frames_and_the_size_of_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    truths, predictions = scenes(21, frames=6, objects=6, detections=12, odd=False)
    whole = evaluate(truths, predictions, CLASSES)
    assert numbers(evaluate(truths[::-1], predictions[::-1], CLASSES)) == pytest.approx(numbers(whole))
    for chunk in (1, 7, 30):
        monkeypatch.setattr(kitti_pairs, "CHUNK", chunk)
        assert evaluate(truths, predictions, CLASSES) == whole


def test_names_match_whatever_their_case() -> None:
    truths, predictions = [objects(("CAR", 0.0))], [objects(("car", 0.0), score=0.5)]
    assert evaluate(truths, predictions, ("cAr",))["3d_R11"]["Car"]["easy"] == pytest.approx(100 / 11)


def test_nothing_is_precise_where_every_detection_went_to_ignored_objects() -> None:
    """OpenPCDet divides 0 by 0 here and reports NaN.

    Choosing by score, the van takes the small detection and leaves the large one to the car, whose threshold that is.
    At the threshold the van prefers the large one, for which an ignored object costs nothing.
    """
    truths = [joined(objects(("Van", 0.0)), objects(("Car", 0.0)))]
    small, large = objects(("Car", 0.0), score=0.9, height=30.0), objects(("Car", 0.0), score=0.5)
    result = evaluate(truths, [joined(small, large)], ("Car",))
    assert result["3d_R11"]["Car"]["easy"] == 0
    assert result["3d_R11"]["Car"]["moderate"] == pytest.approx(100 / 11)
    json.dumps(result, allow_nan=False)


# Cases without much in them.


def test_a_class_without_objects_has_0() -> None:
    truths, predictions = [objects(("Car", 0.0))], [objects(("Cyclist", 0.0), score=0.5)]
    assert set(numbers(evaluate(truths, predictions)).values()) == {0.0}


@pytest.mark.parametrize(
    ("truths", "predictions"),
    [
        ([objects(("Car", 0.0))], [KittiObjects.empty(scored=True)]),
        ([KittiObjects.empty()], [KittiObjects.empty(scored=True)]),
        ([KittiObjects.empty()], [objects(("Car", 0.0), score=0.5)]),
        ([objects(("DontCare", 0.0))], [objects(("Car", 0.0), score=0.5)]),
        ([objects(("Car", 0.0))], [objects(("Unicorn", 0.0), score=0.5)]),
        ([objects(("Car", 0.0))], [objects(("DontCare", 0.0), score=0.5)]),
        ([objects(("Car", 0.0))], [objects(("Car", 0.0), score=0.5, size=(0.0, 0.0, 0.0), height=0.0)]),
        ([objects(("Car", 0.0))], [objects(("Car", 0.0), score=-2e7)]),
        ([], []),
    ],
)
def test_nothing_found_is_0_in_all_eight_measures(
    truths: list[KittiObjects], predictions: list[KittiObjects]
) -> None:
    result = evaluate(truths, predictions)
    assert set(result) == set(MEASURES) and len(MEASURES) == 8
    assert set(numbers(result).values()) == {0.0}
    assert len(numbers(result)) == 8 * 3 * 3


def test_orientation_is_left_out_where_the_first_detection_has_none() -> None:
    truths = [KittiObjects.empty(), objects(("Car", 0.0))]
    predictions = [KittiObjects.empty(scored=True), objects(("Car", 0.0), score=0.5, alpha=-10.0)]
    result = evaluate(truths, predictions)
    assert set(result) == {m for m in MEASURES if not m.startswith("aos")}
    assert result["bbox_R11"]["Car"]["easy"] == pytest.approx(100 / 11)


def test_an_overlap_set_that_yaml_read_as_a_number_is_known() -> None:
    assert minimum_overlaps(0.5) is OVERLAPS["0.5"]  # type: ignore[arg-type]


# What is refused.


def test_wrong_arguments_say_what_is_valid() -> None:
    one = [objects(("Car", 0.0))]
    found = [objects(("Car", 0.0), score=0.5)]
    with pytest.raises(ConfigError, match=r"class 'Cyclis': expected one of Car, .*did you mean 'Cyclist'"):
        evaluate(one, found, ("Car", "Cyclis"))
    with pytest.raises(ConfigError, match="classes: none given"):
        evaluate(one, found, ())
    with pytest.raises(ConfigError, match=r"overlap: 'lose', expected .*did you mean 'loose'"):
        evaluate(one, found, overlap="lose")
    with pytest.raises(DataError, match="1 frames of predictions, expected 2"):
        evaluate(one * 2, found)
    with pytest.raises(DataError, match="predictions of frame 1: no scores"):
        evaluate(one * 2, found + one)
    with pytest.raises(DataError, match="predictions of frame 1: a number that is not finite"):
        evaluate(one * 2, [found[0], objects(("Car", math.nan), score=0.5)])

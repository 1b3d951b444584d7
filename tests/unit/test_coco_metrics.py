"""COCO's numbers: exactly pycocotools' own on its golden results, by hand on small ones, clear errors on bad ones."""

from __future__ import annotations

import copy
import functools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from sample_sets import coco, sample, write_json

from slr_det.errors import ConfigError, DataError, MissingExtraError
from slr_det.metrics.coco import STATS, CocoResult, evaluate, score

pytest.importorskip("pycocotools", reason='needs the yolo extra: uv pip install "slr-det[yolo]"')

#: Two images of 100 x 100, three objects of the category 3 and one of the category 7.
TRUTH = coco(
    [(10, "a.jpg", 100, 100), (11, "b.jpg", 100, 100)],
    [
        (10, 3, [0, 0, 40, 40]),
        (10, 3, [50, 50, 40, 40]),
        (11, 3, [10, 10, 40, 40]),
        (11, 7, [60, 60, 20, 20]),
    ],
    {3: "cat", 7: "dog"},
)


def found(
    image: int, category: int, box: list[float], confidence: float = 0.9, **more: Any
) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": confidence, **more}


@functools.cache
def golden_files(iou: str) -> tuple[Path, Path]:
    folder = sample("coco/golden")
    return folder / "instances_val2014_100.json", folder / f"instances_val2014_fake{iou}100_results.json"


@functools.cache
def golden(iou: str) -> tuple[CocoResult, tuple[str, ...]]:
    """The golden results' score and what is printed with it."""
    lines: list[str] = []
    return score(*golden_files(iou), iou, out=lines.append), tuple(lines)


@pytest.mark.samples
@pytest.mark.parametrize("iou", ["bbox", "segm"])
def test_the_golden_numbers_come_out_exactly(iou: str) -> None:
    wanted = json.loads(sample("coco/golden/pycocotools_stats_all100.json").read_text())[iou]
    result, _ = golden(iou)
    assert list(result.metrics) == list(STATS)
    assert list(result.metrics.values()) == wanted
    assert len(result.per_class) == 70
    for name, value in (("AP", wanted[0]), ("AP50", wanted[1])):
        classes = [numbers[name] for numbers in result.per_class.values()]
        assert sum(classes) / len(classes) == pytest.approx(value, abs=1e-12)


@pytest.mark.samples
@pytest.mark.parametrize("iou", ["bbox", "segm"])
def test_what_is_printed_is_what_pycocotools_prints(iou: str, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, predictions = golden_files(iou)
    truth = COCO(str(annotations))
    run = COCOeval(truth, truth.loadRes(str(predictions)), iou)
    run.evaluate()
    run.accumulate()
    capsys.readouterr()
    run.summarize()
    _, lines = golden(iou)
    assert "".join(f"{line}\n" for line in lines) == capsys.readouterr().out
    assert len(lines) == 12


def test_json_output_has_full_precision_and_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = write_json(tmp_path / "truth.json", TRUTH)
    answer = write_json(
        tmp_path / "found.json", [found(10, 3, [0, 0, 40, 40]), found(11, 3, [10, 10, 40, 27])]
    )
    result = score(truth, answer, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document == {"iou": "bbox", "metrics": result.metrics, "per_class": result.per_class}
    # One cat of three at every threshold, one (IoU 0.675) at four of ten; no dog.
    assert document["metrics"]["AR100"] == pytest.approx(1.4 / 3 / 2, abs=1e-12)
    score(truth, answer)
    assert capsys.readouterr().out == "".join(f"{line}\n" for line in result.lines)


def test_nothing_is_printed_and_the_inputs_stay(capsys: pytest.CaptureFixture[str]) -> None:
    truth, detections = copy.deepcopy(TRUTH), [found(10, 3, [0, 0, 40, 40])]
    before = copy.deepcopy(detections)
    evaluate(truth, detections)
    assert capsys.readouterr().out == ""
    assert (truth, detections) == (TRUTH, before)


def test_a_perfect_answer_scores_one() -> None:
    result = evaluate(
        TRUTH, [found(a["image_id"], a["category_id"], a["bbox"]) for a in TRUTH["annotations"]]
    )
    assert result.metrics["AP"] == result.metrics["AP50"] == result.metrics["AR100"] == pytest.approx(1.0)
    assert result.metrics["AP_small"] == pytest.approx(1.0)  # the dog, 20 x 20
    assert result.metrics["AP_large"] == -1  # no object of 96 x 96 or more
    assert result.per_class["cat"] == pytest.approx({"AP": 1.0, "AP50": 1.0})
    assert result.per_class["dog"] == pytest.approx({"AP": 1.0, "AP50": 1.0})


def test_average_precision_by_hand() -> None:
    # Cats by falling score: right, wrong, right; one of three is never found. Precision at recall 1/3 is 1, at 2/3
    # it is 2/3, above it 0: 34 of the 101 recall levels lie in [0, 1/3], 33 in (1/3, 2/3].
    detections = [
        found(10, 3, [0, 0, 40, 40], 0.9),
        found(11, 3, [55, 10, 40, 40], 0.8),
        found(10, 3, [50, 50, 40, 40], 0.7),
    ]
    result = evaluate(TRUTH, detections)
    cat = (34 * 1 + 33 * 2 / 3) / 101
    assert result.per_class["cat"]["AP50"] == pytest.approx(cat, abs=1e-12)
    assert result.per_class["dog"] == {"AP": 0.0, "AP50": 0.0}
    assert result.metrics["AP50"] == pytest.approx(cat / 2, abs=1e-12)
    assert result.metrics["AR100"] == pytest.approx((2 / 3 + 0) / 2, abs=1e-12)


def test_overlap_decides_at_which_thresholds_a_box_counts() -> None:
    # 40 x 40 against 40 x 30 inside it: IoU 0.75, so it counts at 0.50, 0.55, ..., 0.75: six of ten thresholds.
    truth = coco([(1, "a.jpg", 100, 100)], [(1, 1, [0, 0, 40, 40])], {1: "cat"})
    result = evaluate(truth, [found(1, 1, [0, 0, 40, 30])])
    assert result.metrics["AP"] == pytest.approx(0.6, abs=1e-12)
    assert (result.metrics["AP50"], result.metrics["AP75"]) == pytest.approx((1.0, 1.0))


def test_no_detections_at_all_score_zero() -> None:
    result = evaluate(TRUTH, [])
    assert {
        name: result.metrics[name] for name in ("AP", "AP50", "AP_small", "AR1", "AR100")
    } == dict.fromkeys(("AP", "AP50", "AP_small", "AR1", "AR100"), 0.0)
    assert result.per_class["cat"]["AP"] == 0.0


def test_images_without_detections_count() -> None:
    one_image = [found(10, 3, [0, 0, 40, 40]), found(10, 3, [50, 50, 40, 40])]
    assert evaluate(TRUTH, one_image).per_class["cat"]["AP50"] == pytest.approx(67 / 101, abs=1e-12)


def test_a_crowd_swallows_detections_and_is_never_missed() -> None:
    truth = copy.deepcopy(TRUTH)
    truth["annotations"][1].update(iscrowd=1, segmentation={"size": [100, 100], "counts": [0, 10000]})
    right = [found(10, 3, [0, 0, 40, 40]), found(11, 3, [10, 10, 40, 40])]
    crowd = [found(10, 3, [52, 52, 10, 10], 0.99), found(10, 3, [70, 70, 10, 10], 0.98)]
    assert evaluate(truth, right + crowd).per_class["cat"]["AP"] == pytest.approx(1.0)
    assert evaluate(TRUTH, right + crowd).per_class["cat"]["AP"] < 0.6


def test_annotation_ids_of_zero_or_twice_do_no_harm() -> None:
    truth = copy.deepcopy(TRUTH)
    for annotation in truth["annotations"]:
        annotation["id"] = 0
    perfect = [found(a["image_id"], a["category_id"], a["bbox"]) for a in TRUTH["annotations"]]
    assert evaluate(truth, perfect).metrics["AP"] == pytest.approx(1.0)


def test_a_bare_ground_truth_is_enough() -> None:
    truth = copy.deepcopy(TRUTH)
    for annotation in truth["annotations"]:
        del annotation["id"], annotation["area"], annotation["iscrowd"]
    perfect = [found(a["image_id"], a["category_id"], a["bbox"]) for a in TRUTH["annotations"]]
    assert evaluate(truth, perfect).metrics == evaluate(TRUTH, perfect).metrics


def polygon(left: float, top: float, width: float, height: float) -> list[list[float]]:
    return [[left, top, left + width, top, left + width, top + height, left, top + height]]


def test_polygons_and_both_kinds_of_rle_say_the_same() -> None:
    from pycocotools import mask

    truth = copy.deepcopy(TRUTH)
    for annotation in truth["annotations"]:
        annotation["segmentation"] = polygon(*annotation["bbox"])
    # Half of each object is found, so that the overlap is no round number at which any form would agree.
    halves = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "score": 0.9,
            "box": [*a["bbox"][:3], a["bbox"][3] * 0.7],
        }
        for a in truth["annotations"]
    ]
    forms = {"polygon": [], "compressed": [], "counts": []}  # type: dict[str, list[dict[str, Any]]]
    for half in halves:
        shape = polygon(*half.pop("box"))
        rle = mask.merge(mask.frPyObjects(shape, 100, 100))
        pixels = [int(v) for v in mask.decode(rle).T.ravel()]
        runs, value = [0], 0
        for pixel in pixels:
            if pixel != value:
                runs.append(0)
                value = pixel
            runs[-1] += 1
        forms["polygon"].append({**half, "segmentation": shape})
        forms["compressed"].append(
            {**half, "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}}
        )
        forms["counts"].append({**half, "segmentation": {"size": [100, 100], "counts": runs}})
    scores = {form: evaluate(truth, detections, "segm").metrics for form, detections in forms.items()}
    assert scores["polygon"]["AP50"] == pytest.approx(1.0)
    assert scores["polygon"]["AP"] == pytest.approx(0.5)  # IoU 0.7: 0.50, 0.55, ..., 0.70
    assert scores["polygon"] == scores["compressed"] == scores["counts"]
    # The same masks as boxes.
    assert evaluate(truth, forms["counts"], "bbox").metrics["AP"] == pytest.approx(0.5)


def test_boxes_and_masks_may_be_mixed() -> None:
    mixed = [
        found(a["image_id"], a["category_id"], a["bbox"])
        if i % 2
        else {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "score": 0.9,
            "segmentation": polygon(*a["bbox"]),
        }
        for i, a in enumerate(TRUTH["annotations"])
    ]
    assert evaluate(TRUTH, mixed).metrics["AP"] == pytest.approx(1.0)
    assert evaluate(TRUTH, mixed[::-1]).metrics["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 12}, r"detection 1: image_id 12 is not in ground truth"),
        ({"image_id": "10"}, r"image_id '10' is not in"),
        ({"image_id": [1]}, r"image_id \[1\] is not in"),
        ({"category_id": 4}, r"detection 1: category_id 4 is not in ground truth"),
        ({"score": float("nan")}, r"detection 1: score nan, expected a finite number"),
        ({"score": float("inf")}, r"score inf, expected a finite number"),
        ({"score": None}, r"score None"),
        ({"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\], expected four finite numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, r"expected four finite numbers"),
        ({"bbox": None}, r"bbox None, expected four finite numbers"),
    ],
)
def test_a_bad_detection_is_named(change: dict[str, Any], message: str) -> None:
    good = found(10, 3, [0, 0, 40, 40])
    with pytest.raises(DataError, match=message):
        evaluate(TRUTH, [good, {**good, **change}])


def test_masks_are_asked_for_where_masks_are_compared() -> None:
    with pytest.raises(DataError, match="annotation 1: no segmentation"):
        evaluate(TRUTH, [found(10, 3, [0, 0, 40, 40])], "segm")
    truth = copy.deepcopy(TRUTH)
    for annotation in truth["annotations"]:
        annotation["segmentation"] = polygon(*annotation["bbox"])
    with pytest.raises(DataError, match="detection 0: no segmentation"):
        evaluate(truth, [found(10, 3, [0, 0, 40, 40])], "segm")
    with pytest.raises(DataError, match="detection 0: segmentation cannot be read"):
        evaluate(truth, [found(10, 3, [0, 0, 40, 40], segmentation=[["x"]])], "segm")
    with pytest.raises(DataError, match="detection 0: no bbox or segmentation"):
        evaluate(truth, [{"image_id": 10, "category_id": 3, "score": 0.5}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "no list 'images'"),
        ({"annotations": {}}, "no list 'annotations'"),
        ({"images": [{"file_name": "a"}]}, "lacks id"),
        ({"images": [{"id": 1}, {"id": 1}]}, "id 1 occurs twice"),
        ({"categories": [{"id": 3}]}, "lacks id or name"),
        (
            {"annotations": [{"id": 5, "image_id": 99, "category_id": 3, "bbox": [0, 0, 1, 1]}]},
            "annotation 5: image_id 99",
        ),
        ({"annotations": [{"id": 5, "image_id": 10, "category_id": 3}]}, "annotation 5: bbox None"),
        ({"annotations": ["x"]}, "expected an object"),
    ],
)
def test_a_bad_ground_truth_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate({**TRUTH, **change}, [])


def test_files_are_named_in_errors(tmp_path: Path) -> None:
    truth = write_json(tmp_path / "truth.json", TRUTH)
    with pytest.raises(DataError, match=r"nowhere\.json: no such file"):
        evaluate(truth, tmp_path / "nowhere.json")
    cut = write_json(tmp_path / "cut.json", json.dumps([found(10, 3, [0, 0, 40, 40])])[:-20])
    with pytest.raises(DataError, match=r"cut\.json: not valid JSON"):
        evaluate(truth, cut)
    with pytest.raises(DataError, match=r"truth\.json: a dict, expected a list of detections"):
        evaluate(truth, truth)
    listed = write_json(tmp_path / "list.json", [found(10, 3, [0, 0, 40, 40]), found(77, 3, [0, 0, 40, 40])])
    with pytest.raises(DataError, match=r"list\.json: a list, expected"):
        evaluate(listed, listed)
    with pytest.raises(DataError, match=r"list\.json: detection 1: image_id 77 is not in .*truth\.json"):
        evaluate(truth, listed)


def test_an_unknown_iou_type_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="did you mean 'bbox'"):
        evaluate(TRUTH, [], "bboxes")


def test_a_missing_pycocotools_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "pycocotools"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingExtraError, match=r'pip install "slr-det\[yolo\]"'):
        evaluate(TRUTH, [])

"""TuSimple's labels, targets, motions, outputs and scores against the code of Ultra-Fast-Lane-Detection's checkout."""

from __future__ import annotations

import importlib
import json
import random
import shutil
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from slr_det.data.tusimple import (
    GRIDING,
    ROW_ANCHORS,
    LaneRow,
    TuSimpleDataset,
    TuSimpleFolder,
    lane_slots,
    marks_to_targets,
    read_rows,
    slot_marks,
    to_lanes,
    write_rows,
)
from slr_det.data.tusimple.augment import Motion, move_image, move_marks
from slr_det.metrics.tusimple import evaluate

pytestmark = [pytest.mark.samples, pytest.mark.slow]

# Top-level names of the checkout, which must not stay importable for other tests.
PACKAGES = ("data", "evaluation", "utils", "scripts")


@pytest.fixture(scope="module")
def upstream(ufld: Path) -> Iterator[Any]:
    """The modules of the checkout that are compared with."""
    for needed in ("cv2", "sklearn", "torchvision", "scipy.special", "tqdm"):
        pytest.importorskip(needed)
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] in PACKAGES}
    for name in before:
        del sys.modules[name]
    # Its folders are no packages of their own, so that a module of the same name anywhere else would be found first.
    for name in (*PACKAGES, "evaluation.tusimple"):
        package = types.ModuleType(name)
        package.__path__ = [str(ufld.joinpath(*name.split(".")))]
        sys.modules[name] = package
    # Evaluation imports it for its processes, and it imports TensorBoard.
    processes = types.ModuleType("utils.dist_utils")
    for name in ("is_main_process", "dist_print", "get_rank", "get_world_size", "dist_tqdm", "synchronize"):
        setattr(processes, name, None)
    sys.modules["utils.dist_utils"] = processes
    try:
        yield SimpleNamespace(
            convert=importlib.import_module("scripts.convert_tusimple"),
            dataset=importlib.import_module("data.dataset"),
            transforms=importlib.import_module("data.mytransforms"),
            constant=importlib.import_module("data.constant"),
            lane=importlib.import_module("evaluation.tusimple.lane"),
            wrapper=importlib.import_module("evaluation.eval_wrapper"),
        )
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
            del sys.modules[name]
        sys.modules.update(before)


@pytest.fixture(scope="module")
def golden(samples: Path) -> Path:
    return samples / "tusimple" / "golden" / "label_data.json"


@pytest.fixture
def converted(upstream: Any, samples: Path, tmp_path: Path) -> Path:
    """The real frames, converted by upstream."""
    for source in (samples / "tusimple" / "mini").rglob("*.*"):
        target = tmp_path / source.relative_to(samples / "tusimple" / "mini")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    names, lines = upstream.convert.get_tusimple_list(str(tmp_path), ["label_data_0601.json"])
    upstream.convert.generate_segmentation_and_train_list(str(tmp_path), lines, names)
    return tmp_path


def upstream_dataset(upstream: Any, root: Path, **more: Any) -> Any:
    return upstream.dataset.LaneClsDataset(
        str(root), str(root / "train_gt.txt"), griding_num=GRIDING, row_anchor=list(ROW_ANCHORS), **more
    )


def test_the_constants(upstream: Any) -> None:
    assert list(ROW_ANCHORS) == upstream.constant.tusimple_row_anchor


def test_every_lane_of_the_golden_labels_gets_upstreams_slot(
    upstream: Any, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, list[float]]] = []
    frames: list[list[tuple[int, list[float]]]] = []

    def remember(picture: object, line: list[float], slot: int, show: bool = False) -> None:
        drawn.append((slot, line))

    def close(*unused: object) -> bool:
        frames.append(drawn.copy())
        drawn.clear()
        return True

    monkeypatch.setattr(upstream.convert, "draw", remember)
    monkeypatch.setattr(upstream.convert.cv2, "imwrite", close)
    names, lines = upstream.convert.get_tusimple_list("", [str(golden)])
    upstream.convert.generate_segmentation_and_train_list(str(tmp_path), lines, names)

    rows = read_rows(golden)
    assert len(frames) == len(rows) == 2858
    for row, frame in zip(rows, frames, strict=True):
        slots = lane_slots(row.lanes, row.h_samples)
        expected = [(slot, line[::2], line[1::2]) for slot, line in frame]
        ours = []
        for slot, index in enumerate(slots, start=1):
            if index is not None:
                valid = row.lanes[index] != -2
                ours.append((slot, row.lanes[index][valid].tolist(), row.h_samples[valid].tolist()))
        assert ours == expected, row.where


def test_targets_without_conversion_are_those_of_upstreams_pictures(upstream: Any, golden: Path) -> None:
    dataset = upstream.dataset.LaneClsDataset.__new__(upstream.dataset.LaneClsDataset)
    dataset.row_anchor, dataset.num_lanes = list(ROW_ANCHORS), 4
    cells = presence = differ = 0
    for row in read_rows(golden)[:2858:14]:
        picture = np.zeros((720, 1280), np.uint8)
        for slot, index in enumerate(lane_slots(row.lanes, row.h_samples), start=1):
            if index is not None:
                valid = row.lanes[index] != -2
                points = np.stack((row.lanes[index][valid], row.h_samples[valid]), axis=1).ravel().tolist()
                upstream.convert.draw(picture, points, slot)
        assert picture.any()
        expected = dataset._grid_pts(dataset._get_index(Image.fromarray(picture)), GRIDING, 1280)
        # Of the same picture: exactly the same.
        assert np.array_equal(marks_to_targets(picture), expected)
        # Of the lanes, drawn by Pillow: one cell beside in a few, as a line's edge is a pixel further.
        ours = marks_to_targets(slot_marks(row.lanes, row.h_samples))
        both = (ours < GRIDING) & (expected < GRIDING)
        assert np.abs(ours - expected)[both].max() <= 1
        cells += int(both.sum())
        differ += int((ours != expected)[both].sum())
        presence += int(((ours < GRIDING) != (expected < GRIDING)).sum())
    assert cells > 20000 and differ / cells < 0.01 and presence / cells < 0.001


def test_upstreams_list_and_items(upstream: Any, converted: Path) -> None:
    lists = TuSimpleFolder.open(converted, converted=True)
    labels = TuSimpleFolder.open(converted)
    transform = importlib.import_module("torchvision.transforms")
    theirs = upstream_dataset(
        upstream,
        converted,
        img_transform=transform.Compose(
            [
                transform.Resize((288, 800)),
                transform.ToTensor(),
                transform.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        ),
        segment_transform=transform.Compose(
            [upstream.transforms.FreeScaleMask((36, 100)), upstream.transforms.MaskToTensor()]
        ),
        use_aux=True,
    )
    read, drawn = TuSimpleDataset(lists, "train"), TuSimpleDataset(labels, "train")
    assert len(theirs) == len(read) == len(drawn) == 4
    for index in range(4):
        image, target, segmentation = theirs[index]
        assert torch.allclose(read[index].image, image, atol=1e-5)
        assert np.array_equal(read[index].target, target)
        assert torch.equal(read[index].segmentation, segmentation)
        assert (drawn[index].target.numpy() != target).mean() < 0.02
        assert (drawn[index].segmentation != segmentation).float().mean() < 0.02


@pytest.mark.parametrize("motion", [Motion(0, 60, -150), Motion(6, -99, 120), Motion(-5, 37, 199)])
def test_pictures_and_lanes_move_as_upstreams(
    upstream: Any, converted: Path, monkeypatch: pytest.MonkeyPatch, motion: Motion
) -> None:
    shifts = iter((motion.down, motion.right))
    monkeypatch.setattr(random, "randint", lambda low, high: (low + high) // 2 + motion.angle)
    monkeypatch.setattr(np.random, "randint", lambda low, high: next(shifts))
    labels = TuSimpleFolder.open(converted)
    row = labels.split("train")[3]
    image, marks = Image.open(labels.image(row)).convert("RGB"), labels.marks(row)
    transforms = upstream.transforms
    both = transforms.Compose2(
        [
            transforms.RandomRotate(6),
            transforms.RandomUDoffsetLABEL(100),
            transforms.RandomLROffsetLABEL(200),
        ]
    )
    their_image, their_marks = both(image, Image.fromarray(marks))
    assert np.array_equal(np.asarray(their_marks), move_marks(marks, motion))
    small = their_image.resize((800, 288), Image.Resampling.BILINEAR)
    ours = move_image(image.resize((800, 288), Image.Resampling.BILINEAR), motion)
    difference = np.abs(np.asarray(small).astype(int) - np.asarray(ours))
    assert difference.mean() < 2.5 and np.percentile(difference, 99) < 30


def test_outputs_become_upstreams_lanes(upstream: Any) -> None:
    torch.manual_seed(0)
    different = total = 0
    for scale in (1, 5, 20):
        logits = torch.randn(101, 56, 4) * scale
        logits[100, :, 1] += 3 * scale
        theirs = np.array(upstream.wrapper.generate_tusimple_lines(logits, (288, 800), 100))
        ours = to_lanes(logits, range(160, 720, 10))
        assert np.array_equal(ours == -2, theirs == -2)
        # Upstream's softmax is in single precision: a half may be rounded to the other side.
        assert np.abs(ours - theirs).max() <= 1
        different += int((ours != theirs).sum())
        total += ours.size
    assert different <= total / 200


@pytest.mark.parametrize("seed", [0, 1])
def test_the_benchmarks_scorer_agrees(upstream: Any, golden: Path, tmp_path: Path, seed: int) -> None:
    """On golden labels with predictions made from them: moved, cut, exchanged, missing, late and too many."""
    rng = np.random.default_rng(seed)
    truths = read_rows(golden)[seed * 400 : seed * 400 + 250]
    predictions = []
    for index, truth in enumerate(truths):
        fifth = truth.lanes[:1] + (truth.lanes[:1] >= 0) * 90
        if index % 4 == 0:
            truths[index] = truth = replace(truth, lanes=np.concatenate((truth.lanes, fifth)))
        noise = rng.integers(-1, 2, truth.lanes.shape) * rng.choice([5, 20, 24, 40], (len(truth.lanes), 1))
        moved = np.where(truth.lanes >= 0, np.maximum(truth.lanes + noise, 0), -2)
        moved[rng.random(moved.shape) < 0.03] = -2
        extra = np.concatenate((moved, *[fifth + 30] * int(rng.choice([0, 0, 1, 3]))))
        kept = rng.permutation(len(extra))[: rng.integers(0, len(extra) + 1)] if index % 3 else slice(None)
        run_time = float(rng.choice([10, 200, 200.1], p=[0.8, 0.1, 0.1]))
        predictions.append(LaneRow(truth.raw_file, extra[kept], truth.h_samples, run_time))
    labels = write_rows(tmp_path / "labels.json", truths)
    found = write_rows(tmp_path / "found.json", [predictions[i] for i in rng.permutation(len(predictions))])
    theirs = {
        entry["name"]: entry["value"]
        for entry in json.loads(upstream.lane.LaneEval.bench_one_submit(str(found), str(labels)))
    }
    ours = evaluate(read_rows(found, predictions=True), read_rows(labels))
    assert (ours.accuracy, ours.fp, ours.fn) == pytest.approx(
        (theirs["Accuracy"], theirs["FP"], theirs["FN"]), abs=1e-9
    )
    assert 0.3 < ours.accuracy < 0.95 and ours.slow_clips and ours.crowded_clips

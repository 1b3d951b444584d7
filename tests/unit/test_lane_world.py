"""The generated road: labels where geometry says and where the paint is, scenes that vary, the same bytes always."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import threading
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slr_det.data.lane_world import DEFAULT_FRAMES, build, road_dataset
from slr_det.data.lane_world.draw import draw_scene
from slr_det.data.lane_world.ground import paint_ground, stripes
from slr_det.data.lane_world.render import expose, render
from slr_det.data.lane_world.road import (
    CROSSING,
    FAR,
    H_SAMPLES,
    IMAGE_SHAPE,
    MIN_POINTS,
    Camera,
    Road,
    label,
    marked,
)
from slr_det.data.lane_world.scene import WHITE, Light, Mark, Scene, Shade, Side, Vehicle
from slr_det.data.lane_world.textures import clouds, crop, grain
from slr_det.data.tusimple.anchors import GRIDING, to_lanes, to_targets
from slr_det.data.tusimple.folder import TuSimpleFolder
from slr_det.data.tusimple.labels import LaneRow
from slr_det.errors import ConfigError, StorageError
from slr_det.metrics.tusimple import evaluate

FRAMES = (4, 2)
CAMERA = Camera(focal=1000.0, height=1.5, horizon=250.0)
STRAIGHT = Road(CAMERA, 0.0, 0.0, 0.0, 0.0, 0.0, (-5.4, -1.8, 1.8, 5.4))
BENT = replace(STRAIGHT, offset=0.3, heading=0.01, curvature=0.003, bend=-1e-5)
PLAIN = Light("overcast", exposure=1.0, contrast=1.0, warmth=1.0, glare=0.0, sun=(640.0, 100.0), noise=0.0)
GREY = (90.0, 90.0, 90.0)
CAR = Vehicle("car", 0.0, 20.0, 4.5, 1.8, 1.5, (200.0, 20.0, 20.0), oncoming=False, braking=False)


def bare(road: Road, **changes: object) -> Scene:
    """Dark grey pavement with solid fresh lines, nothing else."""
    scene = Scene(
        road=road,
        asphalt=GREY,
        joints=0.0,
        tracks=0.0,
        left=Side(road.lines[0] - 2, "open", GREY, GREY),
        right=Side(road.lines[-1] + 2, "open", GREY, GREY),
        marks=tuple(Mark(s, 0.15, WHITE, 1.0) for s in road.lines),
        vehicles=(),
        shade=Shade(0.0, 0.0, 1.0, ()),
        light=PLAIN,
    )
    return replace(scene, **changes)  # type: ignore[arg-type]


def picture(scene: Scene, seed: int = 0) -> np.ndarray:
    return np.asarray(render(scene, np.random.default_rng(seed)), np.float64)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(np.random.default_rng([0, 0, index])) for index in range(300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return road_dataset(tmp_path_factory.mktemp("cache"), frames=FRAMES, seed=4)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# Geometry


def test_a_flat_straight_road_is_seen_as_by_a_pinhole_camera() -> None:
    v = np.array([260.0, 300.0, 500.0, 719.0])
    z = STRAIGHT.depth(v)
    assert z == pytest.approx(1500 / (v - 250))
    assert STRAIGHT.column(1.8, z) == pytest.approx(640 + (v - 250) * 1.8 / 1.5)
    assert np.isnan(STRAIGHT.depth([0.0, 249.0, 250.0])).all()


@pytest.mark.parametrize("rise", [-3e-4, -1e-4, 0.0, 1e-4, 3e-4])
def test_depth_finds_the_nearest_ground_of_each_row(rise: float) -> None:
    road = replace(STRAIGHT, rise=rise)
    v = np.arange(100, 720) + 0.5
    z = road.depth(v)
    seen = np.isfinite(z)
    assert road.project(0.0, 0.0, z[seen])[1] == pytest.approx(v[seen])
    assert (np.diff(z[seen]) < 0).all()
    # Of every place up to 400 m, the row that shows it shows nothing nearer unless a crest hides it.
    crest = math.sqrt(2 * 1.5 / -rise) if rise < 0 else math.inf
    places = np.linspace(4, 400, 500)
    visible = places < crest
    assert road.depth(road.project(0.0, 0.0, places[visible])[1]) == pytest.approx(places[visible], rel=1e-5)
    assert np.nanmax(z) <= crest
    if (~visible).any():
        assert (road.depth(road.project(0.0, 0.0, places[~visible])[1]) < crest).all()


def test_the_road_is_a_clothoid_that_goes_on_straight_behind_the_labelled_part() -> None:
    z, step = np.linspace(0, 200, 401), 1e-3
    assert (BENT.middle(z + step) - BENT.middle(z - step)) / (2 * step) == pytest.approx(
        BENT.slope(z), abs=1e-5
    )
    curvature = (BENT.slope(z + step) - BENT.slope(z - step)) / (2 * step)
    assert curvature[z < FAR] == pytest.approx(0.003 - 1e-5 * z[z < FAR], abs=1e-9)
    assert curvature[z > FAR] == pytest.approx(0.0)
    assert (float(BENT.middle(0.0)), float(BENT.slope(0.0))) == (0.3, 0.01)


@pytest.mark.parametrize("road", [STRAIGHT, BENT, replace(BENT, rise=-3e-4), replace(BENT, rise=2e-4)])
def test_labels_agree_with_a_search_along_each_line(road: Road) -> None:
    """March along each line and note where it crosses the rows."""
    lanes = label(road)
    z = np.geomspace(FAR, 2.0, 200_000)
    crossed = 0
    for s, lane in zip(road.lines, lanes, strict=True):
        u, v = road.project(road.middle(z) + s, 0.0, z)
        for x, height in zip(lane, H_SAMPLES + 0.5, strict=True):
            below = np.flatnonzero((v[:-1] < height) & (v[1:] >= height))
            where = u[below[-1]] if len(below) else math.nan
            if len(below) and 0 <= where < 1280:
                assert x == pytest.approx(where - 0.5, abs=0.6)
                crossed += 1
            else:
                assert x == -2
    assert crossed == (lanes >= 0).sum() > 100


def test_nothing_is_labelled_beyond_the_limit_or_behind_a_crest() -> None:
    tops = {
        rise: H_SAMPLES[(label(replace(STRAIGHT, rise=rise)) >= 0).any(axis=0)].min() for rise in (0.0, -1e-3)
    }
    assert tops[0.0] == 270  # 100 m lie 15 pixels below the horizon
    # Behind the crest at 54.8 m the road is hidden; its row is horizon + f sqrt(2 h rise) = 304.8.
    assert tops[-1e-3] == 310


def test_two_lines_on_each_side_are_labelled_and_the_one_that_is_crossed() -> None:
    wide = replace(STRAIGHT, lines=(-9.0, -5.4, -1.8, 1.8, 5.4, 9.0))
    assert marked(wide) == [-5.4, -1.8, 1.8, 5.4]
    assert marked(replace(wide, offset=1.8 + CROSSING / 2)) == [-9.0, -5.4, -1.8, 1.8, 5.4]
    assert marked(replace(STRAIGHT, lines=(-1.8, 1.8))) == [-1.8, 1.8]
    assert marked(replace(STRAIGHT, lines=(1.8, 5.4, 9.0))) == [1.8, 5.4]
    lanes = label(replace(wide, offset=1.8))
    assert len(lanes) == 5
    assert (np.diff(lanes[:, (lanes >= 0).all(axis=0)], axis=0) > 0).all()  # from the left to the right


def test_a_line_that_soon_leaves_the_picture_has_no_label() -> None:
    # A line x to the side leaves the picture 640 / (x / 1.5) pixels below the horizon.
    for x, wanted in ((9.4, 1), (11.5, 0)):
        lanes = label(replace(STRAIGHT, lines=(x,)))
        assert len(lanes) == wanted
        assert (lanes >= 0).sum() >= MIN_POINTS * wanted
    assert label(replace(STRAIGHT, lines=(11.5,))).shape == (0, 56)


# Pictures


@pytest.mark.parametrize("road", [STRAIGHT, BENT, replace(BENT, rise=1.5e-4, curvature=-0.002)])
def test_the_paint_lies_under_the_labels(road: Road) -> None:
    pixels = picture(bare(road)).mean(axis=2)
    depth = road.depth(H_SAMPLES + 0.5)
    checked = 0
    for lane in label(road):
        for x, v, z in zip(lane, H_SAMPLES, depth, strict=True):
            if x < 0 or z > 40:
                continue
            away = int(2 * 0.075 * 1000 / z) + 4
            if not away <= x < 1280 - away:
                continue
            assert pixels[v, x] > 180
            assert max(pixels[v, x - away], pixels[v, x + away]) < 120
            checked += 1
    assert checked > 60


def test_a_line_has_its_width_and_fades_where_it_is_thinner_than_a_pixel() -> None:
    marks = (Mark(0.13, 0.15, WHITE, 1.0),)
    top, pixels = paint_ground(bare(STRAIGHT, marks=marks), np.random.default_rng(0))
    without = paint_ground(bare(STRAIGHT, marks=()), np.random.default_rng(0))[1]
    # The blotches are factors, the same in both.
    paint = np.asarray((pixels / without)[..., 0] - 1, np.float64) / (WHITE[0] / GREY[0] - 1)
    v = np.arange(top, IMAGE_SHAPE[0])
    z = STRAIGHT.depth(v + 0.5)
    assert paint.sum(axis=1) == pytest.approx(150 / z, rel=0.02)
    assert paint[z > 200].max() < 0.8


def test_stripes_cover_what_a_fine_sampling_counts() -> None:
    rng = np.random.default_rng(3)
    start = rng.uniform(-20, 80, 40)
    stop = start + rng.uniform(0.01, 30, 40)
    for length, period, phase in ((3.0, 9.0, 2.5), (3.05, 12.2, 0.0), (4.0, 1e4, 10.0)):
        share = stripes(start, stop, length, period, phase)
        fine = start[:, None] + (stop - start)[:, None] * (np.arange(20_000) + 0.5) / 20_000
        assert share == pytest.approx(((fine - phase) % period < length).mean(axis=1), abs=2e-4)


def test_dashes_leave_gaps_of_pavement_that_are_labelled_all_the_same() -> None:
    dashed = bare(STRAIGHT, marks=(Mark(1.8, 0.15, WHITE, 1.0, dash=3.0, period=9.0, phase=1.0),))
    pixels = picture(dashed).mean(axis=2)
    lane = label(STRAIGHT)[2]
    z = STRAIGHT.depth(H_SAMPLES + 0.5)
    near = (lane >= 0) & (z < 25)
    inside = (z - 1.0) % 9
    clear = np.minimum(np.abs(inside - 3), np.minimum(inside, 9 - inside)) > 0.3
    bright = pixels[H_SAMPLES, np.maximum(lane, 0)] > 150
    assert (bright == (inside < 3))[near & clear].all()
    assert (near & clear & ~bright).sum() > 5


def test_wear_takes_paint_away() -> None:
    amounts = []
    for wear in (0.01, 0.5, 1.0):
        marks = (Mark(0.0, 0.15, WHITE, 1.0, wear=wear),)
        amounts.append(paint_ground(bare(STRAIGHT, marks=marks), np.random.default_rng(1))[1].mean())
    assert amounts[0] > amounts[1] > amounts[2]


def test_a_car_stands_where_it_projects_and_hides_labelled_points() -> None:
    empty, full = (picture(bare(STRAIGHT, vehicles=cars)) for cars in ((), (replace(CAR, s=1.8),)))
    changed = np.abs(empty - full).max(axis=2) > 25
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    # Its rear is 1.8 m wide 20 m ahead, its roof 1.5 m above the road as is the camera.
    (left, right), (roof, foot) = STRAIGHT.project([0.9, 2.7], [1.5, 0.0], 20.0)
    assert columns[[0, -1]] == pytest.approx([left, right], abs=12)  # its shadow is wider
    assert rows[[0, -1]] == pytest.approx([roof, foot], abs=4)
    lane = label(STRAIGHT)[2]
    hidden = changed[H_SAMPLES, np.maximum(lane, 0)] & (lane >= 0)
    assert hidden.sum() >= 5
    red = full[int(foot) - 30, 640 + 90 + 20]  # beside the plate
    assert red[0] > 2.5 * red[1]


def test_the_nearer_car_hides_the_farther_one() -> None:
    far = replace(CAR, z=30.0, colour=(20.0, 20.0, 200.0))
    both, alone = (picture(bare(STRAIGHT, vehicles=cars)) for cars in ((far, CAR), (CAR,)))
    assert np.abs(both - alone)[290:320, 610:670].max() == 0


def test_a_car_beside_the_camera_is_cut_by_the_border() -> None:
    beside = picture(bare(STRAIGHT, vehicles=(replace(CAR, s=3.6, z=3.4),)))
    empty = picture(bare(STRAIGHT))
    changed = np.abs(beside - empty).max(axis=2) > 25
    assert changed[:, -1].any() and changed.mean() > 0.05
    assert not changed[:, :640].any()


def test_bridges_and_trees_darken_the_road_and_leave_the_labels() -> None:
    road = replace(STRAIGHT, lines=(-1.8, 1.8))
    light = paint_ground(bare(road), np.random.default_rng(0))[1]
    shade = Shade(0.5, 0.0, 1.0, ((8.0, 6.0, 0.0),))
    top, dark = paint_ground(bare(road, shade=shade), np.random.default_rng(0))
    z = road.depth(np.arange(top, IMAGE_SHAPE[0]) + 0.5)
    ratio = dark.mean(axis=(1, 2)) / light.mean(axis=(1, 2))
    assert ratio[(z > 9) & (z < 13)] == pytest.approx(0.5, abs=0.02)
    assert ratio[(z < 7) | (z > 16)] == pytest.approx(1.0, abs=0.02)
    trees = replace(bare(road), shade=Shade(0.5, 0.6, 1.0, ()))
    _, leafy = paint_ground(trees, np.random.default_rng(0))
    columns = leafy.mean(axis=(0, 2)) / light.mean(axis=(0, 2))
    assert columns[1000:].mean() < columns[:280].mean() - 0.1  # trees on the right


def test_the_camera_exposes_tints_and_is_dazzled() -> None:
    grey = Image.new("RGB", (1280, 720), (110, 110, 110))

    def shot(**changes: object) -> np.ndarray:
        light = replace(PLAIN, **changes)  # type: ignore[arg-type]
        return np.asarray(expose(grey, light, np.random.default_rng(0)), np.float64)

    plain = shot()
    assert plain[360, 640] == pytest.approx([110, 110, 110], abs=1)
    assert plain[0, 0].mean() < 95  # dark corners
    assert shot(exposure=0.5)[360, 640] == pytest.approx([55, 55, 55], abs=1)
    warm = shot(warmth=1.1)[360, 640]
    assert warm == pytest.approx([121, 110, 100], abs=1)
    assert (shot(noise=3.0) - plain).std() == pytest.approx(3.0, rel=0.15)
    dazzled = shot(glare=0.8, sun=(300.0, 100.0))
    assert dazzled[100, 300].mean() > 220 > dazzled[600, 1200].mean() + 60
    assert dazzled.min() >= plain.min()


def test_textures_are_shared_and_cannot_be_written() -> None:
    for field in (clouds(4), grain()):
        assert field.shape == (1024, 1024)
        assert (float(field.mean()), float(field.std())) == pytest.approx((0, 1), abs=5e-3)
        with pytest.raises(ValueError, match="read-only"):
            field[0, 0] = 1
    assert clouds(4) is clouds(4)
    window = crop(grain(), np.random.default_rng(0), 720, 1280)
    assert window.shape == (720, 1280) and np.array_equal(window[:, :256], window[:, 1024:])


# Scenes


def test_scenes_vary_in_everything_that_the_data_set_promises(scenes: list[Scene]) -> None:
    count = len(scenes)
    lanes = Counter(len(label(scene.road)) for scene in scenes)
    assert set(lanes) >= {2, 3, 4} and max(lanes) <= 5
    assert min(lanes[number] for number in (2, 3, 4)) >= 0.05 * count
    bends = np.array([scene.road.curvature for scene in scenes])
    assert (bends > 1e-3).sum() > 0.1 * count and (bends < -1e-3).sum() > 0.1 * count
    assert len({round(scene.road.camera.horizon / 10) for scene in scenes}) >= 6
    skies = Counter(scene.light.sky for scene in scenes)
    assert set(skies) == {"overcast", "clear", "low sun", "dusk"} and min(skies.values()) > 0.03 * count
    shares = {
        "dashes": np.mean([any(mark.dash and mark.drift == 0 for mark in s.marks) for s in scenes]),
        "yellow": np.mean([any(mark.colour[2] < 100 < mark.colour[0] for mark in s.marks) for s in scenes]),
        "shadows": np.mean([s.shade.trees > 0 or len(s.shade.bridges) > 0 for s in scenes]),
        "glare": np.mean([s.light.glare > 0 for s in scenes]),
        "cars": np.mean([len(s.vehicles) > 0 for s in scenes]),
        "oncoming": np.mean([any(v.oncoming for v in s.vehicles) for s in scenes]),
        "crossing": np.mean([any(abs(x + s.road.offset) < CROSSING for x in s.road.lines) for s in scenes]),
    }
    assert {name: share for name, share in shares.items() if not 0.02 < share < 0.95} == {}


def test_the_car_drives_between_two_lines_and_keeps_its_distance(scenes: list[Scene]) -> None:
    for scene in scenes:
        beside = np.array(scene.road.lines) + scene.road.offset
        assert beside[0] < 0.2 and beside[-1] > -0.2
        depths = [vehicle.z for vehicle in scene.vehicles]
        assert depths == sorted(depths, reverse=True)
        ahead = [v for v in scene.vehicles if abs(v.s) < 1.5]
        assert all(v.z >= 13 and not v.oncoming for v in ahead)
        assert all(v.s < -1.5 for v in scene.vehicles if v.oncoming)
        lanes: dict[int, list[Vehicle]] = {}
        for vehicle in scene.vehicles:
            lanes.setdefault(int(np.searchsorted(scene.road.lines, vehicle.s)), []).append(vehicle)
        for row in lanes.values():
            for far, near in pairwise(row):
                assert near.z + near.length < far.z


def test_an_empty_prediction_scores_under_a_half_and_perfect_targets_nearly_all() -> None:
    """Of the default validation set; its labels need no pictures."""
    truths, found = [], []
    for index in range(DEFAULT_FRAMES[1]):
        lanes = label(draw_scene(np.random.default_rng([0, 1, index])).road)
        truths.append(LaneRow(f"clips/val/{index:04d}/20.jpg", lanes, H_SAMPLES))
        if index % 5 == 0:
            targets = torch.from_numpy(to_targets(lanes, H_SAMPLES))
            logits = 50.0 * torch.nn.functional.one_hot(targets, GRIDING + 1).permute(2, 0, 1)
            back = to_lanes(logits, H_SAMPLES)
            found.append(LaneRow(truths[-1].raw_file, back[(back >= 0).any(axis=1)], H_SAMPLES, 10.0))
    nothing = [LaneRow(row.raw_file, np.zeros((0, 56), np.int64), H_SAMPLES, 10.0) for row in truths]
    scores = evaluate(nothing, truths)
    assert scores.accuracy == 0
    assert 0.25 < scores.empty_accuracy < 0.5
    perfect = evaluate(found, truths[::5])
    assert perfect.accuracy > 0.98 and perfect.fn < 0.03


# The folder


def test_the_folder_opens_as_tusimple_and_holds_what_was_drawn(folder: Path) -> None:
    data = TuSimpleFolder.open(folder)
    for split, (name, count) in enumerate(zip(("train", "val"), FRAMES, strict=True)):
        rows = data.split(name)
        assert len(rows) == count
        for index, row in enumerate(rows):
            scene = draw_scene(np.random.default_rng([4, split, index]))
            assert np.array_equal(row.lanes, label(scene.road))
            assert np.array_equal(row.h_samples, np.arange(160, 711, 10))
            path = data.image(row)
            assert path == folder / row.raw_file and path.name == "20.jpg"
            with Image.open(path) as image:
                assert (image.size, image.mode) == ((1280, 720), "RGB")
            assert path.stat().st_size < 250_000
    first = json.loads((folder / "label_data_train.json").read_text().splitlines()[0])
    assert sorted(first) == ["h_samples", "lanes", "raw_file"]
    readme = (folder / "README.txt").read_text()
    assert "CC0" in readme and "seed 4" in readme


def test_the_same_seed_gives_the_same_bytes_elsewhere(folder: Path, tmp_path: Path) -> None:
    again = road_dataset(tmp_path, frames=FRAMES, seed=4)
    assert again.name == folder.name
    assert len(digest(folder)) == sum(FRAMES) + 3
    assert digest(again) == digest(folder)


def test_another_seed_gives_other_frames_and_train_and_val_share_none(folder: Path, tmp_path: Path) -> None:
    other = road_dataset(tmp_path, frames=(1, 1), seed=5)
    assert other.name != folder.name
    pictures = [
        value
        for found in (digest(folder), digest(other))
        for name, value in found.items()
        if name.endswith(".jpg")
    ]
    assert len(set(pictures)) == len(pictures) == sum(FRAMES) + 2


def test_a_larger_set_begins_with_the_smaller_one(folder: Path, tmp_path: Path) -> None:
    smaller, ours = digest(road_dataset(tmp_path, frames=(2, 1), seed=4)), digest(folder)
    pictures = [name for name in smaller if name.endswith(".jpg")]
    assert len(pictures) == 3
    assert all(smaller[name] == ours[name] for name in pictures)


def test_a_set_in_the_cache_is_found_not_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("generated again")

    monkeypatch.setattr(build, "draw_frame", refuse)
    monkeypatch.setenv("SLR_DET_CACHE", str(folder.parent))
    assert road_dataset(frames=FRAMES, seed=4) == folder
    with pytest.raises(AssertionError, match="generated again"):
        road_dataset(tmp_path, frames=FRAMES, seed=4)
    assert list(tmp_path.iterdir()) == []  # nothing half made stays


def test_a_damaged_set_is_replaced(folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / folder.name
    shutil.copytree(folder, damaged)
    (damaged / "label_data_val.json").unlink()
    assert road_dataset(tmp_path, frames=FRAMES, seed=4) == damaged
    assert digest(damaged) == digest(folder)


def test_two_processes_may_build_the_same_set_at_once(tmp_path: Path) -> None:
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.append(road_dataset(tmp_path, frames=(1, 1)))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2 and made[0] == made[1]
    assert [path.name for path in tmp_path.iterdir()] == [made[0].name]


def test_all_bad_parameters_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        road_dataset(frames=(0, -1), seed=-2)
    text = str(caught.value)
    assert "\n" not in text
    assert "0 train frames" in text and "-1 val frames" in text and "seed: -2" in text
    assert len(caught.value.problems) == 3


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="SLR_DET_CACHE") as caught:
        road_dataset(tmp_path / "file", frames=(1, 1))
    assert "\n" not in str(caught.value) and str(tmp_path / "file") in str(caught.value)

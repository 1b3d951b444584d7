"""The generated KITTI world: rays end where geometry says, labels say what a scan holds, the same bytes always."""

from __future__ import annotations

import hashlib
import math
import shutil
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slr_det.data.kitti import Calibration, KittiFolder, lidar_boxes
from slr_det.data.kitti_world import CLASSES, DEFAULT_FRAMES, build, world_dataset
from slr_det.data.kitti_world.annotate import MIN_POINTS, label, occlusion
from slr_det.data.kitti_world.bodies import MODELS, SIZES, Body, clutter, draw_size, stand
from slr_det.data.kitti_world.build import KINDS, draw_frame
from slr_det.data.kitti_world.cast import GROUND, NOTHING, Hits, Rays, cast, meet
from slr_det.data.kitti_world.lidar import BEAMS, RANGE_NOISE, Scan, beams, scan
from slr_det.data.kitti_world.rig import CALIBRATION, IMAGE_SHAPE, VIEW, render
from slr_det.data.kitti_world.scene import (
    FARTHEST,
    GAP,
    NEAREST,
    SENSOR_HEIGHT,
    Ground,
    Scene,
    apart,
    draw_scene,
    footprint,
)
from slr_det.data.kitti_world.solids import BALL, BOX, COLUMN, Material, Solid, solid, tapered
from slr_det.errors import ConfigError, StorageError
from slr_det.metrics.kitti_rules import MAX_OCCLUSION, MAX_TRUNCATION, MIN_HEIGHT
from slr_det.pointcloud.boxes import points_in_boxes
from slr_det.pointcloud.rotated import iou_bev

FRAMES = (5, 3)
PLAIN = Material(0.5, (100, 100, 100))
FLAT = Ground((0.0, 0.0), 0.0, 0.0, True)
KINDS_OF_CLUTTER = ("wall", "hedge", "bush", "tree", "pole", "post", "sign", "bin")
Frame = tuple[Scene, Scan]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world_dataset(tmp_path_factory.mktemp("cache"), frames=FRAMES, seed=4)


@pytest.fixture(scope="module")
def drawn() -> list[Frame]:
    return [draw_frame(0, 0, index) for index in range(24)]


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def cube(x: float, y: float, size: tuple[float, float, float]) -> Body:
    half = (size[0] / 2, size[1] / 2, size[2] / 2)
    return stand(
        "Car", size, (solid((0, 0, half[2]), half, BOX, PLAIN),), np.array([x, y, -SENSOR_HEIGHT]), 0.0
    )


def own_frame(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Points (P, 3) relative to a box's middle, turned so that its sides are the axes."""
    c, s = math.cos(box[6]), math.sin(box[6])
    return np.asarray((points - box[:3]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]))


# Rays against solids


def test_rays_meet_a_box_where_its_faces_are() -> None:
    box = solid((5.0, 0.0, 0.0), (1.0, 2.0, 0.5), BOX, PLAIN)
    slant = math.hypot(4.0, 1.0)
    rays = np.array([[1, 0, 0], [4 / slant, 1 / slant, 0], [0, 1, 0], [-1, 0, 0], [1, 0, 0.2]], dtype=float)
    t, cosine = meet(box, np.zeros(3), rays.T)
    assert t == pytest.approx([4.0, slant, math.inf, math.inf, math.inf])
    assert cosine[:2] == pytest.approx([1.0, 4 / slant])


def test_a_ray_along_a_face_hits_inside_of_its_plane_only_and_one_from_inside_hits_nothing() -> None:
    box = solid((5.0, 0.0, 0.0), (1.0, 2.0, 0.5), BOX, PLAIN)
    for z, expected in ((0.49, 4.0), (0.51, math.inf)):
        assert meet(box, np.array([0, 0, z]), np.array([[1.0], [0], [0]]))[0] == pytest.approx([expected])
    assert meet(box, np.array([5.0, 0, 0]), np.array([[1.0], [0], [0]]))[0].tolist() == [math.inf]


@pytest.mark.parametrize("planes", [BOX, COLUMN, BALL, tapered(0.5, 0.8, 0.84)])
def test_a_ray_is_outside_before_its_hit_and_inside_after_it(planes: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    body = solid((0.2, 0.1, 0.3), (1.5, 0.8, 0.6), planes, PLAIN).placed(np.array([6.0, 1.0, -0.5]), 0.7)
    rays = np.array([6.0, 1.0, -0.5]) + rng.uniform(-1.5, 1.5, (400, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    t, _ = meet(body, np.zeros(3), rays.T)
    steps = np.linspace(0, 12, 1501)
    inside = ((steps[:, None, None] * rays) @ body.normals.T <= body.offsets).all(axis=2)
    first = np.where(inside.any(axis=0), steps[inside.argmax(axis=0)], np.inf)
    hit = np.isfinite(first)
    assert 50 < hit.sum() < 350
    assert np.isfinite(t[hit]).all()
    assert (np.abs(first[hit] - t[hit]) <= steps[1] + 1e-9).all()
    grazing = np.isfinite(t) & ~hit  # a chord shorter than a step
    assert grazing.sum() <= 4
    ends = t[hit, None] * rays[hit]
    assert np.abs((ends @ body.normals.T - body.offsets).max(axis=1)).max() < 1e-9
    assert (ends >= body.low - 1e-9).all() and (ends <= body.high + 1e-9).all()


@pytest.mark.parametrize("sensor", ["lidar", "camera"])
def test_only_rays_that_could_meet_nothing_are_left_out(sensor: str) -> None:
    rays = beams() if sensor == "lidar" else VIEW
    rows, columns = rays.directions.shape[:2]
    everywhere = replace(rays, window=lambda low, high: (slice(0, rows), slice(0, columns)))
    scene = draw_scene(np.random.default_rng(0))
    scene = replace(scene, bodies=scene.bodies[::3])
    assert {body.name for body in scene.bodies} == {*CLASSES, ""}
    few, all_of_them = cast(scene, rays), cast(scene, everywhere)
    for field in Hits.__dataclass_fields__:
        assert np.array_equal(getattr(few, field), getattr(all_of_them, field)), field


def test_the_nearest_body_wins_and_what_it_hides_is_counted() -> None:
    whole, half = cube(10, 0, (1, 6, 3)), cube(10, 1.5, (1, 3, 3))
    far = cube(20, 0, (1, 4, 1.5))
    for front, hidden in ((whole, 1.0), (half, 0.5)):
        for bodies in ((front, far), (far, front)):
            hits = cast(Scene(FLAT, bodies), beams())
            near, behind = bodies.index(front), bodies.index(far)
            seen = np.bincount(hits.body[hits.body >= 0], minlength=2)
            assert seen[near] == hits.alone[near] > 0
            assert 1 - seen[behind] / hits.alone[behind] == pytest.approx(hidden, abs=0.02)
            blocked = np.isfinite(
                meet(front.solids[0], np.zeros(3), np.moveaxis(beams().directions, 2, 0))[0]
            )
            assert (hits.body[blocked] == near).all()


def test_the_ground_is_met_where_the_plane_is() -> None:
    ground = Ground((0.01, -0.02), 0.1, 1.0, False)
    hits = cast(Scene(ground, ()), beams())
    assert set(np.unique(hits.body)) == {GROUND, NOTHING}
    met = hits.body == GROUND
    ends = hits.distance[met, None] * beams().directions[met]
    assert np.abs(ends[:, 2] - (-SENSOR_HEIGHT + 0.01 * ends[:, 0] - 0.02 * ends[:, 1])).max() < 1e-9
    assert np.isinf(hits.distance[~met]).all()
    assert met[-1].all() and not met[0].any()


# Bodies


@pytest.mark.parametrize("kind", [*CLASSES, *KINDS_OF_CLUTTER])
def test_a_body_fills_its_box_and_nothing_sticks_out(kind: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(10):
        if kind in CLASSES:
            size = draw_size(rng, kind)
            parts: tuple[Solid, ...] = MODELS[kind](rng, size)
        else:
            size, parts = clutter(rng, kind)
        low = np.min([part.low for part in parts], axis=0)
        high = np.max([part.high for part in parts], axis=0)
        l, w, h = size
        if kind in ("tree", "sign"):  # the box on the ground is the trunk's; the rest hangs over it
            assert (low[2], high[2]) == pytest.approx((0, h), abs=1e-9)
            continue
        assert low == pytest.approx([-l / 2, -w / 2, 0], abs=1e-9)
        assert high == pytest.approx([l / 2, w / 2, h], abs=1e-9)


def test_every_solid_touches_the_faces_of_its_box() -> None:
    for planes in (BOX, COLUMN, BALL, tapered(0.5, 0.8, 0.84)):
        rays = np.concatenate([np.eye(3), -np.eye(3)])
        base = 0.999 if len(planes) == 6 else 0.0  # a cabin is widest at its base
        for ray in rays:
            origin = 5 * ray + (np.array([0, 0, -base]) if ray[2] == 0 else 0)
            t, _ = meet(solid((0, 0, 0), (1, 1, 1), planes, PLAIN), origin, -ray[:, None])
            assert t[0] == pytest.approx(4.0, abs=2e-3)


@pytest.mark.parametrize("name", CLASSES)
def test_sizes_scatter_around_kittis_anchors(name: str) -> None:
    anchors = {"Car": (3.9, 1.6, 1.56), "Pedestrian": (0.8, 0.6, 1.73), "Cyclist": (1.76, 0.6, 1.73)}
    rng = np.random.default_rng(1)
    sizes = np.array([draw_size(rng, name) for _ in range(500)])
    assert np.abs(sizes.mean(axis=0) / anchors[name] - 1).max() < 0.05
    assert (np.abs(sizes - SIZES[name][0]) <= 2 * np.array(SIZES[name][1]) + 1e-12).all()
    assert (sizes.std(axis=0) > 0.02).all()


# Scenes


def test_bodies_stand_on_the_ground_in_range_and_apart(drawn: list[Frame]) -> None:
    for scene, _ in drawn:
        boxes = np.array([body.box for body in scene.bodies])
        overlaps = iou_bev(torch.tensor(boxes), torch.tensor(boxes)).numpy()
        assert np.abs(overlaps - np.eye(len(boxes))).max() < 1e-6
        for body in scene.bodies:
            foot = body.box[2] - body.box[5] / 2
            assert foot == pytest.approx(scene.ground.height(body.box[0], body.box[1]), abs=1e-9)
            assert -math.pi <= body.box[6] < math.pi
            assert footprint(body.box)[:, 0].min() >= NEAREST
            assert not body.name or footprint(body.box)[:, 0].max() <= FARTHEST


def test_boxes_are_apart_when_their_borders_are() -> None:
    rng = np.random.default_rng(2)
    edge = np.linspace(0, 1, 60)[:, None, None]
    answers = set()
    for _ in range(80):
        boxes = np.zeros((2, 7))
        boxes[:, :2], boxes[:, 3:5] = rng.uniform(-3, 3, (2, 2)), rng.uniform(0.5, 4, (2, 2))
        boxes[:, 6] = rng.uniform(-math.pi, math.pi, 2)
        rings = [footprint(box) for box in boxes]
        borders = [(r + edge * (np.roll(r, -1, axis=0) - r)).reshape(-1, 2) for r in rings]
        distance = np.linalg.norm(borders[0][:, None] - borders[1], axis=2).min()
        overlap = iou_bev(torch.tensor(boxes[:1]), torch.tensor(boxes[1:]))[0, 0] > 1e-9
        answer = apart(boxes[0], boxes[1], GAP)
        answers.add(answer)
        # Separating axes underestimate the distance between two corners, so they may only err to "not apart".
        assert not (answer and (overlap or distance < GAP - 1e-6))
        assert answer or overlap or distance < GAP * math.sqrt(2) + 0.1
    assert answers == {True, False}


def test_streets_and_yards_both_occur_with_every_class(drawn: list[Frame]) -> None:
    assert {scene.ground.paved for scene, _ in drawn} == {True, False}
    names = Counter(body.name for scene, _ in drawn for body in scene.bodies)
    assert set(names) == {*CLASSES, ""}
    assert names["Car"] >= 5 * len(drawn) * 0.9


# Scans


def test_points_lie_on_what_they_were_cast_at(drawn: list[Frame]) -> None:
    off = []
    for scene, found in drawn[:10]:
        for index, body in enumerate(scene.bodies):
            mine = found.points[found.body == index]
            assert len(mine) <= found.seen[index] <= found.alone[index]
            if body.name:
                beyond = np.abs(own_frame(mine[:, :3].astype(float), body.box)) - body.box[3:6] / 2
                off.extend(beyond.max(axis=1).tolist())
                if body.name == "Car":  # smooth all over
                    assert (beyond <= 6 * RANGE_NOISE).all()
        low = found.points[found.body == GROUND].astype(float)
        rise = low[:, 2] - [scene.ground.height(float(x), float(y)) for x, y, *_ in low]
        assert np.abs(rise).max() < 0.2
        assert np.std(rise) < 0.03
    assert len(off) > 5000
    assert np.quantile(off, 0.99) < 3 * RANGE_NOISE
    assert np.quantile(off, 0.9) > -0.6  # they lie on it, not somewhere inside


def test_a_smooth_wall_shows_the_range_noise_its_reflectance_and_some_losses() -> None:
    scene = Scene(FLAT, (cube(15, 0, (1, 12, 4)),))
    found = scan(scene, np.random.default_rng(0))
    wall = found.points[found.body == 0].astype(float)
    distance = np.linalg.norm(wall[:, :3], axis=1)
    error = distance * (1 - 14.5 / wall[:, 0])
    assert error.mean() == pytest.approx(0, abs=4 * RANGE_NOISE / math.sqrt(len(wall)))
    assert error.std() == pytest.approx(RANGE_NOISE, rel=0.05)
    cosine = wall[:, 0] / distance
    assert wall[:, 3].mean() == pytest.approx(0.5 * (0.3 + 0.7 * cosine).mean(), abs=0.005)
    assert 0.01 < 1 - len(wall) / found.seen[0] < 0.06


def test_scans_have_sixty_four_beams_and_intensities_in_hundredths(drawn: list[Frame]) -> None:
    assert len(BEAMS) == 64 and BEAMS[0] == 2.0 and BEAMS[-1] == -24.8
    assert (np.diff(BEAMS) < -0.3).all()
    for _, found in drawn[:5]:
        points = found.points.astype(np.float64)
        assert found.points.dtype == np.float32
        assert np.isfinite(points).all()
        assert 15_000 < len(points) < 32_000
        elevation = np.degrees(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])))
        assert np.abs(elevation[:, None] - BEAMS).min(axis=1).max() < 1e-4
        assert len(np.unique(np.abs(elevation[:, None] - BEAMS).argmin(axis=1))) > 50
        assert points[:, 3].min() >= 0 and found.points[:, 3].max() <= np.float32(0.99)
        assert np.abs(points[:, 3] * 100 - np.round(points[:, 3] * 100)).max() < 1e-4
        assert len(np.unique(found.points[:, 3])) > 40


# Labels


def test_occlusion_follows_the_hidden_share_and_the_number_of_points() -> None:
    alone = np.array([100, 100, 100, 100, 100, 100, 0])
    seen = np.array([100, 86, 84, 50, 49, 100, 0])
    points = np.array([90, 80, 80, 45, 45, MIN_POINTS - 1, 0])
    assert occlusion(alone, seen, points).tolist() == [0, 0, 1, 1, 2, 3, 3]


def test_labels_are_of_the_bodies_with_points_in_the_picture(drawn: list[Frame]) -> None:
    for scene, found in drawn[:20]:
        objects = label(scene, found)
        real = objects.take(np.array([name in CLASSES for name in objects.names]))
        boxes = lidar_boxes(real, CALIBRATION).astype(float)
        truth = np.array([body.box for body in scene.bodies if body.name])
        distance = np.linalg.norm(truth[:, None, :3] - boxes[:, :3], axis=2)
        match = distance.argmin(axis=0)
        assert len(set(match)) == len(boxes)
        assert np.abs(truth[match, :6] - boxes[:, :6]).max() < 1e-4
        turn = (truth[match, 6] - boxes[:, 6] + math.pi) % (2 * math.pi) - math.pi
        assert np.abs(turn).max() < 1e-5
        # What is left out has no point in the picture.
        view = found.body[CALIBRATION.in_view(found.points, IMAGE_SHAPE)]
        indices = [i for i, body in enumerate(scene.bodies) if body.name]
        for place in set(range(len(truth))) - set(match):
            assert (view == indices[place]).sum() <= 3
        names = [body.name for body in scene.bodies if body.name]
        assert [names[i] for i in match] == list(real.names)


def test_boxes_in_the_picture_are_inside_and_truncation_is_what_is_not(drawn: list[Frame]) -> None:
    height, width = IMAGE_SHAPE
    cut = 0
    for scene, found in drawn:
        objects = label(scene, found)
        left, top, right, bottom = objects.boxes_2d.T
        assert (left >= 0).all() and (top >= 0).all()
        assert (right <= width - 1).all() and (bottom <= height - 1).all()
        assert (right - left >= 2).all() and (bottom - top >= 2).all()
        real = np.array([name in CLASSES for name in objects.names], dtype=bool)
        border = (left == 0) | (top == 0) | (right == width - 1) | (bottom == height - 1)
        truncated = objects.truncated[real]
        assert ((truncated >= 0) & (truncated < 1)).all()
        assert ((truncated > 1e-9) == border[real]).all()
        cut += int(border[real].sum())
        care = objects.take(~real)
        assert set(care.names) <= {"DontCare"}
        assert (
            (care.locations == -1000).all() and (care.truncated == -1).all() and (care.occluded == -1).all()
        )
    assert cut > 20


def test_every_difficulty_has_many_cars_and_some_of_the_others(drawn: list[Frame]) -> None:
    counts: Counter[tuple[str, int]] = Counter()
    for scene, found in drawn:
        objects = label(scene, found)
        heights = objects.boxes_2d[:, 3] - objects.boxes_2d[:, 1]
        rows = zip(objects.names, heights, objects.occluded, objects.truncated, strict=True)
        for name, height, hidden, cut in rows:
            limits = zip(MIN_HEIGHT, MAX_OCCLUSION, MAX_TRUNCATION, strict=True)
            for level, (least, most_hidden, most_cut) in enumerate(limits):
                counts[name, level] += bool(height > least and hidden <= most_hidden and cut <= most_cut)
    cars = [counts["Car", level] / len(drawn) for level in range(3)]
    assert cars[0] > 1.5 and cars[1] > cars[0] + 0.5 and cars[2] > cars[1] + 0.5
    for name in ("Pedestrian", "Cyclist"):
        levels = [counts[name, level] / len(drawn) for level in range(3)]
        assert levels[0] > 0.2 and levels[1] > levels[0] and levels[2] > levels[1]


# Pictures and calibration


def test_the_camera_sees_bodies_where_their_boxes_are_projected(drawn: list[Frame]) -> None:
    checked = 0
    for scene, found in drawn[:6]:
        objects = label(scene, found)
        for i in np.flatnonzero(objects.truncated == 0):
            box = lidar_boxes(objects.take(np.array([i])), CALIBRATION)[0]
            body = min(scene.bodies, key=lambda b: float(np.linalg.norm(b.box[:3] - box[:3])))
            rows, columns = np.nonzero(cast(Scene(scene.ground, (body,)), VIEW).body == 0)
            u, v = (columns + 0.5) * 3, (rows + 0.5) * 3  # the middles of the cells
            left, top, right, bottom = objects.boxes_2d[i]
            # Labels turn about the camera's axis, which is a little off the lidar's: a pixel or two close by.
            assert left - 3 <= u.min() and u.max() <= right + 3
            assert top - 3 <= v.min() and v.max() <= bottom + 3
            if bottom - top > 60:  # a head far away slips through the picture's cells
                # The box is the hull of a cuboid, which the body does not fill to its corners.
                assert u.max() - u.min() > 0.5 * (right - left) - 6
                assert v.max() - v.min() > 0.8 * (bottom - top) - 6
                checked += 1
    assert checked > 10


def test_the_picture_is_of_the_scene() -> None:
    red = Material(0.5, (200, 0, 0))
    size = (1.0, 4.0, 2.0)
    box = solid((0, 0, 1), (0.5, 2, 1), BOX, red)
    scene = Scene(FLAT, (stand("Car", size, (box,), np.array([12.0, 0.0, -SENSOR_HEIGHT]), 0.0),))
    picture = np.asarray(render(scene)).astype(int)
    assert picture.shape == (*IMAGE_SHAPE, 3)
    pixels, depth = CALIBRATION.rect_to_image(CALIBRATION.lidar_to_rect(np.array([[11.5, 0.0, -0.7]])))
    assert 11 < depth[0] < 11.5
    u, v = pixels[0].round().astype(int)
    assert picture[v, u, 0] > 2 * picture[v, u, 1]
    assert picture[5, 600, 2] > picture[5, 600, 0]  # the sky is blue
    assert np.ptp(picture[-5, 100]) < 20  # asphalt is grey


def test_the_calibration_is_a_rigid_motion_near_kittis(folder: Path) -> None:
    read = Calibration.read(folder / "training" / "calib" / "000000.txt")
    for name in ("P2", "R0", "V2C"):
        assert np.abs(getattr(read, name) - getattr(CALIBRATION, name)).max() < 1e-9
    for rotation in (read.R0, read.V2C[:, :3]):
        assert np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-9
        assert np.linalg.det(rotation) == pytest.approx(1)
    ahead, left, up = read.lidar_to_rect(np.array([[20.0, 0, 0], [20, 1, 0], [20, 0, 1]]))
    assert ahead == pytest.approx([0, 0, 19.7], abs=0.5)
    assert (left - ahead)[0] == pytest.approx(-1, abs=0.01)
    assert (up - ahead)[1] == pytest.approx(-1, abs=0.01)
    keys = [
        line.partition(":")[0] for line in (folder / "training/calib/000000.txt").read_text().splitlines()
    ]
    assert keys == ["P0", "P1", "P2", "P3", "R0_rect", "Tr_velo_to_cam", "Tr_imu_to_velo"]


# The folder


def test_kitti_folder_reads_every_frame_and_easy_objects_hold_their_points(folder: Path) -> None:
    kitti = KittiFolder.open(folder)
    assert kitti.split("train") == [f"{i:06d}" for i in range(FRAMES[0])]
    assert kitti.split("val") == [f"{i:06d}" for i in range(FRAMES[0], sum(FRAMES))]
    easy = 0
    for split, name in enumerate(("train", "val")):
        for index, frame in enumerate(kitti.split(name)):
            scene, found = draw_frame(4, split, index)
            points, objects = kitti.points(frame), kitti.objects(frame)
            assert np.array_equal(points, found.points)
            assert kitti.image_shape(frame) == IMAGE_SHAPE
            wanted = label(scene, found)
            assert objects.names == wanted.names
            assert np.abs(objects.boxes_2d - wanted.boxes_2d).max() < 1e-4
            assert (objects.occluded == wanted.occluded).all()
            boxes = lidar_boxes(objects, kitti.calibration(frame))
            inside = points_in_boxes(torch.tensor(points), torch.tensor(boxes)).sum(dim=1).numpy()
            visible = (objects.occluded >= 0) & (objects.occluded < 2)
            assert (inside[visible] >= MIN_POINTS - 1).all()
            easy += int(visible.sum())
            plane = kitti.road_plane(frame)
            assert plane is not None
            low = found.points[found.body == GROUND][:, :3]
            rise = kitti.calibration(frame).lidar_to_rect(low) @ plane[:3] + plane[3]
            assert abs(np.median(rise)) < 0.01
    assert easy > 20


def test_every_frame_has_every_file_and_the_picture_is_small(folder: Path) -> None:
    names = {f"{i:06d}" for i in range(sum(FRAMES))}
    for kind in KINDS:
        assert {path.stem for path in (folder / "training" / kind).iterdir()} == names
    with Image.open(folder / "training" / "image_2" / "000000.png") as picture:
        assert (picture.size, picture.mode) == ((1242, 375), "RGB")
    assert (folder / "training" / "image_2" / "000000.png").stat().st_size < 60_000
    readme = (folder / "README.txt").read_text()
    assert "CC0" in readme and "seed 4" in readme


def test_the_same_seed_gives_the_same_bytes_elsewhere(folder: Path, tmp_path: Path) -> None:
    again = world_dataset(tmp_path, frames=FRAMES, seed=4)
    assert again.name == folder.name
    assert len(digest(folder)) == len(KINDS) * sum(FRAMES) + 3
    assert digest(again) == digest(folder)


def test_another_seed_gives_other_frames_and_train_and_val_share_none(folder: Path, tmp_path: Path) -> None:
    other = world_dataset(tmp_path, frames=(2, 1), seed=5)
    assert other.name != folder.name
    scans = [value for name, value in {**digest(folder)}.items() if name.endswith(".bin")]
    scans += [value for name, value in digest(other).items() if name.endswith(".bin")]
    assert len(set(scans)) == len(scans) == sum(FRAMES) + 3


def test_frames_of_a_larger_set_begin_with_those_of_a_smaller_one(folder: Path, tmp_path: Path) -> None:
    smaller = digest(world_dataset(tmp_path, frames=(2, 1), seed=4))
    ours = digest(folder)
    for kind in KINDS:
        (suffix,) = {Path(name).suffix for name in ours if f"/{kind}/" in name}
        for theirs, mine in (("000000", "000000"), ("000001", "000001"), ("000002", f"{FRAMES[0]:06d}")):
            assert smaller[f"training/{kind}/{theirs}{suffix}"] == ours[f"training/{kind}/{mine}{suffix}"]


def test_a_set_in_the_cache_is_found_not_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("generated again")

    monkeypatch.setattr(build, "draw_frame", refuse)
    monkeypatch.setenv("SLR_DET_CACHE", str(folder.parent))
    assert world_dataset(frames=FRAMES, seed=4) == folder
    with pytest.raises(AssertionError, match="generated again"):
        world_dataset(tmp_path, frames=FRAMES, seed=4)
    assert list(tmp_path.iterdir()) == []  # nothing half made stays


def test_a_damaged_set_is_replaced(folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / folder.name
    shutil.copytree(folder, damaged)
    shutil.rmtree(damaged / "ImageSets")
    assert world_dataset(tmp_path, frames=FRAMES, seed=4) == damaged
    assert digest(damaged) == digest(folder)


def test_two_processes_may_build_the_same_set_at_once(tmp_path: Path) -> None:
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.append(world_dataset(tmp_path, frames=(2, 1)))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2 and made[0] == made[1]
    assert [path.name for path in tmp_path.iterdir()] == [made[0].name]


def test_all_bad_parameters_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        world_dataset(frames=(0, -1), seed=-2)
    text = str(caught.value)
    assert "\n" not in text
    assert "0 train frames" in text and "-1 val frames" in text and "seed: -2" in text
    assert len(caught.value.problems) == 3


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="SLR_DET_CACHE") as caught:
        world_dataset(tmp_path / "file", frames=(1, 1))
    assert "\n" not in str(caught.value) and str(tmp_path / "file") in str(caught.value)


def test_the_default_set_is_of_a_size_to_train_on() -> None:
    assert DEFAULT_FRAMES[0] >= 100 and DEFAULT_FRAMES[1] >= 40


def test_rays_are_shared_and_never_changed(drawn: list[Frame]) -> None:
    rays: Rays = beams()
    before = rays.directions.copy()
    scan(drawn[0][0], np.random.default_rng(0))
    assert beams() is rays
    assert np.array_equal(before, rays.directions)
    assert np.linalg.norm(rays.directions, axis=2) == pytest.approx(1.0)

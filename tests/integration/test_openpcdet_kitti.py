"""The KITTI data set against OpenPCDet's own, on real frames: what is read, converted, cut out, pasted and varied."""

from __future__ import annotations

import importlib
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from slr_det.data.kitti import (
    Augmentation,
    Calibration,
    KittiDataset,
    KittiFolder,
    lidar_boxes,
    object_database,
    to_objects,
)
from slr_det.data.kitti.augment import Scene, flip, rotate, scale
from slr_det.data.kitti.database import difficulty
from slr_det.data.kitti.frames import PARTS
from slr_det.data.kitti.labels import DONT_CARE
from slr_det.data.kitti.sampling import Ground, ObjectSampler

pytestmark = [pytest.mark.samples, pytest.mark.slow]

CLASSES = ["Car", "Pedestrian", "Cyclist"]
RANGE = [0, -39.68, -3, 69.12, 39.68, 1]
FRAMES = [f"{i:06d}" for i in range(6)]


@pytest.fixture(scope="module")
def upstream(openpcdet: Path) -> Iterator[Any]:
    """Attribute access to modules of pcdet."""
    inject = pytest.importorskip("slr_det_adapters.openpcdet.inject")
    with inject.use_checkout(openpcdet, "cpu") as checkout, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # news for its authors

        def module(name: str) -> ModuleType:
            return importlib.import_module(f"pcdet.{name}")

        yield SimpleNamespace(module=module, config=checkout.seam("pcdet.config", "EasyDict"))


@pytest.fixture(scope="module")
def root(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real frames by links, in a folder that OpenPCDet may write into."""
    root = tmp_path_factory.mktemp("kitti")
    (root / "training").symlink_to((samples / "kitti" / "training").resolve())
    (root / "ImageSets").mkdir()
    for split in ("train", "val"):
        (root / "ImageSets" / f"{split}.txt").write_text("\n".join(FRAMES) + "\n")
    return root


@pytest.fixture(scope="module")
def theirs(upstream: Any, root: Path) -> Any:
    """OpenPCDet's data set with its infos and its database, made by its own code."""
    settings = upstream.config(
        {
            "DATA_SPLIT": {"train": "train", "test": "val"},
            "INFO_PATH": {"train": ["infos.pkl"], "test": ["infos.pkl"]},
            "FOV_POINTS_ONLY": True,
            "GET_ITEM_LIST": ["points"],
            "POINT_CLOUD_RANGE": RANGE,
            "POINT_FEATURE_ENCODING": {
                "encoding_type": "absolute_coordinates_encoding",
                "used_feature_list": ["x", "y", "z", "intensity"],
                "src_feature_list": ["x", "y", "z", "intensity"],
            },
            "DATA_AUGMENTOR": {"DISABLE_AUG_LIST": [], "AUG_CONFIG_LIST": []},
            "DATA_PROCESSOR": [
                {"NAME": "mask_points_and_boxes_outside_range", "REMOVE_OUTSIDE_BOXES": True},
            ],
        }
    )
    kitti = upstream.module("datasets.kitti.kitti_dataset")
    first = kitti.KittiDataset(settings, CLASSES, training=False, root_path=root)
    infos = first.get_infos(num_workers=1, sample_id_list=FRAMES)
    with (root / "infos.pkl").open("wb") as file:
        pickle.dump(infos, file)
    kitti.Path = Path  # as its script does, which alone imports the name
    first.create_groundtruth_database(root / "infos.pkl", split="train")
    return kitti.KittiDataset(settings, CLASSES, training=False, root_path=root)


def test_calibration_maps_points_to_the_same_places(upstream: Any, samples: Path) -> None:
    calibration_kitti = upstream.module("utils.calibration_kitti")
    folder = KittiFolder.open(samples / "kitti")
    for frame in FRAMES:
        file = folder.file("calib", frame)
        ours, other = Calibration.read(file), calibration_kitti.Calibration(str(file))
        xyz = folder.points(frame)[::50, :3]
        rect = ours.lidar_to_rect(xyz)
        np.testing.assert_allclose(rect, other.lidar_to_rect(xyz), atol=1e-4)
        np.testing.assert_allclose(ours.rect_to_lidar(rect), other.rect_to_lidar(rect), atol=1e-4)
        ahead = rect[rect[:, 2] > 1]
        for mine, its in zip(ours.rect_to_image(ahead), other.rect_to_img(ahead), strict=True):
            np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-3)


def test_frames_have_the_same_points_and_boxes(theirs: Any, root: Path) -> None:
    ours = KittiDataset(KittiFolder.open(root), "val", CLASSES, RANGE)
    for index, frame in enumerate(FRAMES):
        its, mine = theirs[index], ours[index]
        assert its["frame_id"] == mine.frame_id == frame
        # It keeps points above and below the range for its voxels to drop.
        within = (its["points"][:, 2] >= RANGE[2]) & (its["points"][:, 2] <= RANGE[5])
        expected = its["points"][within]
        # float32 sums of another order may move a point over the border of the picture.
        assert abs(len(mine.points) - len(expected)) <= 3
        common = {tuple(row) for row in mine.points.tolist()} & {tuple(row) for row in expected.tolist()}
        assert len(common) >= len(expected) - 3
        difference = mine.boxes.numpy() - its["gt_boxes"]
        difference[:, 6] = (difference[:, 6] + np.pi) % (2 * np.pi) - np.pi
        np.testing.assert_allclose(difference, 0, atol=1e-4)


def test_levels_and_the_database_are_the_same(theirs: Any, root: Path, tmp_path: Path) -> None:
    folder = KittiFolder.open(root)
    for info in theirs.kitti_infos:
        objects = folder.objects(info["point_cloud"]["lidar_idx"])
        assert difficulty(objects).tolist() == info["annos"]["difficulty"].tolist()
    ours = object_database(folder, "train", tmp_path, progress=False)
    with (root / "kitti_dbinfos_train.pkl").open("rb") as file:
        its = pickle.load(file)
    assert {name: len(infos) for name, infos in its.items()} == ours.summary()
    for info in (info for infos in its.values() for info in infos):
        (index,) = np.flatnonzero(
            (ours.frames == info["image_idx"])
            & (ours.names == info["name"])
            & (np.abs(ours.boxes[:, :3] - info["box3d_lidar"][:3]) < 1e-3).all(1)
        )
        points = np.fromfile(root / info["path"], np.float32).reshape(-1, 4)
        # A point on the face of a box may fall on either side of it in float32.
        assert abs(ours.counts[index] - len(points)) <= 1
        if ours.counts[index] == len(points):
            np.testing.assert_allclose(ours.points_of(index), points, atol=1e-4)
        assert ours.difficulties[index] == info["difficulty"]
        np.testing.assert_allclose(ours.boxes[index], info["box3d_lidar"], atol=1e-4)


def database_sampler(upstream: Any, root: Path, road: bool, dropped: list[int]) -> Any:
    settings = {
        "USE_ROAD_PLANE": road,
        "DB_INFO_PATH": ["kitti_dbinfos_train.pkl"],
        "PREPARE": {
            "filter_by_min_points": [f"{name}:5" for name in CLASSES],
            "filter_by_difficulty": dropped,
        },
        "SAMPLE_GROUPS": [f"{name}:15" for name in CLASSES],
        "NUM_POINT_FEATURES": 4,
        "REMOVE_EXTRA_WIDTH": [0.0, 0.0, 0.0],
        "LIMIT_WHOLE_SCENE": False,
    }
    module = upstream.module("datasets.augmentor.database_sampler")
    return module.DataBaseSampler(root, upstream.config(settings), CLASSES)


@pytest.mark.parametrize("dropped", [[], [-1], [-1, 0]])
def test_the_same_objects_are_there_to_be_pasted(
    upstream: Any, theirs: Any, root: Path, tmp_path: Path, dropped: list[int]
) -> None:
    ours = object_database(KittiFolder.open(root), "train", tmp_path, progress=False)
    sampler = ObjectSampler(ours, CLASSES, Augmentation(dropped_levels=tuple(dropped)), 0)
    its = database_sampler(upstream, root, False, dropped).db_infos
    for name in CLASSES:
        assert sorted(ours.frames[sampler.pools[name]]) == sorted(info["image_idx"] for info in its[name])


@pytest.mark.parametrize("road", [False, True])
def test_the_same_draw_is_pasted_the_same_way(
    upstream: Any, theirs: Any, root: Path, tmp_path: Path, road: bool
) -> None:
    folder = KittiFolder.open(root)
    ours = object_database(folder, "train", tmp_path, progress=False)
    # No level is dropped: OpenPCDet stops where a class has no object, and these few frames have one cyclist.
    sampler = ObjectSampler(ours, CLASSES, Augmentation(dropped_levels=()), 0)
    its_sampler = database_sampler(upstream, root, road, [])
    frame_index = 0

    def same_draw(name: str, group: Any) -> list[Any]:
        """OpenPCDet's records of the objects that ours draws for the frame, in the same order."""
        return [
            info
            for index in sampler.draw(name, int(group["sample_num"]), 0, frame_index)
            for info in its_sampler.db_infos[name]
            if info["image_idx"] == ours.frames[index]
            and np.abs(info["box3d_lidar"][:3] - ours.boxes[index, :3]).max() < 1e-3
        ]

    its_sampler.sample_with_fixed_number = same_draw
    plane = np.array([0.01, -0.9998, 0.02, 1.7])
    added, refused = 0, 0
    for frame_index, frame in enumerate(FRAMES):
        calibration, points = folder.calibration(frame), folder.points(frame)
        objects = folder.objects(frame)
        objects = objects.take([name != DONT_CARE for name in objects.names])
        boxes, names = lidar_boxes(objects, calibration), np.array(objects.names)
        ground = Ground(plane, calibration) if road else None
        mine = sampler.paste(Scene(points, boxes, names), 0, frame_index, ground)
        data = {
            "gt_boxes": boxes.copy(),
            "gt_names": names,
            "gt_boxes_mask": np.isin(names, CLASSES),
            "points": points.copy(),
            "road_plane": plane,
            "calib": theirs.get_calib(frame),
        }
        result = its_sampler(data)
        kept = np.isin(mine.names, CLASSES)
        assert result["gt_names"].tolist() == mine.names[kept].tolist()
        np.testing.assert_allclose(result["gt_boxes"], mine.boxes[kept], atol=1e-3)
        # The pasted points come first; a point on the face of a box may fall on either side of it in float32.
        assert abs(len(result["points"]) - len(mine.points)) <= 4
        np.testing.assert_allclose(result["points"][:50], mine.points[:50], atol=1e-3)
        added += len(mine.boxes) - len(boxes)
        refused += sum(map(len, sampler.pools.values())) - (len(mine.boxes) - len(boxes))
    assert added > 10 and refused > 5


def test_the_scene_is_mirrored_turned_and_scaled_the_same_way(upstream: Any) -> None:
    utils = upstream.module("datasets.augmentor.augmentor_utils")
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 4)).astype(np.float32)
    boxes = rng.uniform(-3, 3, (9, 7)).astype(np.float32)
    scene = Scene(points, boxes, np.array(["Car"] * 9))
    cases = [
        (flip(scene, "x"), utils.random_flip_along_x(boxes.copy(), points.copy(), enable=True)),
        (flip(scene, "y"), utils.random_flip_along_y(boxes.copy(), points.copy(), enable=True)),
        (rotate(scene, 0.6), utils.global_rotation(boxes.copy(), points.copy(), [0.6, 0.6])),
    ]
    np.random.seed(3)
    factor = np.random.uniform(0.9, 1.1)
    np.random.seed(3)
    cases.append((scale(scene, factor), utils.global_scaling(boxes.copy(), points.copy(), [0.9, 1.1])))
    for mine, (its_boxes, its_points) in cases:
        np.testing.assert_allclose(mine.points, its_points, atol=1e-5)
        np.testing.assert_allclose(mine.boxes[:, :6], its_boxes[:, :6], atol=1e-5)
        turns = (mine.boxes[:, 6] - its_boxes[:, 6]) / (2 * np.pi)
        np.testing.assert_allclose(turns, turns.round(), atol=1e-5)


def test_detections_become_the_same_result_files(theirs: Any, root: Path) -> None:
    folder = KittiFolder.open(root)
    rng = np.random.default_rng(1)
    for frame in FRAMES[:3]:
        boxes = np.column_stack(
            [
                rng.uniform((6, -25, -2), (68, 25, 0), (30, 3)),
                rng.uniform(0.5, 4.5, (30, 3)),
                rng.uniform(-7, 7, 30),
            ]
        ).astype(np.float32)
        scores, labels = rng.random(30).astype(np.float32), rng.integers(1, 4, 30)
        shape = folder.image_shape(frame)
        batch = {
            "frame_id": [frame],
            "calib": [theirs.get_calib(frame)],
            "image_shape": torch.tensor([shape]),
        }
        found = {
            "pred_boxes": torch.from_numpy(boxes),
            "pred_scores": torch.from_numpy(scores),
            "pred_labels": torch.from_numpy(labels),
        }
        (its,) = theirs.generate_prediction_dicts(batch, [found], CLASSES)
        mine = to_objects(boxes, scores, [CLASSES[i - 1] for i in labels], folder.calibration(frame), shape)
        assert list(mine.names) == its["name"].tolist()
        np.testing.assert_allclose(mine.locations, its["location"], atol=1e-4)
        np.testing.assert_allclose(mine.dimensions, its["dimensions"][:, [1, 2, 0]], atol=1e-6)
        np.testing.assert_allclose(mine.boxes_2d, its["bbox"], atol=1e-2)
        np.testing.assert_allclose(mine.scores, its["score"], atol=1e-7)
        for ours, other in ((mine.rotations, its["rotation_y"]), (mine.alpha, its["alpha"])):
            turns = (ours - other) / (2 * np.pi)
            np.testing.assert_allclose(turns, turns.round(), atol=1e-5)


def test_nothing_was_written_into_the_samples(samples: Path) -> None:
    training = samples / "kitti" / "training"
    assert {path.name for path in training.iterdir()} == {*PARTS, "image_2"}

"""The generated world as a folder in KITTI's layout, cached on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from slr_det.data.generated import frames_to_make, generated_folder
from slr_det.data.kitti.labels import write_objects
from slr_det.data.kitti_world.annotate import HIDDEN, MIN_POINTS, label
from slr_det.data.kitti_world.lidar import Scan, scan
from slr_det.data.kitti_world.rig import IMAGE_SHAPE, calibration_text, plane_text, render
from slr_det.data.kitti_world.scene import Scene, draw_scene

#: Raised whenever the same parameters would give other scans, pictures or labels.
GENERATOR_VERSION = 1
SPLITS = ("train", "val")
#: Folders of training/, with one file a frame.
KINDS = ("velodyne", "label_2", "calib", "image_2", "planes")
DEFAULT_FRAMES = (200, 60)

_README = """kitti-world: generated street scenes in KITTI's layout, by slr_det (version {version}, seed {seed}).

ImageSets/SPLIT.txt           frames of the split: {train} to train on, {val} to validate on
training/velodyne/*.bin       float32 x, y, z (metres; forward, left, up) and intensity, of a 64-beam scanner
training/label_2/*.txt        KITTI labels of Car, Pedestrian and Cyclist; DontCare where no ray came back
training/calib/*.txt          the same calibration for every frame
training/image_2/*.png        {width} x {height} pixels, a flat-shaded view
training/planes/*.txt         the ground: a, b, c, d of its plane in the rectified camera frame

Occlusion is the share of the rays towards an object that meet something else first: 0 up to {partly:.0%}, 1 up to
{largely:.0%}, 2 above; 3 for objects with fewer than {points} points. Truncation is the part of the projected box that
lies outside the picture.

Generated data, dedicated to the public domain (CC0-1.0).
"""


def world_dataset(
    root: str | Path | None = None,
    *,
    frames: tuple[int, int] = DEFAULT_FRAMES,
    seed: int = 0,
    progress: bool | None = None,
) -> Path:
    """Generate the set, or find it in the cache.

    The same arguments give the same bytes (for one version of Pillow and numpy). Frame i of a split depends on the
    seed, the split and i alone. The folder appears only once it is complete; two processes may build the same set at
    once.

    Args:
        root: Folder that holds the sets, default :func:`~slr_det.data.generated.cache_dir`.
        frames: Number of training and of validation frames; the latter are numbered on from the former.
        seed: Seed of the set.
        progress: Show a progress bar; None shows it on a terminal only.

    Returns:
        The folder, which holds ``training/{velodyne,label_2,calib,image_2,planes}`` and ``ImageSets/{train,val}.txt``.

    Raises:
        ConfigError: a count below 1 or a negative seed.
        StorageError: the folder cannot be written.
    """
    frames_to_make("a KITTI world", frames, SPLITS, seed)
    return generated_folder(
        root,
        f"kitti-world-v{GENERATOR_VERSION}",
        {"version": GENERATOR_VERSION, "frames": list(frames), "seed": seed},
        lambda folder, bar: _write(folder, frames, seed, bar),
        last_file=f"ImageSets/{SPLITS[-1]}.txt",
        what="a KITTI world",
        total=sum(frames),
        progress=progress,
    )


def draw_frame(seed: int, split: int, index: int) -> tuple[Scene, Scan]:
    """Return a frame's scene and scan: a function of the seed, of the split (0 train, 1 val) and the index in it."""
    rng = np.random.default_rng([seed, split, index])
    scene = draw_scene(rng)
    return scene, scan(scene, rng)


def _write(root: Path, frames: tuple[int, int], seed: int, bar: tqdm[None]) -> None:
    velodyne, labels, calib, images, planes = (root / "training" / kind for kind in KINDS)
    for folder in (velodyne, labels, calib, images, planes, root / "ImageSets"):
        folder.mkdir(parents=True)
    number = 0
    for split, (name, count) in enumerate(zip(SPLITS, frames, strict=True)):
        (root / "ImageSets" / f"{name}.txt").write_text(
            "".join(f"{number + index:06d}\n" for index in range(count)), encoding="ascii"
        )
        for index in range(count):
            scene, found = draw_frame(seed, split, index)
            frame = f"{number:06d}"
            found.points.astype("<f4").tofile(velodyne / f"{frame}.bin")
            write_objects(labels / f"{frame}.txt", label(scene, found))
            (calib / f"{frame}.txt").write_text(calibration_text(), encoding="ascii")
            (planes / f"{frame}.txt").write_text(plane_text(scene.ground), encoding="ascii")
            render(scene).save(images / f"{frame}.png", compress_level=1)
            number += 1
            bar.update()
    text = _README.format(
        version=GENERATOR_VERSION,
        seed=seed,
        train=frames[0],
        val=frames[1],
        height=IMAGE_SHAPE[0],
        width=IMAGE_SHAPE[1],
        partly=HIDDEN[0],
        largely=HIDDEN[1],
        points=MIN_POINTS,
    )
    (root / "README.txt").write_text(text, encoding="utf-8")

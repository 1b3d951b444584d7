"""The generated road as a folder in TuSimple's layout, cached on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from slr_det.data.generated import frames_to_make, generated_folder
from slr_det.data.lane_world.draw import draw_scene
from slr_det.data.lane_world.render import render
from slr_det.data.lane_world.road import FAR, H_SAMPLES, IMAGE_SHAPE, MIN_POINTS, label
from slr_det.data.tusimple.labels import LaneRow, write_rows

#: Raised whenever the same parameters would give other pictures or labels.
GENERATOR_VERSION = 1
SPLITS = ("train", "val")
DEFAULT_FRAMES = (400, 100)

_QUALITY = 85

_README = """lane-world: a generated road in TuSimple's layout, by slr_det (version {version}, seed {seed}).

clips/SPLIT/*/20.jpg      {width} x {height} pixels
label_data_SPLIT.json     one JSON object a line: raw_file, h_samples ({first} to {last}) and lanes, x at each of these
                          or -2; {train} frames to train on, {val} to validate on

At most two lines to the left and two to the right of the camera are labelled, and the one that it is crossing; each
with {points} points or more. A lane goes on under the cars that hide it and between its dashes, up to {far:g} m ahead.

Generated data, dedicated to the public domain (CC0-1.0).
"""


def road_dataset(
    root: str | Path | None = None,
    *,
    frames: tuple[int, int] = DEFAULT_FRAMES,
    seed: int = 0,
    progress: bool | None = None,
) -> Path:
    """Generate the set, or find it in the cache.

    The same arguments give the same bytes (for one version of Pillow and numpy). Frame i of a split depends on the
    seed, the split and i alone, so a larger set begins with the frames of a smaller one. The folder appears only once
    it is complete; two processes may build the same set at once.

    Args:
        root: Folder that holds the sets, default :func:`~slr_det.data.generated.cache_dir`.
        frames: Number of training and of validation frames.
        seed: Seed of the set.
        progress: Show a progress bar; None shows it on a terminal only.

    Returns:
        The folder, which holds ``clips``, ``label_data_train.json`` and ``label_data_val.json``.

    Raises:
        ConfigError: a count below 1 or a negative seed.
        StorageError: the folder cannot be written.
    """
    frames_to_make("a road", frames, SPLITS, seed)
    return generated_folder(
        root,
        f"lane-world-v{GENERATOR_VERSION}",
        {"version": GENERATOR_VERSION, "frames": list(frames), "seed": seed},
        lambda folder, bar: _write(folder, frames, seed, bar),
        last_file=f"label_data_{SPLITS[-1]}.json",
        what="a road",
        total=sum(frames),
        progress=progress,
    )


def draw_frame(seed: int, split: int, index: int) -> tuple[Image.Image, npt.NDArray[np.int64]]:
    """Return a frame's picture and lanes (L, 56): a function of the seed, the split (0 train, 1 val) and the index."""
    rng = np.random.default_rng([seed, split, index])
    scene = draw_scene(rng)
    return render(scene, rng), label(scene.road)


def _write(root: Path, frames: tuple[int, int], seed: int, bar: tqdm[None]) -> None:
    for split, (name, count) in enumerate(zip(SPLITS, frames, strict=True)):
        rows = []
        for index in range(count):
            picture, lanes = draw_frame(seed, split, index)
            # 20.jpg is the labelled frame of TuSimple's clips of twenty; the others are not made.
            raw_file = f"clips/{name}/{index:04d}/20.jpg"
            (root / raw_file).parent.mkdir(parents=True)
            picture.save(root / raw_file, quality=_QUALITY)
            rows.append(LaneRow(raw_file, lanes, H_SAMPLES))
            bar.update()
        write_rows(root / f"label_data_{name}.json", rows)
    text = _README.format(
        version=GENERATOR_VERSION,
        seed=seed,
        train=frames[0],
        val=frames[1],
        height=IMAGE_SHAPE[0],
        width=IMAGE_SHAPE[1],
        first=H_SAMPLES[0],
        last=H_SAMPLES[-1],
        points=MIN_POINTS,
        far=FAR,
    )
    (root / "README.txt").write_text(text, encoding="utf-8")

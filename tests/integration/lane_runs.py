"""Small runs of the lane command line, shared by its tests: a tiny network on a few generated frames."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slr_det.data.lane_world import road_dataset
from slr_det.lane import main

#: 150,000 weights, most of them in `cls`, as in the large ones.
NETWORK = """\
backbone: 18
griding: 25
row_anchors: [64, 72, 80, 88, 96, 104, 112, 120, 128, 136, 144, 152, 160, 168, 176, 184, 192, 200, 208, 216, 224, 232,
  240, 248, 256, 264, 272, 280]
size: [64, 160]
width: 0.125
hidden: 32
pool: 4
"""

#: How the tiny network learns its few frames by heart, in a few seconds.
PLAIN: dict[str, Any] = {"batch": 2, "lr": 0.005, "optimizer": "adamw", "cache": True, "threads": 1}
PLAIN |= {"rotation": 0, "up_down": 0, "left_right": 0}
#: Every variation of the frames, and everything whose state a resume has to carry.
FULL: dict[str, Any] = {
    "batch": 2,
    "lr": 0.003,
    "ema": 0.9,
    "accumulate": 2,
    "warmup_epochs": 0.5,
    "threads": 1,
}
DENSE_EPOCHS = 40


def words(arguments: dict[str, Any]) -> list[str]:
    """Arguments as they are written on a command line."""
    return [f"{key}={value}" for key, value in arguments.items()]


def make_road(folder: Path) -> Path:
    """Eight generated frames, evaluated on six of them: what is learnt by heart has a score."""
    made = road_dataset(folder, frames=(8, 1), progress=False)
    for name, count in (("train", 8), ("val", 6)):
        listed = [f"clips/train/{frame:04d}/20.jpg\n" for frame in range(count)]
        (made / f"{name}.txt").write_text("".join(listed))
    return made


def copied(road: Path, folder: Path) -> Path:
    """A data set of its own, whose files a test may damage."""
    shutil.copytree(road, folder)
    return folder


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The error lines printed since the last look; there must be no traceback."""
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return [line for line in errors.splitlines() if line.startswith("error:")]


def run(project: Path, *arguments: str) -> Path:
    """Start a run called ``run`` that has to succeed, and return its folder."""
    assert main([*arguments, f"project={project}", "name=run"]) == 0
    return project / "run"


def weights(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers in a checkpoint, opened as anybody would."""
    found: dict[str, Tensor] = torch.load(path)["model"]
    return found


def assert_same(one: Path, other: Path) -> None:
    """Two checkpoints hold the same bits."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    different = [key for key, value in first.items() if not torch.equal(value, second[key])]
    assert not different, f"{one.name}: {different[:3]}"

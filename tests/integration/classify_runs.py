"""Small runs of the classifier command line, shared by its tests: digits, a small network, a second or two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from slr_det.classify import main

SMALL = ["model=digits_cnn", "data=digits", "train_images=600", "val_images=100", "device=cpu"]
SMALL += ["batch=50", "lr=0.05", "pad=1", "flip=false", "recalibration_images=100"]


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
    found: dict[str, Tensor] = torch.load(path)["state_dict"]
    return found


def assert_same(one: Path, other: Path, names: list[str]) -> None:
    """Checkpoints of two runs hold the same bits."""
    for name in names:
        first, second = weights(one / name), weights(other / name)
        assert first.keys() == second.keys()
        different = [key for key, value in first.items() if not torch.equal(value, second[key])]
        assert not different, f"{name}: {different[:3]}"


def make_photographs(folder: Path, train: int = 40, val: int = 16) -> Path:
    """Photographs of two classes, of many sizes, half of them grey or with a palette."""
    draw = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            height, width = draw.integers(40, 90, 2)
            pixels = draw.integers(0, 60, (height, width, 3), dtype=np.uint8)
            stripes = slice(None, None, 2)
            if number % 2:
                pixels[stripes] += 150  # stripes that lie
            else:
                pixels[:, stripes] += 150  # stripes that stand
            picture = Image.fromarray(pixels).convert(("RGB", "L", "P", "RGB")[number // 2 % 4])
            where = folder / split / ("standing", "lying")[number % 2] / f"{number:03}.png"
            where.parent.mkdir(parents=True, exist_ok=True)
            picture.save(where)
    return folder

"""How training varies a frame of a road: picture and lanes are turned and shifted together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slr_det.data.tusimple.anchors import LABEL_SIZE
from slr_det.errors import ConfigError

_MOST = {"rotation": 180, "up_down": LABEL_SIZE[1] - 1, "left_right": LABEL_SIZE[0] - 1}


@dataclass(frozen=True)
class Augmentation:
    """Upstream's settings; 0 leaves a part out. Colours are not changed.

    Attributes:
        rotation: Most degrees a frame is turned about its centre, either way, in whole degrees.
        up_down: Most pixels, of the 720 of a label, that it is shifted up or down.
        left_right: Most pixels, of the 1280 of a label, that it is shifted to the left or right.

    Raises:
        ConfigError: one of them is below 0, or so large that nothing of a frame would be left.
    """

    rotation: int = 6
    up_down: int = 100
    left_right: int = 200

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from."""
        problems = [
            f"augmentation of lanes: {name}: {value}, expected 0 to {_MOST[name]}"
            for name, value in vars(self).items()
            if not 0 <= value <= _MOST[name]
        ]
        if problems:
            raise ConfigError(problems)


class Motion(NamedTuple):
    """What happens to one frame: it is turned, cut to its size, shifted down and to the right; what is bare is black.

    Attributes:
        angle: Degrees, anticlockwise.
        down: Pixels of a label's picture; negative is up.
        right: Pixels of a label's picture; negative is to the left.
    """

    angle: int
    down: int
    right: int


def draw_motion(augmentation: Augmentation, generator: np.random.Generator) -> Motion:
    """Draw a motion: an angle with both limits, and shifts without the upper limit, as upstream does."""
    turn, vertical, sideways = augmentation.rotation, augmentation.up_down, augmentation.left_right
    return Motion(
        int(generator.integers(-turn, turn + 1)),
        int(generator.integers(-vertical, max(vertical, 1))),
        int(generator.integers(-sideways, max(sideways, 1))),
    )


def move_marks(marks: NDArray[np.uint8], motion: Motion) -> NDArray[np.uint8]:
    """Move a picture of marks, (height, width) in a label's pixels; numbers are not mixed."""
    height, width = marks.shape
    if motion.angle:
        picture = Image.fromarray(marks).rotate(motion.angle, resample=Image.Resampling.NEAREST)
        marks = np.asarray(picture, dtype=np.uint8)
    moved = np.zeros_like(marks)
    down, right = motion.down, motion.right
    moved[max(down, 0) : height + down, max(right, 0) : width + right] = marks[
        max(-down, 0) : height - down, max(-right, 0) : width - right
    ]
    return moved


def move_image(image: Image.Image, motion: Motion, label_size: tuple[int, int] = LABEL_SIZE) -> Image.Image:
    """Move a picture by one bilinear interpolation; of any size, as one of ``label_size`` would be moved.

    Upstream turns the full picture and makes it small afterwards, which differs by a little blur at a third of the
    speed.
    """
    width, height = image.size
    scale_x, scale_y = width / label_size[0], height / label_size[1]
    right, down = motion.right * scale_x, motion.down * scale_y
    if motion.angle:
        cosine, sine = math.cos(math.radians(motion.angle)), math.sin(math.radians(motion.angle))
        # Pillow asks where a pixel of the result comes from: the turn back in the label's square pixels.
        xy, yx = -sine * scale_x / scale_y, sine * scale_y / scale_x
        x, y = width / 2 + right, height / 2 + down
        offsets = (width / 2 - cosine * x - xy * y, height / 2 - yx * x - cosine * y)
        matrix = (cosine, xy, offsets[0], yx, cosine, offsets[1])
    else:
        matrix = (1.0, 0.0, -right, 0.0, 1.0, -down)
    moved = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    # A turned picture has corners beyond its frame, which must not come into view.
    columns, rows = round(right), round(down)
    if columns:
        moved.paste(0, (0, 0, columns, height) if columns > 0 else (width + columns, 0, width, height))
    if rows:
        moved.paste(0, (0, 0, width, rows) if rows > 0 else (0, height + rows, width, height))
    return moved

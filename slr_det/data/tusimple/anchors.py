"""Lanes as Ultra-Fast-Lane-Detection classifies them: in which cell of each row anchor does each of four lanes lie?

Qin, Wang and Li, "Ultra Fast Structure-aware Deep Lane Detection", ECCV 2020. A picture has 56 row anchors and four
slots for lanes: the second to the left, the next to the left, the next to the right, the second to the right. For each
anchor and slot the target is one of ``griding`` cells across the picture, or ``griding`` for "no lane here". Where the
upstream project's conversion, data set and evaluation define something, this is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from slr_det.data.tusimple.labels import NO_POINT, Numbers
from slr_det.data.tusimple.marks import draw_marks
from slr_det.errors import DataError

#: Width and height in pixels of the pictures that TuSimple's labels are for.
LABEL_SIZE = (1280, 720)
#: Height of the picture that row anchors are given for, whatever size a network takes.
ANCHOR_HEIGHT = 288
#: The 56 row anchors of TuSimple: the heights 160, 170, .., 710 of its labels.
ROW_ANCHORS = tuple(range(64, ANCHOR_HEIGHT, 4))
#: Cells across a picture.
GRIDING = 100
#: Lanes that have a place in a target.
SLOTS = 4

# Lanes whose ends are closer than this many pixels have no slot.
_SHORTEST = 90
# Lanes with a point at fewer anchors are not extended.
_FEWEST = 6


def lane_slots(lanes: Numbers, h_samples: NDArray[np.int64]) -> tuple[int | None, ...]:
    """Say which lane goes to which slot: by the direction of the straight line y = k x + c through its points.

    Of the lanes that lean to the left of the picture's bottom (k < 0), the steepest is the next to the left, and the
    second steepest the one beyond it; likewise on the right. Flatter ones, lanes without 90 pixels from end to end and
    level ones have no slot.

    Args:
        lanes: (L, H) x, below 0 where there is no point.
        h_samples: (H,) y.

    Returns:
        Four indices of lanes, from left to right, None for a slot without one.
    """
    slopes = [_slope(lane[lane >= 0], h_samples[lane >= 0]) for lane in lanes]
    # Flattest first, as arctan would order them too. Of equal slopes the first lane stands for all, in every slot.
    left = sorted((k for k in slopes if k < 0), reverse=True)
    right = sorted(k for k in slopes if k > 0)
    chosen = [*([None, None, *left][-2:]), *([None, None, *right][-2:][::-1])]
    return tuple(None if k is None else slopes.index(k) for k in chosen)


def to_targets(
    lanes: Numbers,
    h_samples: NDArray[np.int64],
    image_size: tuple[int, int] = LABEL_SIZE,
    row_anchors: Sequence[int] = ROW_ANCHORS,
    griding: int = GRIDING,
) -> NDArray[np.int64]:
    """Return the targets of labelled lanes.

    Args:
        lanes: (L, H) x in pixels, below 0 where there is no point; L may be 0.
        h_samples: (H,) y in pixels.
        image_size: Width and height of the picture whose pixels these are.
        row_anchors: Heights in a picture 288 pixels high, ascending.
        griding: Number of cells across the picture.

    Returns:
        (rows, 4) int64 from 0 to ``griding``, the last of which means "no lane here".

    Raises:
        DataError: lanes are not as long as ``h_samples``.
    """
    return marks_to_targets(slot_marks(lanes, h_samples, image_size), row_anchors, griding)


def slot_marks(
    lanes: Numbers, h_samples: NDArray[np.int64], image_size: tuple[int, int] = LABEL_SIZE
) -> NDArray[np.uint8]:
    """Return the picture, (height, width) uint8, whose pixels are 1 to 4 on the lane of that slot, else 0.

    Raises:
        DataError: lanes are not as long as ``h_samples``.
    """
    if len(lanes) and lanes.shape[1:] != h_samples.shape:
        raise DataError(
            f"lanes of shape {lanes.shape} for {len(h_samples)} h_samples, expected one x for each"
        )
    marked = []
    for slot, index in enumerate(lane_slots(lanes, h_samples), start=1):
        if index is not None:
            valid = lanes[index] >= 0
            marked.append((slot, np.stack((lanes[index][valid], h_samples[valid]), axis=1)))
    return draw_marks(marked, image_size)


def marks_to_targets(
    marks: NDArray[np.uint8], row_anchors: Sequence[int] = ROW_ANCHORS, griding: int = GRIDING
) -> NDArray[np.int64]:
    """Return the targets of a picture of marks, each lane extended downwards to the border of the picture.

    A lane's x at an anchor is the mean of its marked pixels there. A lane that ends above the last anchor, and has a
    point at six anchors or more, goes on along the straight line through the lower half of its points.

    Args:
        marks: (height, width) uint8, 1 to 4 on the lanes.
        row_anchors: As for :func:`to_targets`.
        griding: As for :func:`to_targets`.

    Returns:
        (rows, 4) int64, as :func:`to_targets`.
    """
    height, width = marks.shape
    # Upstream's order of operations: three of the 56 rows come out one pixel higher than 5/2 of the anchor.
    rows = np.array([int(anchor / ANCHOR_HEIGHT * height) for anchor in row_anchors])
    lines = marks[rows]
    positions = np.full((len(rows), SLOTS), -1.0)
    columns = np.arange(width, dtype=np.float64)
    for slot in range(SLOTS):
        hit = lines == slot + 1
        count = hit.sum(axis=1)
        seen = count > 0
        positions[seen, slot] = (hit[seen] @ columns) / count[seen]
        _extend(positions[:, slot], rows, width)
    cell = (width - 1) / (griding - 1)
    return np.where(positions >= 0, positions // cell, griding).astype(np.int64)


def to_lanes(
    logits: Tensor,
    h_samples: ArrayLike | None = None,
    row_anchors: Sequence[int] = ROW_ANCHORS,
    image_size: tuple[int, int] = LABEL_SIZE,
) -> NDArray[np.int64]:
    """Return the lanes that a network's outputs say: the expected cell over the softmax of the cells.

    There is no lane at an anchor where "no lane here" has the largest logit of all.

    Args:
        logits: (..., griding + 1, rows, slots), on any device.
        h_samples: (H,) heights in pixels to give the lanes at, by straight lines between anchors (-2 where one of the
            two has no point, and outside of them); None: at the anchors.
        row_anchors: Heights of the rows in a picture 288 pixels high, ascending.
        image_size: Width and height in pixels of the picture to give the lanes in.

    Returns:
        (..., slots, H) int64, x in pixels, -2 for "no point".

    Raises:
        DataError: the outputs do not have as many rows as there are anchors.
    """
    griding, rows = logits.shape[-3] - 1, logits.shape[-2]
    if rows != len(row_anchors):
        raise DataError(f"outputs with {rows} rows, expected {len(row_anchors)} as there are row anchors")
    values = logits.detach().double()
    cells = torch.arange(griding, dtype=torch.float64, device=logits.device)
    expected = torch.einsum("...grs,g->...sr", values[..., :-1, :, :].softmax(dim=-3), cells)
    absent = (values.argmax(dim=-3) == griding).transpose(-1, -2).cpu().numpy()
    x = (expected.cpu().numpy() + 0.5) * (image_size[0] / (griding - 1))
    x = np.where(absent, np.nan, x)
    if h_samples is not None:
        heights = np.asarray(row_anchors) * image_size[1] / ANCHOR_HEIGHT
        x = _between(x, heights, np.asarray(h_samples, dtype=np.float64))
    return np.where(np.isnan(x), NO_POINT, np.rint(x)).astype(np.int64)


def _slope(x: Numbers, y: NDArray[np.int64]) -> float:
    """dy/dx of the line through a lane's points; 0, which has no slot, for a lane that is too short."""
    if len(x) < 2 or np.hypot(float(x[0] - x[-1]), float(y[0] - y[-1])) < _SHORTEST:
        return 0.0
    if np.all(x == x[0]):
        # Without any line of the form y = k x + c, the k of least norm that numpy's fit, which upstream uses, gives.
        return float(y.mean() / (2 * x[0])) if x[0] != 0 else 0.0
    return float(np.polyfit(x, y, 1)[0])


def _extend(x: NDArray[np.float64], rows: NDArray[np.int64], width: int) -> None:
    """Continue a lane, x or -1 in every row, below its last point; in place."""
    valid = np.flatnonzero(x >= 0)
    if len(valid) < _FEWEST or valid[-1] == len(rows) - 1:
        return
    lower = valid[len(valid) // 2 :]
    below = slice(valid[-1] + 1, None)
    fitted = np.polyval(np.polyfit(rows[lower], x[lower], 1), rows[below])
    x[below] = np.where((fitted < 0) | (fitted > width - 1), -1.0, fitted)


def _between(
    x: NDArray[np.float64], heights: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate x (..., rows), NaN for no point, from ascending heights to wanted ones."""
    upper = np.clip(np.searchsorted(heights, wanted), 0, len(heights) - 1)
    lower = np.clip(upper - 1, 0, None)
    span = np.where(upper > lower, heights[upper] - heights[lower], 1.0)
    part = (wanted - heights[lower]) / span
    between = x[..., lower] + part * (x[..., upper] - x[..., lower])
    exact = np.where(wanted == heights[upper], x[..., upper], between)
    return np.where((wanted < heights[0]) | (wanted > heights[-1]), np.nan, exact)

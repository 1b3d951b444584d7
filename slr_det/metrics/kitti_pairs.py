"""How much do the KITTI boxes of a frame overlap? Intersection over union: in the picture, from above, in 3D."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from slr_det.metrics.kitti_rules import Stack
from slr_det.pointcloud.rotated import overlap_bev_pairs

#: Pairs that are looked at together: bounds the memory at a few hundred MB, however many detections a frame has.
CHUNK = 1_000_000

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Objects and detections of the same frame that overlap, P pairs, by object and then by detection.

    Attributes:
        truth: (P,) index of the object.
        found: (P,) index of the detection.
        overlap: (P,) intersection over union, above 0.
    """

    truth: Indices
    found: Indices
    overlap: Floats

    def take(self, which: NDArray[np.bool_]) -> Pairs:
        """Return the pairs that a mask (P,) selects."""
        return Pairs(self.truth[which], self.found[which], self.overlap[which])


def overlapping(truths: Stack, found: Stack, wanted: NDArray[np.bool_], kind: str) -> Pairs:
    """Return the pairs of a wanted object and a detection of the same frame that overlap at all.

    Args:
        truths: The objects, N.
        found: The detections.
        wanted: (N,) which objects are looked at.
        kind: "bbox" (in the picture), "bev" (from above) or "3d".
    """
    measure = {"bbox": _iou_2d, "bev": _iou_bev, "3d": _iou_3d}[kind]
    parts = []
    for truth, detection in _same_frame(np.flatnonzero(wanted), truths, found):
        values = measure(truths, found, truth, detection)
        parts.append(Pairs(truth, detection, values).take(values > 0))
    none = np.zeros(0, np.int64)
    return Pairs(
        np.concatenate([none, *(part.truth for part in parts)]),
        np.concatenate([none, *(part.found for part in parts)]),
        np.concatenate([np.zeros(0), *(part.overlap for part in parts)]),
    )


def unlabelled_share(truths: Stack, found: Stack) -> Floats:
    """Return for each detection the largest part of its box in the picture that one DontCare region covers, 0 to 1."""
    share = np.zeros(len(found.frames))
    for truth, detection in _same_frame(np.flatnonzero(truths.dont_care), truths, found):
        shared, _, area = _areas_2d(truths, found, truth, detection)
        np.maximum.at(share, detection, _ratio(shared, area))
    return share


def _same_frame(chosen: Indices, truths: Stack, found: Stack) -> Iterator[tuple[Indices, Indices]]:
    """Every pair of a chosen object and a detection of its frame, by object, in chunks."""
    counts = np.bincount(found.frames, minlength=found.count)
    starts = np.cumsum(counts) - counts
    chosen = chosen[counts[truths.frames[chosen]] > 0]
    per_truth = counts[truths.frames[chosen]]
    bounds = np.searchsorted(
        np.cumsum(per_truth), np.arange(CHUNK, per_truth.sum() + CHUNK, CHUNK), side="right"
    )
    for part in np.split(np.arange(len(chosen)), np.unique(bounds)):
        sizes = per_truth[part]
        offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        yield np.repeat(chosen[part], sizes), np.repeat(starts[truths.frames[chosen[part]]], sizes) + offsets


def _iou_2d(truths: Stack, found: Stack, truth: Indices, detection: Indices) -> Floats:
    shared, area_truth, area_found = _areas_2d(truths, found, truth, detection)
    return _ratio(shared, area_truth + area_found - shared)


def _areas_2d(
    truths: Stack, found: Stack, truth: Indices, detection: Indices
) -> tuple[Floats, Floats, Floats]:
    a, b = truths.boxes_2d[truth], found.boxes_2d[detection]
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0.0)
    return shared, (a[:, 2:] - a[:, :2]).prod(axis=1), (b[:, 2:] - b[:, :2]).prod(axis=1)


def _iou_bev(truths: Stack, found: Stack, truth: Indices, detection: Indices) -> Floats:
    a, b = truths.boxes_3d[truth], found.boxes_3d[detection]
    shared = _shared_bev(a, b)
    return _ratio(shared, a[:, 3] * a[:, 5] + b[:, 3] * b[:, 5] - shared)


def _iou_3d(truths: Stack, found: Stack, truth: Indices, detection: Indices) -> Floats:
    a, b = truths.boxes_3d[truth], found.boxes_3d[detection]
    # y points down and is the bottom's: a box spans y - height to y.
    high = np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 1] - a[:, 4], b[:, 1] - b[:, 4])
    shared = np.zeros(len(a))
    meet = np.flatnonzero(high > 0)
    shared[meet] = _shared_bev(a[meet], b[meet]) * high[meet]
    return _ratio(shared, a[:, 3:6].prod(axis=1) + b[:, 3:6].prod(axis=1) - shared)


def _shared_bev(a: Floats, b: Floats) -> Floats:
    """Area that the ground rectangles of paired camera boxes (K, 7) share, square metres."""
    # Boxes farther apart than the half diagonals together cannot meet: all but a few pairs of a frame.
    reach = (np.hypot(a[:, 3], a[:, 5]) + np.hypot(b[:, 3], b[:, 5])) / 2
    near = np.flatnonzero(np.hypot(a[:, 0] - b[:, 0], a[:, 2] - b[:, 2]) < reach)
    shared = np.zeros(len(a))
    if len(near):
        areas = overlap_bev_pairs(
            torch.from_numpy(_from_above(a[near])), torch.from_numpy(_from_above(b[near]))
        )
        shared[near] = areas.numpy()
    return shared


def _from_above(boxes: Floats) -> Floats:
    """Camera boxes as boxes of a frame with x right, y forward and z up.

    rotation_y turns about an axis that points down, from x (right) away from z (forward); seen from above with y for
    the camera's z this is a turn by minus rotation_y.
    """
    x, y, z, length, height, width, rotation = boxes.T
    return np.stack([x, z, height / 2 - y, length, width, height, -rotation], axis=1)


def _ratio(part: Floats, whole: Floats) -> Floats:
    """The quotient, 0 where nothing is shared (also by boxes without area)."""
    return np.divide(part, whole, out=np.zeros_like(part), where=(part > 0) & (whole > 0))

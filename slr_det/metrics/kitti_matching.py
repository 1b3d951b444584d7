"""Which detection finds which object, at every score threshold? KITTI's greedy assignment, all frames at once."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from slr_det.metrics.kitti_pairs import Pairs
from slr_det.metrics.kitti_rules import COUNTS, Stack

#: Recall levels at which precision is sampled: 0, 1/40, ..., 1.
SAMPLES = 41

#: The development kit's score of "no detection": nothing at or below it can be matched.
_NO_DETECTION = -1e7

Floats = NDArray[np.float64]
Roles = NDArray[np.int8]


def precision_curves(
    truths: Stack,
    found: Stack,
    pairs: Pairs,
    truth_roles: Roles,
    found_roles: Roles,
    excused: NDArray[np.bool_],
) -> tuple[Floats, Floats]:
    """Return precision and orientation similarity at the 41 recall levels, each made monotone, (41,) in [0, 1].

    First every object takes the best-scored detection that overlaps it enough: the scores of these true positives give
    the thresholds at which recall passes 0, 1/40, ... At each threshold the detections below it are dropped and every
    object takes the one that overlaps it most. Levels that are not reached have precision 0.

    Args:
        truths: The objects, N.
        found: The detections, M.
        pairs: The pairs that overlap more than the minimum.
        truth_roles: (N,) see ``kitti_rules``.
        found_roles: (M,).
        excused: (M,) detections in a DontCare region, which are not false when nothing matches them.
    """
    playing = (truth_roles[pairs.truth] >= COUNTS) & (found_roles[pairs.found] >= COUNTS)
    pairs = pairs.take(playing)
    true = (truth_roles[pairs.truth] == COUNTS) & (found_roles[pairs.found] == COUNTS)
    frames = truths.frames[pairs.truth]
    scores = found.scores[pairs.found]

    by_score = np.lexsort((pairs.found, -scores, pairs.truth))
    lowest = np.array([np.nextafter(_NO_DETECTION, 0)])
    chosen, _ = assign(pairs, frames, by_score, scores, lowest)
    hits = chosen[true[chosen]]
    thresholds = sample_thresholds(scores[hits], int((truth_roles == COUNTS).sum()))
    precision, similarity = np.zeros(SAMPLES), np.zeros(SAMPLES)
    count = len(thresholds)
    if count == 0:
        return precision, similarity

    ignored = found_roles[pairs.found] != COUNTS
    # Among ignored detections the first one is taken, whatever its overlap, and only where no other overlaps.
    by_overlap = np.lexsort((pairs.found, np.where(ignored, 0.0, -pairs.overlap), ignored, pairs.truth))
    chosen, at = assign(pairs, frames, by_overlap, scores, thresholds)
    candidate = (found_roles == COUNTS) & ~excused
    ascending = np.sort(found.scores[candidate])
    above = len(ascending) - np.searchsorted(ascending, thresholds, side="left")
    false = above - np.bincount(at[candidate[pairs.found[chosen]]], minlength=count)
    correct = true[chosen]
    hit = np.bincount(at[correct], minlength=count)
    turn = truths.alpha[pairs.truth[chosen[correct]]] - found.alpha[pairs.found[chosen[correct]]]
    alike = np.bincount(at[correct], weights=(1 + np.cos(turn)) / 2, minlength=count)
    # Where every detection above the threshold went to an ignored object there is nothing to be precise about.
    positives = np.maximum(hit + false, 1)
    precision[:count] = np.maximum.accumulate((hit / positives)[::-1])[::-1]
    similarity[:count] = np.maximum.accumulate((alike / positives)[::-1])[::-1]
    return precision, similarity


def assign(
    pairs: Pairs, frames: NDArray[np.int64], order: NDArray[np.int64], scores: Floats, thresholds: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give every object, in the order of the file, the first detection in its order that is left.

    The objects of a frame depend on each other, those of different frames and thresholds do not: the n-th objects of
    all frames choose at once, for every threshold.

    Args:
        pairs: The P pairs that may be matched.
        frames: (P,) frame of each pair.
        order: (P,) indices of the pairs, by object and then as the object prefers them.
        scores: (P,) score of each pair's detection.
        thresholds: (T,) the lowest score that takes part.

    Returns:
        The pairs that were matched, and the index of the threshold for each.
    """
    truth = pairs.truth[order]
    first = np.flatnonzero(np.diff(truth, prepend=-1))
    frame = frames[order[first]]
    turn = np.arange(len(first)) - np.searchsorted(frame, frame, side="left")
    # By turn, keeping the objects' order and each object's preference: a turn is one slice.
    by_turn = np.argsort(turn, kind="stable")
    sizes = np.diff(first, append=len(order))[by_turn]
    ends = np.cumsum(sizes)
    order = order[np.repeat(first[by_turn] - (ends - sizes), sizes) + np.arange(len(order))]

    members, detection = np.unique(pairs.found[order], return_inverse=True)
    score = np.empty(len(members))
    score[detection] = scores[order]
    free = score[:, None] >= thresholds
    matched, at = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    bounds = np.concatenate([[0], np.cumsum(np.bincount(turn))]).astype(np.int64)
    for low, high in itertools.pairwise(bounds):
        begin, end = ends[low] - sizes[low], ends[high - 1]
        places = np.arange(begin, end)
        open_places = np.where(free[detection[begin:end]], places[:, None], end)
        choice = np.minimum.reduceat(open_places, (ends - sizes)[low:high] - begin, axis=0)
        object_index, threshold = np.nonzero(choice < end)
        place = choice[object_index, threshold]
        free[detection[place], threshold] = False
        matched.append(order[place])
        at.append(threshold)
    return np.concatenate(matched), np.concatenate(at)


def sample_thresholds(scores: Floats, objects: int) -> Floats:
    """Return the scores, descending, at which recall comes closest to 0, 1/40, 2/40, ...

    Args:
        scores: Scores of the true positives.
        objects: Number of objects that count.
    """
    descending = np.sort(scores)[::-1].tolist()
    thresholds = []
    level = 0.0
    for index, score in enumerate(descending):
        recall = (index + 1) / objects
        last = index == len(descending) - 1
        following = recall if last else (index + 2) / objects
        if following - level < level - recall and not last:
            continue
        thresholds.append(score)
        level += 1 / (SAMPLES - 1)
    return np.array(thresholds)

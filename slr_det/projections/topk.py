"""Which l entries are the largest: exact, ties to the lower index, over several tensors without joining them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from slr_det.projections.scan import INTEGERS, Keys, Scan, largest_key, scan

SAMPLE = 1 << 16
DEVIATIONS = 5.0  # half-width of the bracket, in standard deviations of a sampled rank
RADIX_BITS = 11


def largest(scores: Sequence[Tensor], keep: int) -> list[Tensor]:
    """Bool masks of the ``keep`` entries of largest magnitude over all tensors together.

    The threshold is bracketed by a fixed (strided) sample, so that one pass finds the few entries between the
    bounds, among which it is exact; where the sample misled, a radix search over all bits finds it. Memory beyond
    the masks: the few candidates, and one copy of a tensor that is not contiguous or not of the common dtype.

    Args:
        scores: Float tensors of any shape, layout and device; not empty.
        keep: How many entries to mark, from 1 to the total number of entries.

    Returns:
        One bool tensor per input, contiguous; exactly ``keep`` entries are True in all. Equal magnitudes go to the
        lower index of the concatenation, each tensor read in row-major order whatever its layout.
    """
    total = sum(score.numel() for score in scores)
    if keep >= total:
        return [torch.ones(score.shape, dtype=torch.bool, device=score.device) for score in scores]
    dtype = _common_dtype(scores)
    threshold, above, at = _sampled(scores, dtype, keep, total) or _radix(scores, dtype, keep)
    ties = keep - above
    left = None if ties == at else ties
    masks = []
    for score in scores:
        mask, used = _scan(score, dtype).mark(threshold, left)
        left = None if left is None else left - used
        masks.append(mask.view(score.shape))
    return masks


def _common_dtype(scores: Sequence[Tensor]) -> torch.dtype:
    dtype = scores[0].dtype
    for score in scores[1:]:
        dtype = torch.promote_types(dtype, score.dtype)
    return dtype if dtype in INTEGERS else torch.float32


def _scan(score: Tensor, dtype: torch.dtype) -> Scan:
    return scan(score.to(dtype).reshape(-1))


def _sampled(
    scores: Sequence[Tensor], dtype: torch.dtype, keep: int, total: int
) -> tuple[int, int, int] | None:
    """The keep-th largest key, how many keys are above it and how many equal it; None where the sample misled."""
    low, high = _bracket(_sample(scores, dtype, total), keep / total, largest_key(dtype))
    above_low, found = 0, []
    for score in scores:
        count, keys = _scan(score, dtype).between(low, high)
        above_low += count
        found.append(keys)
    inside = np.concatenate(found)
    from_high = above_low - inside.size
    if from_high < keep <= above_low:
        return _among(inside, keep, from_high)
    # Where many entries tie (zeros of a tensor pruned before), the threshold is a bound of the bracket itself.
    if keep <= from_high:
        above = _above(scores, dtype, high)
        return (high, above, from_high - above) if above < keep else None
    from_low = _above(scores, dtype, low - 1)
    return (low, above_low, from_low - above_low) if keep <= from_low else None


def _above(scores: Sequence[Tensor], dtype: torch.dtype, key: int) -> int:
    return sum(_scan(score, dtype).above(key) for score in scores)


def _sample(scores: Sequence[Tensor], dtype: torch.dtype, total: int) -> Keys:
    """Every stride-th key of the concatenation, sorted; the same on every run and rank."""
    stride = max(1, total // SAMPLE)
    while (
        stride > 1 and math.gcd(stride, 2 * 3 * 5 * 7) > 1
    ):  # not in step with kernels, channels and filters
        stride += 1
    parts, offset = [], 0
    for score in scores:
        parts.append(_scan(score, dtype).sample(-offset % stride, stride))
        offset += score.numel()
    return np.sort(np.concatenate(parts))


def _bracket(sample: Keys, keep: float, largest: int) -> tuple[int, int]:
    """Two keys, low < high, with the threshold almost surely between them."""
    size = sample.size
    rank = keep * size  # of the threshold, from the top of the sample
    margin = DEVIATIONS * math.sqrt(size * keep * (1.0 - keep)) + 1.0
    up, down = math.floor(rank - margin), math.ceil(rank + margin)
    high = int(sample[size - 1 - up]) if up >= 0 else largest
    low = int(sample[size - 1 - down]) if down < size else -1
    return min(low, high - 1), high


def _among(keys: Keys, keep: int, above: int) -> tuple[int, int, int]:
    """The keep-th largest key, given that ``above`` keys are larger than all of these and it is one of these."""
    place = keys.size - (keep - above)
    threshold = np.partition(keys, place)[place]
    larger = int(np.count_nonzero(keys > threshold))
    return int(threshold), above + larger, int(np.count_nonzero(keys == threshold))


def _radix(scores: Sequence[Tensor], dtype: torch.dtype, keep: int) -> tuple[int, int, int]:
    """As :func:`_sampled`, for any input: the threshold's bits from the top, one histogram a pass."""
    prefix, above, at = 0, 0, 0
    shift = largest_key(dtype).bit_length()
    while shift > 0:
        bits = min(RADIX_BITS, shift)
        shift -= bits
        counts = np.zeros(1 << bits, np.int64)
        for score in scores:
            counts += _scan(score, dtype).histogram(prefix, shift, bits)
        from_top = np.cumsum(counts[::-1])
        steps = int(np.searchsorted(from_top, keep - above))
        digit = (1 << bits) - 1 - steps
        at = int(counts[digit])
        above += int(from_top[steps]) - at
        prefix = (prefix << bits) | digit
    return prefix, above, at

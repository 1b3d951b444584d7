"""The unstructured set: any entries, at most l of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from slr_det.projections.registry import Shape, budget, projection
from slr_det.projections.topk import largest


def _count(shapes: Sequence[Shape], keep: float) -> int:
    return budget(keep, sum(math.prod(shape) for shape in shapes))


@projection("unstructured", count=_count)
def unstructured(tensors: Sequence[Tensor], keep: float) -> list[Tensor]:
    """Project onto tensors with at most l nonzeros.

        argmin_Z ||W - Z||^2  subject to  nonzeros(Z) <= l = round(keep * entries), at least 1

    Solved by the l entries of largest magnitude over all tensors of the group together.
    """
    return largest(tensors, budget(keep, sum(tensor.numel() for tensor in tensors)))

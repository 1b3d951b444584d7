"""Whether several processes hold the same masks: compared once at the end of a phase, by their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from mmengine.dist import all_gather_object
from torch import Tensor

from slr_det.errors import NumericsError


def digest(masks: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of masks by name: of names, shapes and every bit."""
    found = hashlib.sha256()
    for name in sorted(masks):
        mask = masks[name].detach().cpu().bool().numpy()
        found.update(f"{name} {mask.shape} ".encode())
        found.update(np.packbits(mask).tobytes())
    return found.hexdigest()


def agreed_digest(masks: Mapping[str, Tensor]) -> str:
    """The digest that all processes have; all of them call this together.

    Raises:
        NumericsError: They differ.
    """
    found: list[str] = all_gather_object(digest(masks))
    for rank, other in enumerate(found):
        if other != found[0]:
            raise NumericsError(
                f"rank {rank} has other masks than rank 0 ({other[:12]} and {found[0][:12]}), so the ranks have "
                "trained different models; resume from the last checkpoint, and check that all machines have the same "
                "versions and kind of device"
            )
    return found[0]

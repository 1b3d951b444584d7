"""What upstream's data set remembers of the labels, kept in a folder of ours in place of the user's data."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np

from slr_det_adapters.hidden import Checkout

_MODULE = "utils.dataloaders"


@contextlib.contextmanager
def labels_cached_in(folder: Path, checkout: Checkout) -> Iterator[None]:
    """Let upstream's data set keep its caches in ``folder``, and scan labels without other processes.

    Its modules are importable in this process alone.
    """
    base = checkout.seam(_MODULE, "LoadImagesAndLabels")
    digest = checkout.seam(_MODULE, "get_hash")
    checkout.seam(_MODULE, "Pool")
    with checkout.replaced(_MODULE, LoadImagesAndLabels=_caching_in(folder, base, digest), Pool=ThreadPool):
        yield


def _caching_in(folder: Path, base: Any, digest: Any) -> Any:
    class LabelledImages(base):
        def cache_labels(self, path: Path = Path("labels.cache"), prefix: str = "") -> dict[str, Any]:
            mine = folder / f"labels-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}.cache"
            with contextlib.suppress(Exception):  # absent, damaged, or of other data: it is made again
                kept: dict[str, Any] = np.load(mine, allow_pickle=True).item()
                known = digest(self.label_files + self.im_files)
                if (kept["version"], kept["hash"]) == (self.cache_version, known):
                    return kept
            found: dict[str, Any] = super().cache_labels(mine, prefix)
            return found

    return LabelledImages

"""What OpenPCDet finds around it while it is imported and run: paths, packages, names of numpy, ``.cuda()``.

Each is put back at the end of its block.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from slr_det_adapters.openpcdet import substitutes

_ARGO2 = "pcdet.datasets.argo2.argo2_dataset"
_ROTATE_IOU = "pcdet.datasets.kitti.kitti_object_eval_python.rotate_iou"


@contextlib.contextmanager
def importing(root: Path) -> Iterator[None]:
    """Let the checkout's modules be found, and write no bytecode beside them."""
    before = sys.dont_write_bytecode
    # Its `tools` has modules with names like `test`: last, so that they hide nothing.
    places = [str(root), str(root / "tools")]
    sys.dont_write_bytecode = True
    sys.path.insert(0, places[0])
    sys.path.append(places[1])
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
        for place in places:
            with contextlib.suppress(ValueError):
                sys.path.remove(place)


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Stand-ins for missing packages, out of sight again afterwards: nobody else shall take them for the real ones."""
    if not (installed("av2") and installed("kornia")):
        sys.modules[_ARGO2] = substitutes.argo2()
    if not _numba_cuda():
        sys.modules[_ROTATE_IOU] = substitutes.rotate_iou()
    made = [
        module
        for package, make in substitutes.packages().items()
        if not installed(package)
        for module in make()
    ]
    sys.modules.update({module.__name__: module for module in made})
    try:
        yield
    finally:
        for module in made:
            del sys.modules[module.__name__]


def installed(package: str) -> bool:
    """Whether a package can be imported, or has been."""
    return package in sys.modules or importlib.util.find_spec(package) is not None


def _numba_cuda() -> bool:
    if not installed("numba"):
        return False
    try:
        return bool(importlib.import_module("numba.cuda").is_available())
    except Exception:  # a driver or toolkit that does not fit: whatever it says, it is not available
        return False


@contextlib.contextmanager
def aliases() -> Iterator[None]:
    """Names of Python's types that numpy has dropped and OpenPCDet still uses."""
    added = {
        name: kind for name, kind in (("int", int), ("float", float), ("bool", bool)) if name not in vars(np)
    }
    for name, kind in added.items():
        setattr(np, name, kind)
    try:
        yield
    finally:
        for name in added:
            delattr(np, name)


@contextlib.contextmanager
def cuda_is_cpu(compiled: Collection[str]) -> Iterator[None]:
    """Let ``.cuda()`` and ``torch.cuda.FloatTensor`` give CPU tensors, and our operations take them.

    Args:
        compiled: Names inside ``pcdet.ops`` of the extensions that the checkout has; those are for CUDA.
    """
    from slr_det_adapters.openpcdet import ops

    def stay(self: Any, *_: Any, **__: Any) -> Any:
        return self.cpu()

    swaps: list[tuple[Any, str, Any]] = [
        (torch.Tensor, "cuda", stay),
        (nn.Module, "cuda", stay),
        (torch.cuda, "FloatTensor", torch.FloatTensor),
        (torch.cuda, "IntTensor", torch.IntTensor),
    ]
    for name in set(compiled) & {"iou3d_nms.iou3d_nms_cuda", "roiaware_pool3d.roiaware_pool3d_cuda"}:
        package, _, extension = name.partition(".")
        users = sys.modules[f"pcdet.ops.{package}.{package}_utils"]
        swaps.append((users, extension, ops.replacement(name)))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in swaps]
    for owner, name, value in swaps:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)

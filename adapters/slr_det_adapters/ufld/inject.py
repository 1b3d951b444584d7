"""Ultra-Fast-Lane-Detection's modules from a checkout, with nothing in it edited and nothing written into it.

It is no package: its modules are called ``train``, ``model``, ``data``, ``utils`` and ``evaluation``. They are found,
and are in ``sys.modules``, inside :func:`use_checkout` only, see :mod:`slr_det_adapters.hidden`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slr_det.upstream.project import Upstream
from slr_det.upstream.seams import require
from slr_det_adapters import checkouts
from slr_det_adapters.hidden import Checkout, Project, installed
from slr_det_adapters.substitutes import module, unavailable
from slr_det_adapters.ufld.seams import FILES, SEAMS

VARIABLE = "SLR_DET_UFLD"
DEFAULT = "third_party/Ultra-Fast-Lane-Detection"
#: The commit that the names below were read in.
WRITTEN_FOR = "353df10"
#: Top-level names of its modules.
NAMES = ("train", "model", "data", "utils", "evaluation")
_PARTS = ("train.py", "model/model.py", "data/dataloader.py", "utils/factory.py")
_TENSORBOARD = "torch.utils.tensorboard"


def checkout_path(named: str = "") -> Path:
    """The checkout that is named, or $SLR_DET_UFLD, or that in third_party of the current folder or of ours."""
    return checkouts.checkout_path(named, VARIABLE, DEFAULT)


_imported: dict[Path, Checkout] = {}


def import_checkout(path: str | Path = "") -> Checkout:
    """Import the training program of a checkout.

    Raises:
        ConfigError: The folder is missing or no checkout, or its modules have moved.
        MissingExtraError: A package that it needs, and that we cannot stand in for, is not installed.
    """
    root = checkout_path(str(path)).resolve()
    if root not in _imported:
        checkouts.require_checkout(
            root,
            _PARTS,
            title="Ultra-Fast-Lane-Detection",
            give=f"set {VARIABLE} to one, give upstream=DIR, or run: git submodule update --init {DEFAULT}",
            holds="train.py",
        )
        require(root, UPSTREAM)
        checkout = Checkout(root, _PROJECT)
        checkout.seam("train", "train")
        _imported[root] = checkout
    return _imported[root]


@contextlib.contextmanager
def use_checkout(path: str | Path = "", device: str | torch.device = "") -> Iterator[Checkout]:
    """Import a checkout, and inside the block let its hard-coded ``.cuda()`` mean ``device``.

    Args:
        path: The checkout; see :func:`checkout_path` for none.
        device: Where tensors go; the GPU where there is one, else the CPU.
    """
    checkout = import_checkout(path)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with contextlib.ExitStack() as stack:
        stack.enter_context(checkout.modules())
        if chosen.type == "cpu":
            stack.enter_context(_cuda_is_cpu())
        yield checkout


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Stand-ins for missing packages that are imported and not needed, out of sight again afterwards."""
    made = []
    if not installed("tensorboard"):
        made.append(module(_TENSORBOARD, SummaryWriter=_NoWriter))
    if not installed("pathspec"):
        made.append(unavailable("pathspec", "--auto_backup needs pathspec; run: uv pip install pathspec"))
    if not installed("cv2"):
        made.append(unavailable("cv2", "this needs cv2; run: uv pip install opencv-python-headless"))
    made = [stand_in for stand_in in made if stand_in.__name__ not in sys.modules]
    sys.modules.update({stand_in.__name__: stand_in for stand_in in made})
    try:
        yield
    finally:
        for stand_in in made:
            del sys.modules[stand_in.__name__]


class _NoWriter:
    """A SummaryWriter that keeps nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take what a SummaryWriter takes."""

    def add_scalar(self, *_: Any, **__: Any) -> None:
        """Drop a number."""

    def close(self) -> None:
        """Nothing is open."""


@contextlib.contextmanager
def _cuda_is_cpu() -> Iterator[None]:
    """Let ``.cuda()`` give CPU tensors."""

    def stay(self: Any, *_: Any, **__: Any) -> Any:
        return self.cpu()

    owners: tuple[Any, ...] = (torch.Tensor, nn.Module)
    before = [owner.cuda for owner in owners]
    for owner in owners:
        owner.cuda = stay
    try:
        yield
    finally:
        for owner, value in zip(owners, before, strict=True):
            owner.cuda = value


_PROJECT = Project(
    title="Ultra-Fast-Lane-Detection",
    names=NAMES,
    commit=WRITTEN_FOR,
    stand_ins=_stand_ins,
    install={"sklearn": "scikit-learn", "PIL": "pillow"},
)
UPSTREAM = Upstream(
    name="ufld",
    title="Ultra-Fast-Lane-Detection",
    commit=WRITTEN_FOR,
    variable=VARIABLE,
    default=DEFAULT,
    locate=checkout_path,
    seams=SEAMS,
    files=FILES,
)

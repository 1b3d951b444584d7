"""Ultra-Fast-Lane-Detection's modules from a checkout, with nothing in it edited and nothing written into it.

It is no package: its modules are called ``train``, ``model``, ``data``, ``utils`` and ``evaluation``. They are found,
and are in ``sys.modules``, inside :func:`use_checkout` only; others of the same names come back afterwards.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from slr_det.errors import ConfigError, MissingExtraError
from slr_det_adapters import checkouts
from slr_det_adapters.substitutes import module, unavailable

VARIABLE = "SLR_DET_UFLD"
DEFAULT = "third_party/Ultra-Fast-Lane-Detection"
#: The commit that the names below were read in.
WRITTEN_FOR = "353df10"
#: Top-level names of its modules.
NAMES = ("train", "model", "data", "utils", "evaluation")
_PARTS = ("train.py", "model/model.py", "data/dataloader.py", "utils/factory.py")
_TENSORBOARD = "torch.utils.tensorboard"
_INSTALL = {"sklearn": "scikit-learn", "PIL": "pillow"}


class Checkout:
    """An imported checkout.

    Attributes:
        root: Its folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._own: dict[str, ModuleType] = {}
        self._others: dict[str, ModuleType] = {}
        self._depth = 0

    def seam(self, module_name: str, name: str) -> Any:
        """An attribute of one of its modules, inside :func:`use_checkout`.

        Raises:
            ConfigError: This version of Ultra-Fast-Lane-Detection has moved it.
            MissingExtraError: The module needs a package that is not installed.
        """
        with self.modules(), _stand_ins():
            try:
                found = importlib.import_module(module_name)
            except ModuleNotFoundError as error:
                missing = error.name or ""
                if missing.partition(".")[0] in NAMES:
                    raise ConfigError(self._moved(module_name, name)) from error
                package = missing.partition(".")[0]
                raise MissingExtraError(
                    f"Ultra-Fast-Lane-Detection at {self.root} needs the package '{package}', which is not installed; "
                    f"run: uv pip install {_INSTALL.get(package, package)}"
                ) from error
        try:
            return getattr(found, name)
        except AttributeError:
            raise ConfigError(self._moved(module_name, name)) from None

    @contextlib.contextmanager
    def replaced(self, module_name: str, **names: Any) -> Iterator[None]:
        """Let names of one of its modules mean something else inside the block.

        A name that does not exist yet (such as the loader that ``train`` takes from its main program) is gone again
        afterwards.
        """
        target = sys.modules[module_name]
        before = {name: vars(target)[name] for name in names if name in vars(target)}
        vars(target).update(names)
        try:
            yield
        finally:
            for name in names:
                del vars(target)[name]
            vars(target).update(before)

    @contextlib.contextmanager
    def modules(self) -> Iterator[None]:
        """Have its modules in ``sys.modules``, and let more of them be found; write no bytecode beside them."""
        self._depth += 1
        if self._depth > 1:
            try:
                yield
            finally:
                self._depth -= 1
            return
        finder, bytecode = _Finder(self.root), sys.dont_write_bytecode
        self._others = _taken_out()
        sys.modules.update(self._own)
        sys.meta_path.insert(0, finder)
        sys.dont_write_bytecode = True
        try:
            yield
        finally:
            self._depth -= 1
            sys.dont_write_bytecode = bytecode
            sys.meta_path.remove(finder)
            self._own = _taken_out()
            sys.modules.update(self._others)

    def _moved(self, module_name: str, name: str) -> str:
        return (
            f"{self.root}: this version of Ultra-Fast-Lane-Detection has no '{name}' in {module_name}, which the "
            f"adapter drives; check out commit {WRITTEN_FOR}: git -C {self.root} checkout {WRITTEN_FOR}"
        )


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
        _require(root)
        checkout = Checkout(root)
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


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return package in sys.modules or importlib.util.find_spec(package) is not None


def _require(root: Path) -> None:
    if not root.is_dir() or not any(root.iterdir()):  # an empty one is a submodule that was not fetched
        raise ConfigError(
            f"{root}: nothing is there, expected a checkout of Ultra-Fast-Lane-Detection; set {VARIABLE} to one, give "
            f"upstream=DIR, or run: git submodule update --init {DEFAULT}"
        )
    for part in _PARTS:
        if not (root / part).is_file():
            raise ConfigError(
                f"upstream={root}: is no checkout of Ultra-Fast-Lane-Detection ({part} is missing); give the folder "
                "that holds train.py"
            )


class _Finder(MetaPathFinder):
    """Finds the top-level modules of a checkout before any others of the same names."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in NAMES:
            return None
        file, folder = self._root / f"{fullname}.py", self._root / fullname
        if file.is_file():
            return importlib.util.spec_from_file_location(fullname, file)
        if not folder.is_dir():
            return None
        # Without __init__.py, as all of them are, a folder is found only behind any package of its name.
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec


def _taken_out() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] in NAMES]
    return {name: sys.modules.pop(name) for name in names}


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

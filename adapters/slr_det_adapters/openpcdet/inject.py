"""``import pcdet`` from a checkout that was never built, with nothing in it edited and nothing written into it.

What was compiled is used. What was not is supplied from outside: by an import finder that is asked last, so that
whatever the checkout or the environment has comes first.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from slr_det.errors import ConfigError, MissingExtraError
from slr_det.upstream.project import Upstream
from slr_det.upstream.seams import require
from slr_det_adapters import checkouts
from slr_det_adapters.openpcdet.seams import FILES, ROOTS, SEAMS
from slr_det_adapters.openpcdet.surroundings import aliases, cuda_is_cpu, importing, stand_ins
from slr_det_adapters.substitutes import module

VARIABLE = "SLR_DET_OPENPCDET"
DEFAULT = "third_party/OpenPCDet"
#: The commit that the names below were read in.
WRITTEN_FOR = "8caccce"
_VERSION = "0.6.0+unbuilt"
_OPS = "pcdet.ops."
_MODULES = (
    "pcdet.config",
    "pcdet.datasets",
    "pcdet.models",
    "pcdet.ops.iou3d_nms.iou3d_nms_utils",
    "pcdet.ops.roiaware_pool3d.roiaware_pool3d_utils",
    "train_utils.train_utils",
    "train_utils.optimization",
)
_INSTALL = {"cv2": "opencv-python-headless", "yaml": "pyyaml", "PIL": "pillow", "cumm": "spconv"}


@dataclass(frozen=True)
class Checkout:
    """An imported checkout.

    Attributes:
        root: Its folder.
        compiled: Names of the compiled modules of ``pcdet.ops`` that are its own; all others are ours.
    """

    root: Path
    compiled: frozenset[str]

    @property
    def tools(self) -> Path:
        """The folder that paths inside its configurations are relative to."""
        return self.root / "tools"

    def seam(self, module: str, name: str) -> Any:
        """An attribute of one of its modules; ConfigError where this version of OpenPCDet has moved it."""
        with importing(self.root), stand_ins():
            try:
                found = importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name is not None and module.startswith(error.name):
                    raise ConfigError(self._moved(module, name)) from error
                raise _missing(self.root, error) from error
        try:
            return getattr(found, name)
        except AttributeError:
            raise ConfigError(self._moved(module, name)) from None

    def call(self, module: str, name: str, **given: Any) -> Any:
        """Call one of its functions by keywords, without those that this version does not know.

        Raises ConfigError where it has moved, or wants something that is not given.
        """
        function = self.seam(module, name)
        known = inspect.signature(function).parameters
        missing = [
            key
            for key, parameter in known.items()
            if parameter.default is parameter.empty and key not in given
        ]
        if missing:
            raise ConfigError(
                f"{self.root}: {name} of {module} wants '{missing[0]}' in this version of OpenPCDet, which the adapter "
                f"does not know; check out commit {WRITTEN_FOR}: git -C {self.root} checkout {WRITTEN_FOR}"
            )
        return function(**{key: value for key, value in given.items() if key in known})

    def _moved(self, module: str, name: str) -> str:
        return (
            f"{self.root}: this version of OpenPCDet has no '{name}' in {module}, which the adapter drives; check out "
            f"commit {WRITTEN_FOR}: git -C {self.root} checkout {WRITTEN_FOR}"
        )


def checkout_path(named: str = "") -> Path:
    """The checkout that is named, or $SLR_DET_OPENPCDET, or third_party/OpenPCDet of the current folder or of ours."""
    return checkouts.checkout_path(named, VARIABLE, DEFAULT)


_imported: Checkout | None = None


def import_checkout(path: str | Path = "") -> Checkout:
    """Import OpenPCDet from a checkout. Once per process: modules of two checkouts cannot be told apart.

    Without ``path`` it is the one that is imported already, else as :func:`checkout_path` says.

    Raises:
        ConfigError: The folder is missing or no checkout, its modules have moved, or another OpenPCDet is imported.
        MissingExtraError: A package that it needs, and that we cannot stand in for, is not installed.
    """
    global _imported
    if _imported is not None and not str(path):
        return _imported
    root = checkout_path(str(path)).resolve()
    if _imported is not None:
        if _imported.root != root:
            raise ConfigError(
                f"upstream={root}: OpenPCDet is imported from {_imported.root} already; use one per process"
            )
        return _imported
    checkouts.require_checkout(
        root,
        ("pcdet/__init__.py", "tools/train_utils/train_utils.py"),
        title="OpenPCDet",
        give=f"set {VARIABLE} to one, give upstream=DIR (and the configuration by its whole path), or run: "
        f"git submodule update --init {DEFAULT}",
        holds="pcdet and tools",
    )
    require(root, UPSTREAM)
    if "pcdet" in sys.modules:
        raise ConfigError(
            f"upstream={root}: another OpenPCDet is imported already (from {sys.modules['pcdet'].__file__}); "
            "use one per process"
        )
    finder = _Fallback(root)
    sys.meta_path.append(finder)
    try:
        with importing(root), stand_ins(), aliases(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old names of torch and numpy: news for its authors
            for name in _MODULES:
                importlib.import_module(name)
    except BaseException as error:
        sys.meta_path.remove(finder)
        for name in [n for n in sys.modules if n.split(".")[0] in ("pcdet", "train_utils")]:
            del sys.modules[name]
        if isinstance(error, ModuleNotFoundError):
            raise _missing(root, error) from error
        if isinstance(error, ImportError):
            raise ConfigError(
                f"{root}: OpenPCDet cannot be imported ({str(error).splitlines()[0]}); where that is one of its "
                "extensions, rebuild it for this torch, or move it away and ours is used"
            ) from error
        raise
    _imported = Checkout(root, finder.left_alone())
    return _imported


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
        stack.enter_context(importing(checkout.root))
        stack.enter_context(aliases())
        if chosen.type == "cpu":
            stack.enter_context(cuda_is_cpu(checkout.compiled))
        yield checkout


def _missing(root: Path, error: ModuleNotFoundError) -> Exception:
    package = (error.name or "").split(".")[0]
    if package in ("pcdet", "train_utils"):
        return ConfigError(
            f"{root}: this version of OpenPCDet has no module {error.name}; check out commit {WRITTEN_FOR}"
        )
    install = _INSTALL.get(package, package)
    return MissingExtraError(
        f"OpenPCDet at {root} needs the package '{package}', which is not installed; run: uv pip install {install}"
    )


class _Fallback(MetaPathFinder, Loader):
    """Supplies modules of pcdet that are not there, or that import what is not installed."""

    def __init__(self, root: Path) -> None:
        from slr_det_adapters.openpcdet import ops

        self.supplied: set[str] = set()
        self._makers: dict[str, Callable[[], ModuleType]] = {
            f"{_OPS}{name}": (lambda name=name: ops.replacement(name))  # type: ignore[misc]
            for name in ops.REPLACED
        }
        self._makers["pcdet.version"] = lambda: module("pcdet.version", __version__=_VERSION)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._makers:
            return None
        self.supplied.add(fullname.removeprefix(_OPS))
        return ModuleSpec(fullname, self)

    def left_alone(self) -> frozenset[str]:
        """Names inside ``pcdet.ops`` of the compiled modules that the checkout itself had."""
        imported = {
            name.removeprefix(_OPS) for name in self._makers if name.startswith(_OPS) and name in sys.modules
        }
        return frozenset(imported - self.supplied)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._makers[spec.name]()

    def exec_module(self, module: ModuleType) -> None:
        """Everything is there already."""


UPSTREAM = Upstream(
    name="openpcdet",
    title="OpenPCDet",
    commit=WRITTEN_FOR,
    variable=VARIABLE,
    default=DEFAULT,
    locate=checkout_path,
    seams=SEAMS,
    files=FILES,
    roots=ROOTS,
)

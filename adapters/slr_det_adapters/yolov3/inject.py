"""The modules of ultralytics/yolov3 from a checkout, with nothing in it edited and nothing written into it.

It is no package: its modules are called ``train``, ``val``, ``export``, ``models`` and ``utils``, see
:mod:`slr_det_adapters.hidden`. What it would fetch, install or report to is switched off.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import torch

from slr_det.errors import DataError
from slr_det.upstream.project import Upstream
from slr_det.upstream.seams import require
from slr_det_adapters import checkouts
from slr_det_adapters.hidden import Checkout, Project, installed
from slr_det_adapters.substitutes import unavailable
from slr_det_adapters.ultralytics.offline import load_ultralytics
from slr_det_adapters.yolov3.seams import FILES, SEAMS

VARIABLE = "SLR_DET_YOLOV3"
DEFAULT = "third_party/yolov3"
#: The commit that the names below were read in.
WRITTEN_FOR = "97b87b13"
_PARTS = ("train.py", "val.py", "models/yolo.py", "utils/loss.py")
# Trackers that would log in over the network, and augmentations with a generator of their own, which no seed reaches.
_OFF = ("wandb", "comet_ml", "clearml", "torch.utils.tensorboard", "albumentations")


def checkout_path(named: str = "") -> Path:
    """The checkout that is named, or $SLR_DET_YOLOV3, or that in third_party of the current folder or of ours."""
    return checkouts.checkout_path(named, VARIABLE, DEFAULT)


_imported: dict[Path, Checkout] = {}


def import_checkout(path: str | Path = "") -> Checkout:
    """Import the training and the validation program of a checkout.

    Raises:
        ConfigError: The folder is missing or no checkout, or its modules have moved.
        MissingExtraError: ultralytics, which it is built on, or another package that it needs is not installed.
    """
    root = checkout_path(str(path)).resolve()
    if root not in _imported:
        checkouts.require_checkout(
            root,
            _PARTS,
            title="ultralytics/yolov3",
            give=f"set {VARIABLE} to one, give upstream=DIR, or run: git submodule update --init {DEFAULT}",
            holds="train.py",
        )
        require(root, UPSTREAM)
        load_ultralytics()  # with its own network use off
        checkout = Checkout(root, _PROJECT)
        with checkout.modules(), _switched_off(), _process_as_it_was():
            _seal(checkout)
            for module, name in (("train", "train"), ("val", "run"), ("models.yolo", "Model")):
                checkout.seam(module, name)
            checkout.seam("export", "export_formats")  # what val.run asks for the suffix of a checkpoint
        _imported[root] = checkout
    return _imported[root]


@contextlib.contextmanager
def use_checkout(path: str | Path = "") -> Iterator[Checkout]:
    """Import a checkout and have its modules inside the block; see :func:`checkout_path` for none.

    Settings of the process that upstream changes (determinism, the environment) are put back afterwards.
    """
    checkout = import_checkout(path)
    with checkout.modules(), _switched_off(), _process_as_it_was():
        yield checkout


def _seal(checkout: Checkout) -> None:
    """Take its ways to the network and to pip, before other modules take them over by name."""
    downloads: dict[str, Any] = {
        "safe_download": _refuse_download,
        "curl_download": _refuse_download,
        "requests": unavailable("requests", "slr_det never downloads; give the path of a local file"),
    }
    general: dict[str, Any] = {
        "download": _refuse_download,
        "check_font": lambda *_, **__: None,
        "check_online": lambda: False,
        "check_requirements": lambda *_, **__: True,
    }
    for module, names in (("utils.downloads", downloads), ("utils.general", general)):
        for name, instead in names.items():
            checkout.seam(module, name)
            setattr(sys.modules[module], name, instead)


def _refuse_download(*wanted: Any, **named: Any) -> NoReturn:
    name = str(next((word for word in (*wanted, *named.values()) if isinstance(word, str | Path)), "a file"))
    raise DataError(
        f"{name.rpartition('/')[2]}: not found on this machine, and slr_det never downloads; give the path of a "
        "local file"
    )


@contextlib.contextmanager
def _switched_off() -> Iterator[None]:
    """Let trackers and the like look as if they were not installed."""
    before = {name: sys.modules[name] for name in _OFF if name in sys.modules}
    for name in _OFF:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in _OFF:
            del sys.modules[name]
        sys.modules.update(before)


@contextlib.contextmanager
def _process_as_it_was() -> Iterator[None]:
    """Put back what upstream sets for the whole process: the environment, how numbers are printed, determinism."""
    import matplotlib

    environment = dict(os.environ)
    printing = np.get_printoptions()
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    # A folder that is there already: it would make one in the user's configuration for a font that is not fetched.
    os.environ["YOLOV3_CONFIG_DIR"] = tempfile.gettempdir()
    try:
        with matplotlib.rc_context():
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        np.set_printoptions(**printing)
        torch.set_printoptions(profile="default")  # type: ignore[no-untyped-call]
        torch.use_deterministic_algorithms(deterministic[0], warn_only=warn_only)
        torch.backends.cudnn.deterministic = deterministic[1]


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Stand-ins for missing packages that are imported and only draw or print, out of sight again afterwards."""
    made = [
        unavailable(name, f"this needs {name}; run: uv pip install {name}")
        for name in ("pandas", "seaborn")
        if name not in sys.modules and not installed(name)
    ]
    for stand_in in made:
        # Torch looks for the spec of packages that it knows.
        vars(stand_in).update(
            options=SimpleNamespace(display=SimpleNamespace()),
            DataFrame=_Table,
            __spec__=ModuleSpec(stand_in.__name__, None),
        )
    sys.modules.update({stand_in.__name__: stand_in for stand_in in made})
    try:
        yield
    finally:
        for stand_in in made:
            del sys.modules[stand_in.__name__]


class _Table:
    """In place of a data frame: its columns, each a list, as attributes."""

    def __init__(self, rows: list[list[Any]], columns: list[str]) -> None:
        vars(self).update(zip(columns, map(list, zip(*rows, strict=True)), strict=True))


_PROJECT = Project(
    title="ultralytics/yolov3",
    names=("train", "val", "export", "models", "utils"),
    commit=WRITTEN_FOR,
    stand_ins=_stand_ins,
    install={"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "pyyaml"},
)
UPSTREAM = Upstream(
    name="yolov3",
    title="ultralytics/yolov3",
    commit=WRITTEN_FOR,
    variable=VARIABLE,
    default=DEFAULT,
    locate=checkout_path,
    seams=SEAMS,
    files=FILES,
)

"""Keeps ultralytics off the network: no downloads, telemetry, update checks, installs or font requests."""

from __future__ import annotations

import importlib
import os
from typing import Any, NoReturn

from slr_det.errors import DataError, MissingExtraError

INSTALL = 'uv pip install "slr-det[yolo]"'


def load_ultralytics() -> Any:
    """Import ultralytics with its network use switched off and return the package.

    Its own switches cover telemetry, update checks and installs. Fonts and weights are fetched through three
    functions that ask no switch and can hang for minutes behind a firewall; they are replaced. Raises
    MissingExtraError with the install command where ultralytics is missing.
    """
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    try:
        package = importlib.import_module("ultralytics")
    except ModuleNotFoundError as error:
        if error.name != "ultralytics":
            raise
        raise MissingExtraError(f"YOLO models need ultralytics; install it with: {INSTALL}") from error
    _seal()
    return package


def _seal() -> None:
    downloads: Any = importlib.import_module("ultralytics.utils.downloads")
    downloads.is_url = _no_url
    downloads.safe_download = _refuse
    for name in ("ultralytics.utils", "ultralytics.utils.checks", "ultralytics.utils.events"):
        module: Any = importlib.import_module(name)
        if hasattr(module, "ONLINE"):
            module.ONLINE = False
    importlib.import_module("ultralytics.utils.events").events.enabled = False


def _no_url(url: Any, check: bool = False) -> bool:
    """Say of a string whether it looks like an address; one that would have to be asked is said not to answer."""
    return not check and str(url).startswith(("http://", "https://"))


def _refuse(url: Any, *args: Any, **kwargs: Any) -> NoReturn:
    name = str(kwargs.get("file") or url).rsplit("/", 1)[-1]
    raise DataError(
        f"{name}: not found on this machine, and slr_det never downloads; give the path of a local file"
    )

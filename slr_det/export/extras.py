"""The packages of the extra ``export``, imported when they are needed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from slr_det.errors import MissingExtraError


def load(package: str) -> Any:
    """Import ``onnx``, ``onnxruntime`` or ``openvino``; MissingExtraError with the install command without it."""
    try:
        with _without_telemetry():
            return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise
        extra = "openvino" if package == "openvino" else "export"
        raise MissingExtraError(
            f"this export needs the package '{error.name}', which is not installed; run: "
            f'uv pip install "slr-det[{extra}]"'
        ) from error


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Let openvino find its telemetry package missing: with it, a mere import reports to its makers."""
    name = "openvino_telemetry"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # makes an import of it fail
    try:
        yield
    finally:
        del sys.modules[name]

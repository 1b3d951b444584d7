"""Data sets: the embedded shapes, and what a user gives turned into what a trainer reads."""

from __future__ import annotations

from pathlib import Path


def model_files() -> list[Path]:
    """The model descriptions shipped with the package, such as ``yolov3-tiny-slim.yaml``."""
    return sorted((Path(__file__).parent / "models").glob("*.yaml"))

"""Data sets: the embedded shapes, and what a user gives turned into what a trainer reads."""

from __future__ import annotations

from pathlib import Path

from slr_det.errors import ConfigError, nearest

_MODELS = Path(__file__).parent / "models"


def model_file(name: str) -> Path:
    """Return the path of a model description shipped with the package, such as ``"yolov3-tiny-slim.yaml"``.

    Raises:
        ConfigError: no such description; the message names the nearest one.
    """
    valid = sorted(p.name for p in _MODELS.glob("*.yaml"))
    wanted = name if name.endswith(".yaml") else f"{name}.yaml"
    if wanted not in valid:
        raise ConfigError(
            f"model '{name}': not shipped with slr_det{nearest(wanted, valid)}; there are {valid}"
        )
    return _MODELS / wanted

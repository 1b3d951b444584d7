"""Whether a package that only some extras bring is there, asked before it is needed."""

from __future__ import annotations

import importlib.util

from slr_det.errors import MissingExtraError


def require_mmengine(extra: str) -> None:
    """Raise MissingExtraError, with the command that installs it, where mmengine is missing."""
    if importlib.util.find_spec("mmengine") is None:
        raise MissingExtraError(
            "training and evaluation need mmengine, which is not installed; run: "
            f'uv pip install "slr-det[{extra}]"'
        )

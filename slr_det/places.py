"""Where runs go unless they are told."""

from __future__ import annotations

import os

RUNS_VARIABLE = "SLR_DET_RUNS"


def runs_folder() -> str:
    """``project`` of a run that names none: ``$SLR_DET_RUNS``, or ``runs`` in the folder where it is started."""
    return os.environ.get(RUNS_VARIABLE) or "runs"

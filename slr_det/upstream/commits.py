"""Which commit a checkout is at."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def commit_of(path: Path) -> tuple[str | None, str]:
    """The commit that is checked out in ``path``, or None and why that cannot be told.

    A folder inside another repository (a copy, or a submodule that was not fetched) is not taken for that one.
    """
    if not (path / ".git").exists():
        return None, "it is no git checkout"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        run = subprocess.run(
            ["git", "-C", str(path), "rev-parse", "HEAD"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"git cannot be run: {' '.join(str(error).split()):.120}"
    if run.returncode != 0:
        lines = run.stderr.strip().splitlines() or ["git says nothing"]
        return None, f"{lines[0]:.120}"
    return run.stdout.strip(), ""

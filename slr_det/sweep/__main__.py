"""Run a grid of compressions: ``python -m slr_det.sweep SWEEP.yaml``; ``--help`` teaches the rest."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from slr_det.cli import run
from slr_det.sweep.command import Sweep, parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    sweep = Sweep(parse(sys.argv[1:] if arguments is None else arguments))
    return run(sweep.run, on_interrupt=sweep.interrupted)


if __name__ == "__main__":
    sys.exit(main())

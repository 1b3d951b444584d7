"""The tools that belong to no single task: ``slr-det VERB ...`` (or ``python -m slr_det VERB ...``)."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import slr_det
from slr_det.cli import run


class VerbModule(Protocol):
    """What the module of a verb offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the verb's options; ``parser.description`` and ``parser.epilog`` are its own to set."""

    def run(self, options: argparse.Namespace) -> int:
        """Do what the verb says and return the exit code; errors are those of :mod:`slr_det.errors`."""


@dataclass(frozen=True)
class Verb:
    """A tool.

    Attributes:
        module: Where it is: a :class:`VerbModule`, imported when the verb is asked for and not before.
        help: One line of help.
        interrupted: The line to print when it is stopped.
    """

    module: str
    help: str
    interrupted: str = "stopped; nothing was written"


VERBS = {
    "doctor": Verb(
        "slr_det.doctor.verb",
        "what is installed here and what is missing: versions, GPUs, memory, disk",
        interrupted="stopped",
    ),
    "report": Verb(
        "slr_det.report.html.verb",
        "compare runs: one HTML page of tables, curves, layers and pictures (--html FILE); or their tables as text",
    ),
    "upstream": Verb(
        "slr_det.upstream.verb",
        "are the checkouts that adapters drive as they need them? `upstream check`",
        interrupted="stopped",
    ),
}

DESCRIPTION = """\
Tools around the command lines that compress: python -m slr_det.yolo, .lane, .pointpillars and .classify."""

EPILOG = """\
examples:
  slr-det doctor
      is everything here that a run needs? A line for each answer, and what to do about each problem
  slr-det report runs/* --html all.html
      every run of the folder on one page that needs no network
  slr-det upstream check
      the checkouts of OpenPCDet, Ultra-Fast-Lane-Detection and ultralytics/yolov3: what has moved, what still works

exit codes: 0 fine, 1 checked and found wanting, 2 something is wrong (one line on stderr says what)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="slr-det", description=DESCRIPTION, epilog=EPILOG, formatter_class=form
    )
    parser.add_argument("--version", action="version", version=f"slr-det {slr_det.__version__}")
    choices = parser.add_subparsers(dest="verb", metavar="|".join(VERBS), required=True)
    for name, verb in VERBS.items():
        one = choices.add_parser(name, help=verb.help, formatter_class=form)
        if words[:1] == [name]:
            # Options come from the verb's module: the other verbs' modules are never imported.
            _module_of(verb).add_arguments(one)
    options = parser.parse_args(words)
    chosen = VERBS[options.verb]
    return run(lambda: _module_of(chosen).run(options), on_interrupt=lambda: chosen.interrupted)


def _module_of(verb: Verb) -> VerbModule:
    return cast(VerbModule, importlib.import_module(verb.module))


if __name__ == "__main__":
    sys.exit(main())

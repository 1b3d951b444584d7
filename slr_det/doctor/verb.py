"""The verb ``doctor``: what it looks at, and how it says what it found."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import slr_det
from slr_det.cli import BELOW_MINIMUM, OK
from slr_det.data.generated import cache_dir
from slr_det.doctor import accelerators, folders, machine, packages
from slr_det.doctor.findings import Finding, document, healthy, table
from slr_det.places import RUNS_VARIABLE, runs_folder

DESCRIPTION = """\
Look at this environment: is everything here that a run needs?

Versions, GPUs and whether torch can use them, processor, memory and shared memory (with the limits of a container),
every extra with the command that installs it where it is absent, and whether the folders for runs, generated data and
temporary files can be written. Nothing is changed, no trainer is imported and no memory of a GPU is taken."""

EPILOG = """\
examples:
  slr-det doctor
  slr-det doctor --need yolo
      1 where the packages for YOLO detectors are not all here: a health check, or the first step of a CI job
  slr-det doctor --runs /mnt/big --json

Each line is ok, a note (worth knowing) or a PROBLEM, with what to do about it below.
exit codes: 0 no problem, 1 at least one, 2 something is wrong with the command
"""

_WRITABLE = "(in Docker: -v with a folder of this user's, or --user with the owner of the folder)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument(
        "--need",
        action="append",
        default=[],
        metavar="EXTRA",
        help="an extra that has to be here: yolo, lane, pointpillars, classify, export, ... (repeatable)",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        metavar="DIR",
        help=f"where runs will go, as project=DIR; default: ${RUNS_VARIABLE}, or runs in this folder",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON, sizes in bytes")


def run(options: argparse.Namespace) -> int:
    """Print what was found; 1 where something would stop a run."""
    findings = list(examine(options.runs or Path(runs_folder()), options.need))
    fine = healthy(findings)
    if options.json:
        print(json.dumps(document(findings), indent=1))
    else:
        print(table(findings))
        count = sum(finding.verdict == "problem" for finding in findings)
        print("\nno problem found" if fine else f"\n{count} {'problem' if count == 1 else 'problems'} found")
    return OK if fine else BELOW_MINIMUM


def examine(runs: Path, need: Collection[str] = ()) -> Iterator[Finding]:
    """Look at everything.

    Args:
        runs: Where runs will go.
        need: Extras that have to be installed.

    Raises:
        ConfigError: ``need`` names an extra that does not exist.
    """
    versions = packages.installed()
    installed = list(packages.check(versions, need))  # first of all, for its error
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield Finding("slr-det", "ok", slr_det.__version__, facts={"folder": str(Path(slr_det.__file__).parent)})
    yield Finding(
        "python",
        "ok",
        f"{platform.python_version()} ({sys.executable}), {system}",
        facts={"version": platform.python_version(), "executable": sys.executable, "system": system},
    )
    yield from accelerators.check(versions)
    yield machine.cpu()
    yield machine.memory()
    shared = machine.shared_memory()
    if shared is not None:
        yield shared
    yield folders.folder("runs", runs, "runs go there", f"give another place as project=DIR {_WRITABLE}")
    yield folders.folder(
        "cache", cache_dir(), "generated data go there", f"set SLR_DET_CACHE to another folder {_WRITABLE}"
    )
    yield folders.temporary()
    yield from installed

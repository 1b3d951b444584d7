"""The verb ``doctor``: what it looks at, and how it says what it found."""

from __future__ import annotations

import argparse
import json
import platform

import slr_det
from slr_det.cli import BELOW_MINIMUM, OK
from slr_det.doctor.findings import Finding, document, healthy, table

DESCRIPTION = """\
Look at this environment: is everything here that a run needs?"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.description = DESCRIPTION
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(options: argparse.Namespace) -> int:
    """Print what was found; 1 where something would stop a run."""
    findings = [
        Finding("slr-det", "ok", slr_det.__version__),
        Finding("python", "ok", platform.python_version()),
    ]
    print(json.dumps(document(findings), indent=1) if options.json else table(findings))
    return OK if healthy(findings) else BELOW_MINIMUM

"""The verb ``upstream check``: are the checkouts of upstream projects as the adapters need them?"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from slr_det.cli import BELOW_MINIMUM, FAILED, OK, complain
from slr_det.errors import ConfigError, nearest
from slr_det.upstream.project import Upstream, upstreams
from slr_det.upstream.results import Report, document
from slr_det.upstream.suite import LIMIT, examine

DESCRIPTION = """\
Look at the checkouts of upstream projects that adapters drive (--backend openpcdet, ufld, yolov3)."""

CHECK = """\
Look at every checkout that is present: is it as its adapter needs it?

  seams      the functions, classes and files that the adapter relies on, read off the sources: a function that was
             renamed, that takes something else or that does not use a name any more is one line with file and line
  contracts  small things that are run in a process of their own, on the CPU, with generated data: the network is
             built and its weights fit ours, an epoch is trained with the penalty, checkpoints are read on either side

A checkout is found as a run finds it: --checkout, or its variable, or the submodule in third_party. Another commit than
the pinned one is said and not refused. Nothing in a checkout is changed, and nothing is downloaded."""

EPILOG = """\
examples:
  slr-det upstream check
  slr-det upstream check ufld --checkout ufld=~/Ultra-Fast-Lane-Detection
  slr-det upstream check --seams
      the seams alone: a second, and no code of a checkout is run
  git -C third_party/yolov3 checkout NEWER && slr-det upstream check yolov3
      before a newer commit is pinned

exit codes: 0 all that is present passed (or nothing is present and none was named), 1 a seam has moved or a contract
failed, 2 something could not be run (a checkout that was named is absent, a package is missing)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the one thing that can be done, ``check``, and its options."""
    parser.description = DESCRIPTION
    choices = parser.add_subparsers(dest="action", metavar="check", required=True)
    one = choices.add_parser(
        "check",
        help="seams and contracts of the checkouts that are present",
        description=CHECK,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.add_argument(
        "names", nargs="*", metavar="NAME", help="adapters, such as ufld; all that drive a checkout"
    )
    one.add_argument(
        "--checkout",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="where the checkout of an adapter is; may be given for each",
    )
    one.add_argument("--seams", action="store_true", help="read the sources and run nothing")
    one.add_argument(
        "--limit",
        type=_seconds,
        default=LIMIT,
        metavar="SECONDS",
        help=f"time that a contract may take ({LIMIT:.0f})",
    )
    one.add_argument("--verbose", action="store_true", help="show what the contracts print, on stderr")
    one.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(options: argparse.Namespace) -> int:
    """Print what was found, and say by the exit code whether it is fine."""
    places = _places(options.checkout)
    wanted = upstreams(list(dict.fromkeys([*options.names, *places])) if options.names else [])
    known = [upstream.name for upstream in wanted]
    for name in places:
        if name not in known:
            raise ConfigError(
                f"--checkout {name}=...: no adapter '{name}' drives a checkout{nearest(name, known)}; these do: "
                f"{', '.join(known)}"
            )
    reports: list[Report] = []
    for upstream in wanted:
        if reports and not options.json:
            print()
        reports.append(
            examine(
                upstream,
                _place(upstream, places),
                seams_only=options.seams,
                limit=options.limit,
                verbose=options.verbose,
                show=_silent if options.json else _show,
            )
        )
    if options.json:
        print(json.dumps(document(reports), indent=1))
    return _verdict(reports, {*options.names, *places}, quiet=options.json)


def _verdict(reports: list[Report], named: set[str], *, quiet: bool) -> int:
    absent = [report for report in reports if not report.present and report.name in named]
    for report in absent:
        complain(f"{report.path}: no checkout of {report.title} is there; run: {report.fetch}")
    if any(report.broken for report in reports):
        return BELOW_MINIMUM
    if absent or any(report.count("unavailable") for report in reports):
        return FAILED
    if not any(report.present for report in reports) and not quiet:
        print("\nno checkout is present, so nothing was checked; the embedded backends need none")
    return OK


def _places(given: list[str]) -> dict[str, Path]:
    found = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise ConfigError(
                f"--checkout {text}: expected NAME=PATH, such as ufld=~/Ultra-Fast-Lane-Detection"
            )
        found[name] = Path(path).expanduser()
    return found


def _place(upstream: Upstream, places: dict[str, Path]) -> Path:
    named = places.get(upstream.name)
    return (upstream.locate("") if named is None else named).absolute()


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}', expected seconds above 0")
    return value


def _show(line: str) -> None:
    print(line, flush=True)


def _silent(line: str) -> None:
    """Nothing but JSON is printed."""

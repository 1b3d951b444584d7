"""``slr-det report RUN... --html out.html``: compare runs on one page, or print their tables."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from slr_det.cli import OK
from slr_det.errors import ConfigError
from slr_det.files import atomic_write
from slr_det.report.document import load_report
from slr_det.report.html.gather import read_runs
from slr_det.report.html.page import page
from slr_det.report.summary import summary_table

_DESCRIPTION = """\
Compare runs of any task. With --html, one page that needs no network: tables to sort, curves to hover, what each layer
kept, and the pictures of the runs. Without it, the table of each run on the terminal.

A run is a folder (runs/NAME) or its report.json. One that has not finished is shown with what it has."""

_EPILOG = """\
examples:
  slr-det report runs/shapes --html shapes.html
  slr-det report runs/* --html all.html --title "Three seeds"
  slr-det report runs/shapes runs/road"""


_START = b"<!doctype html>"
# Names in a report may come from anywhere, and a terminal obeys the control characters in them.
_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or its report.json")
    parser.add_argument("--html", metavar="FILE", help="write the page there")
    parser.add_argument("--title", default="", help="title of the page (default: the names of the runs)")
    parser.add_argument("--no-pictures", action="store_true", help="leave the pictures out: a smaller file")


def run(options: argparse.Namespace) -> int:
    """Write the page, or print the tables; returns the exit code.

    Raises:
        ConfigError: One line for each path that is no run, or whose report is damaged or of another version.
        StorageError: The page could not be written.
    """
    found = read_runs(options.runs)
    if options.html is None:
        for one in found:
            print(_summary(one.folder, one.status).translate(_CONTROLS), end="\n\n")
        return OK
    _free(options.html)
    content = page(found, title=options.title, pictures=not options.no_pictures)
    written = atomic_write(options.html, content)
    count = "1 run" if len(found) == 1 else f"{len(found)} runs"
    print(f"{written}: {count}, {written.stat().st_size / 1e6:.2f} MB", file=sys.stderr)
    return OK


def _free(name: str) -> None:
    """Refuse a name that would replace anything but an earlier page, such as a run's own report or weights."""
    file = Path(name)
    if not name or file.is_dir():
        what = "is a folder" if name else "names no file"
        raise ConfigError(f"--html {name!r}: {what}, expected the name of a file such as report.html")
    if file.is_file():
        try:
            with file.open("rb") as old:
                start = old.read(len(_START))
        except OSError as error:
            raise ConfigError(
                f"--html {name}: cannot be read ({error.strerror}); name another file"
            ) from error
        if start and start.lower() != _START:
            raise ConfigError(
                f"--html {name}: is there and is no HTML page; name another file, such as report.html"
            )


def _summary(folder: Path, status: str) -> str:
    if (folder / "report.json").is_file():
        table = summary_table(load_report(folder))
        return f"{table}\n{status}" if status else table
    return f"{folder.name}: {status}; no report yet"

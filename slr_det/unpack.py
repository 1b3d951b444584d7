"""Turn a packed model back into its checkpoint: ``python -m slr_det.unpack MODEL.slr -o MODEL.pt``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from slr_det.cli import OK, run
from slr_det.pack import refuse_same
from slr_det.storage import unpack

DESCRIPTION = """\
Write the checkpoint that a file of slr_det.pack was made from: the same bytes, which their trainer loads as before.

From a file of tensors that slr_det.storage.save wrote it makes a state dict. Damaged files are refused, and so are
files that would take far more memory than their size explains."""

EPILOG = """\
examples:
  python -m slr_det.unpack runs/NAME/pruned.slr -o model.pt
  python -m slr_det.unpack zeros.slr -o zeros.pt --limit 8GB
      an honest file of almost nothing but zeros

A checkpoint of a trainer can hold pickled code: load it only if you trust where it comes from. Unpacking runs none.
exit codes: 0 fine, 2 something is wrong (one line on stderr says what)
"""

_UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m slr_det.unpack",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="MODEL.slr", help="a file that slr_det.pack wrote")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="MODEL.pt", help="the checkpoint to write"
    )
    parser.add_argument(
        "--limit",
        type=_size,
        metavar="SIZE",
        help="the most that it may unpack to, such as 8GB (268 MB and 1024 times the file's size)",
    )
    options = parser.parse_args(arguments)
    return run(
        lambda: _unpack(options), on_interrupt=lambda: "interrupted; nothing was written", memory="--limit"
    )


def _unpack(options: argparse.Namespace) -> int:
    refuse_same(options.model, options.output)
    path = unpack(options.model, options.output, limit=options.limit)
    print(
        f"{path}: {path.stat().st_size:,} bytes, from {options.model} ({options.model.stat().st_size:,} bytes)"
    )
    return OK


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,18}) ?(|kB|MB|GB)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, expected bytes such as 500MB or 8GB")
    return int(match[1]) * _UNITS[match[2]]


if __name__ == "__main__":
    sys.exit(main())

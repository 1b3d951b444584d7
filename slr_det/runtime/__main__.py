"""Build the sparse runtime's library, or say what there is: ``python -m slr_det.runtime build`` and ``info``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from slr_det.cli import FAILED, OK, complain, run
from slr_det.runtime.binary import problem_of, this_machine
from slr_det.runtime.build import build, sources_hash
from slr_det.runtime.library import ISA_VARIABLE, cache_folder, candidates, load, unavailable
from slr_det.runtime.structs import ABI, Isa

DESCRIPTION = f"""\
The sparse runtime is a small library in C that computes pruned convolutions and linear layers with the zeros where
pruning left them. It is built when slr-det is installed, where there is a C compiler; without it models run dense.

  build   compile it now, into the user's cache, for this version of slr-det
  info    which library is used, with which instructions, or why there is none (exit code {FAILED} then)"""

EPILOG = f"""\
examples:
  python -m slr_det.runtime build
  python -m slr_det.runtime build --compiler clang
  python -m slr_det.runtime info
  {ISA_VARIABLE}=portable python -m slr_det.runtime info

SLR_DET_RUNTIME_LIBRARY names another library; {ISA_VARIABLE} is portable, avx2, avx512 or neon (default: the best)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m slr_det.runtime", description=DESCRIPTION, epilog=EPILOG, formatter_class=form
    )
    verbs = parser.add_subparsers(dest="verb", metavar="build|info", required=True)
    compiling = verbs.add_parser("build", help="compile the library", epilog=EPILOG, formatter_class=form)
    compiling.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for the library; default: the user's cache, where it is found",
    )
    compiling.add_argument(
        "--compiler", metavar="COMMAND", help="C compiler; default: $CC, else cc, gcc or clang"
    )
    compiling.add_argument(
        "--sanitize", action="store_true", help="with the address and undefined-behaviour sanitizers"
    )
    verbs.add_parser("info", help="which library is used, or why none")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    action = (lambda: _build(options)) if options.verb == "build" else _info
    return run(action, on_interrupt=lambda: "stopped; what was there before is unchanged")


def _build(options: argparse.Namespace) -> int:
    folder = options.output or cache_folder(sources_hash())
    print(f"library   {build(folder, compiler=options.compiler, sanitize=options.sanitize)}")
    if options.output is not None:
        print("to use it, set SLR_DET_RUNTIME_LIBRARY to this path")
        return OK
    return _info()


def _info() -> int:
    print(f"machine   {this_machine()}, interface {ABI}")
    for path, sources in candidates():
        print(f"looked at {path}: {problem_of(path, sources) or 'fine'}")
    reason = unavailable()
    if reason is not None:
        complain(f"{reason}; until then models run dense")
        return FAILED
    library = load()
    able = ", ".join(isa.name.lower() for isa in Isa if library.has_isa(isa))
    print(f"used      {library.path}, sha256 {library.sha256[:16]}")
    print(f"computes  with {library.isa.name.lower()}, of: {able}; {os.cpu_count()} cores")
    return OK


if __name__ == "__main__":
    sys.exit(main())

"""Make a pruned model's file small, losslessly: ``python -m slr_det.pack MODEL.pt -o MODEL.slr``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from slr_det.cli import OK, run
from slr_det.errors import ConfigError
from slr_det.storage import pack
from slr_det.storage.container import Progress

DESCRIPTION = """\
Write a checkpoint as a small file from which slr_det.unpack makes the same checkpoint again, byte for byte.

A pruned checkpoint stores its zeros like any other number, so pruning alone makes no file smaller. A packed one stores
the positions and the values of what is left: at 90 % zeros about a tenth of the bytes, at 98.7 % an eightieth. Models
of every trainer can be packed: whatever torch.save wrote, with its structure, its names and its dtypes. Nothing in the
checkpoint is unpickled or run, and the result is compared with the original before it is written."""

EPILOG = """\
examples:
  python -m slr_det.pack runs/NAME/pruned.pt
      writes runs/NAME/pruned.slr (a run of slr_det has written it already)
  python -m slr_det.pack pruned.pt -o small.slr
  python -m slr_det.unpack small.slr -o again.pt
      again.pt is pruned.pt

The format is described in docs/storage.md.
exit codes: 0 fine, 2 something is wrong (one line on stderr says what)
"""

_LARGE = 64 << 20  # bytes from which a file takes long enough to be watched


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m slr_det.pack",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="MODEL.pt", help="a checkpoint that torch.save wrote")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="MODEL.slr",
        help="the file to write (beside MODEL.pt, ending in .slr)",
    )
    options = parser.parse_args(arguments)
    return run(
        lambda: _pack(options), on_interrupt=lambda: "interrupted; nothing was written", memory="its size"
    )


def _pack(options: argparse.Namespace) -> int:
    target = options.output or options.model.with_suffix(".slr")
    refuse_same(options.model, target)
    with progress_bars(options.model) as progress:
        packed = pack(options.model, target, progress)
    print(
        f"{packed.path}: {packed.packed:,} bytes, {packed.ratio:.2f}x smaller than {options.model} "
        f"({packed.original:,} bytes)"
    )
    return OK


def refuse_same(source: Path, target: Path) -> None:
    """Raise ConfigError where writing ``target`` would replace ``source``."""
    if source.absolute() == target.absolute() or (
        target.exists() and source.exists() and target.samefile(source)
    ):
        raise ConfigError(f"{target} is the file to read; name another one with -o")


@contextmanager
def progress_bars(file: Path) -> Iterator[Progress | None]:
    """A callback that draws a bar for each step on a terminal; None where ``file`` is small."""
    if not file.is_file() or file.stat().st_size < _LARGE:
        yield None
        return
    bars: dict[str, tqdm[None]] = {}

    def show(step: str, done: int, total: int) -> None:
        if step not in bars:
            bars[step] = tqdm(total=total, desc=step, unit="B", unit_scale=True, disable=None)
        bars[step].update(done - bars[step].n)

    closing: Callable[[], list[None]] = lambda: [bar.close() for bar in bars.values()]  # noqa: E731
    try:
        yield show
    finally:
        closing()


if __name__ == "__main__":
    sys.exit(main())

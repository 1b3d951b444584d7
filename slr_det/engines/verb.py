"""The verb ``bench``: its options, what it writes, and what it says."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from slr_det.engines.measure import Measured, measure
from slr_det.engines.prepare import ENGINES, check_engines
from slr_det.engines.text import as_markdown, as_text, gain
from slr_det.errors import ConfigError, DataError
from slr_det.export.exportable import Exportable
from slr_det.export.runtime import batches
from slr_det.files import atomic_write
from slr_det.plots.runtime import draw_engines
from slr_det.runtime.compiled import CHOICES

RESULTS, PAGE, PICTURE = "bench.json", "bench.md", "bench.png"
SCHEMA = "slr_det.engines/1"


@dataclass(frozen=True)
class BenchSettings:
    """What is to be measured.

    Attributes:
        folder: For what is written.
        engines: Names of the engines, in the order of tables.
        threads: CPU threads; 0 for as many as torch has.
        rounds: Timed rounds.
        batch: Samples per answer.
        memory: Whether each engine is also run in a process of its own.
        choose: How our runtime chooses for each layer.
    """

    folder: Path
    engines: tuple[str, ...]
    threads: int
    rounds: int
    batch: int
    memory: bool
    choose: str


def add_bench_options(verb: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    verb.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("bench"),
        metavar="DIR",
        help="folder to write to; default: bench",
    )
    verb.add_argument(
        "--engines",
        default=",".join(ENGINES),
        metavar="NAME,...",
        help=f"some of {','.join(ENGINES)}; default: all that are installed",
    )
    verb.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="CPU threads of each; default: as many as torch has",
    )
    verb.add_argument("--rounds", type=int, default=30, metavar="N", help="timed rounds; default: 30")
    verb.add_argument("--batch", type=int, default=1, metavar="N", help="samples per answer; default: 1")
    verb.add_argument(
        "--no-memory",
        action="store_true",
        help="leave out the processes that measure memory, which take longest",
    )
    verb.add_argument(
        "--choose",
        choices=CHOICES,
        default="measure",
        help="how the sparse runtime runs each layer: as is faster here (default), all sparse, or all dense",
    )
    verb.add_argument("--json", action="store_true", help="print the outcome as JSON")


def bench_settings(options: argparse.Namespace) -> BenchSettings:
    """The settings behind the options; ConfigError for a number or an engine that is none, all at once."""
    problems = [
        f"--{name} {getattr(options, name)}: expected at least {least}"
        for name, least in (("threads", 0), ("rounds", 1), ("batch", 1))
        if getattr(options, name) < least
    ]
    try:
        engines = tuple(check_engines(options.engines.split(",")))
    except ConfigError as error:
        problems += error.problems
        engines = ()
    if problems:
        raise ConfigError(problems)
    return BenchSettings(
        options.output,
        engines,
        options.threads,
        options.rounds,
        options.batch,
        not options.no_memory,
        options.choose,
    )


def bench_words(words: Sequence[str], usual_data: str) -> list[str]:
    """The settings as the user gave them, completed: times need a checkpoint, and data only for an input's shape.

    A word alone, or ``weights=FILE`` without ``model=``, names the checkpoint; without ``data=`` the task's generated
    data serve.
    """
    found = [word if "=" in word else f"model={word}" for word in words]
    if not any(word.startswith("model=") for word in found):
        found = [
            f"model={word.removeprefix('weights=')}" if word.startswith("weights=") else word
            for word in found
        ]
    if found and not any(word.startswith("data=") for word in found):
        found.append(f"data={usual_data}")
    return found


def bench_network(
    exportable: Exportable,
    settings: BenchSettings,
    title: str,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> Measured:
    """Measure a network, and write the outcome as JSON, as a page and as a picture.

    Args:
        exportable: The network.
        settings: What is wanted.
        title: What the network is called on the page and in the picture.
        say: Told what goes on.

    Raises:
        DataError: The validation data have no sample.
    """
    sample = next(batches(exportable.samples("val", settings.batch), settings.batch), None)
    if sample is None:
        raise DataError("the validation data have no sample to measure the network on")
    measured = measure(
        exportable,
        sample,
        settings.engines,
        threads=settings.threads or torch.get_num_threads(),
        rounds=settings.rounds,
        memory=settings.memory,
        choose=settings.choose,
        say=say,
    )
    document = {"schema": SCHEMA, "title": title, **measured.to_dict()}
    atomic_write(settings.folder / RESULTS, json.dumps(document, indent=1) + "\n")
    atomic_write(settings.folder / PAGE, as_markdown(measured, title, PICTURE))
    draw_engines(settings.folder / PICTURE, document["results"], title)
    return measured


def lines_of(measured: Measured, folder: Path) -> str:
    """What is printed at the end."""
    parts = [as_text(measured), "", gain(measured), f"written to {folder}"]
    return "\n".join(part for index, part in enumerate(parts) if part or index == 1)

"""The verb ``shrink``: a pruned checkpoint in, a smaller dense one out, with what it cost."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, cast

from slr_det.adapter import Adapter, EvalJob, load_adapter
from slr_det.cli import OK
from slr_det.errors import ConfigError
from slr_det.shrink.network import Shrinkage
from slr_det.task import ExtraVerb
from slr_det.yamlio import dump_yaml


class Shrinks(Adapter, Protocol):
    """An adapter that can take dead filters out of its checkpoints."""

    def shrink(self, source: str, target: Path) -> Shrinkage:
        """Write the (averaged) model of ``source`` without its dead filters, as a native checkpoint.

        Raises CheckpointError for a file that cannot be read, ConfigError where nothing can go or the outputs would
        not stay the same; nothing is written then.
        """

    def sums(self, model: str) -> list[tuple[str, ...]]:
        """Layers of a checkpoint or an architecture whose filters are added up, see :func:`slr_det.shrink.sums`."""


def shrink_verb(adapter: str, metric: str) -> ExtraVerb:
    """The verb for a task whose adapter is registered under a name; ``metric`` is the task's headline."""
    return ExtraVerb(
        "shrink",
        "remove the filters that pruning left dead: a smaller, faster dense checkpoint",
        _add_arguments,
        lambda options: _shrink(options, cast(Shrinks, load_adapter(adapter)), metric),
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL.pt", help="pruned with prune.projection=filter or channel, such as pruned.pt"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-o", "--output", metavar="SMALL.pt", help="where the result goes")
    what.add_argument(
        "--groups",
        action="store_true",
        help="only print the layers of a model (or an architecture) that need one mask, as prune.groups",
    )
    parser.add_argument("--data", metavar="DATA", help="evaluate the model before and after on this data set")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="image size of that evaluation")
    parser.add_argument(
        "--device", default="", help="where to evaluate: cpu, 0; default: a GPU if there is one"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _shrink(options: argparse.Namespace, adapter: Shrinks, metric: str) -> int:
    if options.groups:
        print(_groups(adapter.sums(options.model)), end="")
        return OK
    target = Path(options.output)
    if target.resolve() == Path(options.model).resolve():
        raise ConfigError(f"-o {target} is the model itself; give the smaller one another name")
    if not adapter.is_checkpoint(options.model):
        raise ConfigError(
            f"model '{options.model}' is no checkpoint; give a pruned one, such as runs/NAME/pruned.pt"
        )
    result = adapter.shrink(options.model, target)
    sizes = tuple(Path(file).stat().st_size for file in (options.model, target))
    scores = _scores(options, adapter, metric) if options.data else None
    if options.json:
        found: dict[str, Any] = {**asdict(result), "bytes": sizes, "model": str(target)}
        print(json.dumps({**found, **({metric: scores} if scores else {})}, indent=1))
        return OK
    for name, (before, after) in {
        "parameters": result.parameters,
        "filters": result.filters,
        "bytes": sizes,
    }.items():
        print(f"{name:11s} {before:,} -> {after:,} ({after / before:.3f}x)")
    if scores:
        print(f"{metric:11s} {scores[0]:.4f} -> {scores[1]:.4f}")
    print(
        f"outputs     silencing dead filters changed them by {result.silenced:.2g} of the largest, "
        f"removing them by {result.difference:.2g}"
    )
    reasons = Counter({left.why: 0 for left in result.left})
    for left in result.left:
        reasons[left.why] += left.filters
    for why, count in reasons.most_common(5):
        print(f"left        {count} dead filters stay: {why}")
    print(f"model: {target}")
    return OK


def _groups(sums: list[tuple[str, ...]]) -> str:
    """``prune.groups`` as YAML, the layers that are added up in one group each."""
    if not sums:
        return "# no filters are added up in a sum that can shrink: prune.projection=filter is enough\n"
    groups = [
        {
            "name": f"sum{number}",
            "params": [f"{name}.weight" for name in names],
            "projection": "filter",
            "coupled": True,
        }
        for number, names in enumerate(sums, start=1)
    ]
    return dump_yaml({"prune": {"projection": "filter", "groups": groups}})


def _scores(options: argparse.Namespace, adapter: Shrinks, metric: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="slr-det-shrink-") as scratch:
        data = str(adapter.prepare_data(options.data, Path(scratch)))
        keys = adapter.trainer_keys() & {"imgsz", "size"}
        args = dict.fromkeys(keys, options.size) if options.size else {}
        before, after = (
            float(adapter.evaluate(EvalJob(model, data, args, options.device))[metric])
            for model in (options.model, options.output)
        )
    return before, after

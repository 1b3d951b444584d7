"""Upstream's own evaluation of a checkpoint, and batch-norm recalibration."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from slr_det.adapter import EvalJob, TrainJob
from slr_det.data.tusimple.labels import read_rows
from slr_det.masks import recalibrate_batchnorm
from slr_det.metrics import tusimple as ours
from slr_det.models.parsingnet import load
from slr_det_adapters.hidden import Checkout
from slr_det_adapters.randomness import RECALIBRATION, reseed, seed_of
from slr_det_adapters.ufld import building, checkpoints, configs
from slr_det_adapters.ufld.arguments import Arguments
from slr_det_adapters.ufld.checkpoints import Checkpoint
from slr_det_adapters.ufld.tusimple import TEST_LABELS

_MODULE = "evaluation.eval_wrapper"
_PREDICTIONS = "tusimple_eval_tmp.txt"


def evaluate_checkpoint(job: EvalJob) -> dict[str, Any]:
    """TuSimple's accuracy, FP and FN by upstream's ``eval_lane``, and what is known from its predictions beside them.

    ``point_accuracy`` is the paper's accuracy, and ``empty_accuracy`` what a prediction without lanes would have,
    both by :mod:`slr_det.metrics.tusimple`.
    """
    arguments = Arguments.read(job.args)
    device = building.device_of(job.device)
    checkpoint = checkpoints.read(job.model)
    printed: dict[str, float] = {}

    def keep(*words: Any) -> None:
        if len(words) == 2:
            printed[str(words[0])] = float(words[1])
        if job.verbose:
            print(*words)

    with building.opened(arguments.upstream, device) as checkout:
        model = at_work(checkpoint, checkout, device)
        run = checkout.seam(_MODULE, "eval_lane")
        importlib.import_module("scipy.special")  # it imports scipy alone
        make = checkout.seam(_MODULE, "get_test_loader")
        bar = checkout.seam(_MODULE, "dist_tqdm")
        with (
            tempfile.TemporaryDirectory(prefix="slr-det-val-") as scratch,
            checkout.replaced(
                _MODULE,
                dist_print=keep,
                get_test_loader=lambda *args: building.with_workers(make(*args), checkout, arguments.workers),
                dist_tqdm=bar if job.verbose else _bar,
            ),
        ):
            run(model, configs.DATASET, job.data, scratch, checkpoint.network.griding, False, False)
            found = read_rows(Path(scratch) / _PREDICTIONS, predictions=True)
    scores = ours.evaluate(found, read_rows(Path(job.data) / TEST_LABELS))
    return {
        "accuracy": printed["Accuracy"],
        "empty_accuracy": scores.empty_accuracy,
        "point_accuracy": scores.point_accuracy,
        "fp": printed["FP"],
        "fn": printed["FN"],
        "frames": scores.clips,
        "per_class": {},
    }


def at_work(checkpoint: Checkpoint, checkout: Checkout, device: torch.device) -> nn.Module:
    """Upstream's network of a checkpoint as it finds lanes: without the auxiliary head, in evaluation mode."""
    model = building.network(checkpoint.network, checkout, device, aux=False)
    load(model, checkpoint.state, checkpoint.path)
    return model.eval()


def recalibrate_checkpoint(source: str, target: Path, job: TrainJob) -> None:
    """Write ``source`` with batch-norm statistics averaged over batches of upstream's training loader."""
    arguments = Arguments.read(job.args)
    device = building.device_of(job.device)
    checkpoint = checkpoints.read(source)
    with building.opened(arguments.upstream, device) as checkout:
        config = configs.for_phase(
            source, arguments, checkout, given=checkpoint.network, own=checkpoint.card.get("config")
        )
        batches = building.train_loader(config, Path(job.data), checkout, arguments.workers)
        model = building.network(checkpoint.network, checkout, device, aux=checkpoint.network.aux)
        load(model, checkpoint.state, source)
        reseed(seed_of(job.seed, RECALIBRATION))
        recalibrate_batchnorm(model, _some(batches, arguments.recalibration_frames, device, job.title))
    checkpoints.write(target, {"model": model.state_dict(), checkpoints.KEY: checkpoint.card})


def _some(batches: Any, frames: int, device: torch.device, title: str) -> Iterator[torch.Tensor]:
    count = min(-(-frames // batches.batch_size), len(batches))
    with tqdm(total=count, desc=title, unit="batch", dynamic_ncols=True) as bar:
        for _, batch in zip(range(count), batches, strict=False):
            yield batch[0].to(device)
            bar.update()


def _bar(batches: Any) -> Any:
    return tqdm(batches, desc="evaluation", unit="batch", dynamic_ncols=True, leave=False)

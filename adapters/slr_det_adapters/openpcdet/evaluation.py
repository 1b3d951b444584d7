"""OpenPCDet's own evaluation of a checkpoint, and batch-norm recalibration."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from slr_det.adapter import EvalJob, TrainJob
from slr_det.data.kitti.labels import KittiObjects
from slr_det.masks import recalibrate_batchnorm
from slr_det.metrics.kitti import HEADLINE, evaluate, fractions
from slr_det.metrics.kitti_rules import DIFFICULTIES, OVERLAPS
from slr_det_adapters.openpcdet import building, checkpoints, configs, kitti
from slr_det_adapters.openpcdet.arguments import Arguments
from slr_det_adapters.openpcdet.inject import Checkout
from slr_det_adapters.randomness import RECALIBRATION, reseed, seed_of

_EVALUATION = "eval_utils.eval_utils"
_EVALUATOR = "pcdet.datasets.kitti.kitti_object_eval_python.eval"
#: The kinds of box of a row of its table of overlaps, and its order of classes.
_KINDS = ("bbox", "bev", "3d")
_CLASSES = ("Car", "Pedestrian", "Cyclist", "Van", "Person_sitting", "Truck")
#: AP in percent by measure, class and difficulty.
Tables = dict[str, dict[str, dict[str, float]]]


def evaluate_checkpoint(job: EvalJob) -> dict[str, Any]:
    """AP at 40 recall levels in the form of :func:`common_form`.

    Predictions come from OpenPCDet's ``eval_one_epoch``. They are scored by its own KITTI evaluation where numba is
    installed, and by :mod:`slr_det.metrics.kitti` where it is not, which a warning says.
    """
    arguments = Arguments.read(job.args)
    device = building.device_of(job.device)
    content, card = checkpoints.read(job.model)
    with building.opened(arguments.upstream, device) as checkout:
        config = configs.with_arguments(card["config"], arguments)
        ready = configs.live(config, checkout)
        logger = building.logger_of(None, job.verbose)
        batches = building.loader(
            ready, Path(job.data), checkout, training=False, workers=arguments.workers, logger=logger
        )
        model = building.network(config, checkout, device)
        checkpoints.load_into(model, content["model_state"], job.model)
        scores = Scores(batches.dataset, arguments.overlap, checkout)
        # Its own method, or one that gives the same table at other overlaps or without numba.
        batches.dataset.evaluation = scores
        with tempfile.TemporaryDirectory(prefix="slr-det-val-") as scratch, _bars(checkout, job.verbose):
            checkout.call(
                _EVALUATION,
                "eval_one_epoch",
                cfg=ready,
                args=SimpleNamespace(save_to_file=False, infer_time=False),
                model=model,
                dataloader=batches,
                epoch_id="last",
                logger=logger,
                dist_test=False,
                result_dir=Path(scratch),
            )
    return common_form(scores.tables, len(batches.dataset))


def common_form(tables: Tables, frames: int) -> dict[str, Any]:
    """Metrics of a report, as :func:`slr_det.metrics.kitti.fractions` names them, and the number of ``frames``.

    Args:
        tables: AP in percent by measure, class and difficulty; ``3d_R40`` is among the measures.
        frames: How many frames were evaluated.
    """
    return {**fractions(tables), "frames": frames}


class Scores:
    """Stands in for a data set's ``evaluation`` and keeps what it found.

    Attributes:
        tables: AP at 40 recall levels in percent, by measure, class and difficulty.
    """

    def __init__(self, dataset: Any, overlap: str, checkout: Checkout) -> None:
        self._dataset = dataset
        self._own = dataset.evaluation
        self._overlap = overlap
        self._checkout = checkout
        self.tables: Tables = {}

    def __call__(
        self, detections: Sequence[Mapping[str, Any]], classes: Sequence[str], **others: Any
    ) -> tuple[str, dict[str, float]]:
        """Score detections, as OpenPCDet hands them over; its log text and its dictionary of results."""
        if importlib.util.find_spec("numba") is None:
            kitti.warn_once(
                "numba is not installed, which OpenPCDet's evaluation needs; slr_det's evaluates instead "
                "(for OpenPCDet's own run: uv pip install numba)"
            )
            self.tables = self.ours(detections, classes)
        elif self._overlap == "standard":
            text, found = self._own(list(detections), list(classes), **others)
            self.tables = standard(found, classes)
            return text, found
        else:
            self.tables = self.own_at(detections, classes)
        lines = [
            f"{name} 3d AP_R40 ({self._overlap}): "
            + ", ".join(f"{values[level]:.4f}" for level in DIFFICULTIES)
            for name, values in self.tables[HEADLINE].items()
        ]
        return "\n".join(lines), {}

    def own_at(self, detections: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> Tables:
        """OpenPCDet's evaluation at any overlaps; by itself it knows two sets and returns one."""
        codes = [_CLASSES.index(name) for name in classes]
        least = np.array([[[OVERLAPS[self._overlap][kind][name] for name in classes] for kind in _KINDS]])
        found = self._checkout.seam(_EVALUATOR, "do_eval")(
            self._truths(), list(detections), codes, least, compute_aos=False
        )
        # bbox, bev, 3d and aos at 11 levels, then at 40; each (class, difficulty, overlap).
        at_40 = dict(zip(_KINDS, found[4:7], strict=True))
        return {
            f"{kind}_R40": {
                name: dict(zip(DIFFICULTIES, map(float, at_40[kind][row, :, 0]), strict=True))
                for row, name in enumerate(classes)
            }
            for kind in reversed(_KINDS)
        }

    def ours(self, detections: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> Tables:
        """The evaluation of slr_det."""
        truths = [_objects(truth, scored=False) for truth in self._truths()]
        found = [_objects(detection, scored=True) for detection in detections]
        result = evaluate(truths, found, list(classes), self._overlap)
        return {measure: table for measure, table in result.items() if measure.endswith("_R40")}

    def _truths(self) -> list[dict[str, Any]]:
        return [info["annos"] for info in self._dataset.kitti_infos]


def standard(found: Mapping[str, float], classes: Sequence[str]) -> Tables:
    """OpenPCDet's dictionary, ``{"Car_3d/easy_R40": 90.1, ...}``, as tables; ``image`` is its word for ``bbox``."""
    kinds = {"3d": "3d", "bev": "bev", "bbox": "image", "aos": "aos"}
    return {
        f"{kind}_R40": {
            name: {level: float(found[f"{name}_{word}/{level}_R40"]) for level in DIFFICULTIES}
            for name in classes
        }
        for kind, word in kinds.items()
        if f"{classes[0]}_{word}/easy_R40" in found
    }


def _objects(annotations: Mapping[str, Any], *, scored: bool) -> KittiObjects:
    """Objects of a frame in KITTI's order of dimensions; OpenPCDet has length, height, width."""
    count = len(annotations["name"])
    return KittiObjects(
        names=tuple(str(name) for name in annotations["name"]),
        truncated=np.asarray(annotations["truncated"], dtype=np.float64),
        occluded=np.asarray(annotations["occluded"]).astype(np.int64),
        alpha=np.asarray(annotations["alpha"], dtype=np.float64),
        boxes_2d=np.asarray(annotations["bbox"], dtype=np.float64).reshape(count, 4),
        dimensions=np.asarray(annotations["dimensions"], dtype=np.float64).reshape(count, 3)[:, [1, 2, 0]],
        locations=np.asarray(annotations["location"], dtype=np.float64).reshape(count, 3),
        rotations=np.asarray(annotations["rotation_y"], dtype=np.float64),
        scores=np.asarray(annotations["score"], dtype=np.float64) if scored else None,
    )


def recalibrate_checkpoint(source: str, target: Path, job: TrainJob) -> None:
    """Write ``source`` with batch-norm statistics averaged over batches of OpenPCDet's training loader."""
    arguments = Arguments.read(job.args)
    device = building.device_of(job.device)
    content, card = checkpoints.read(source)
    with building.opened(arguments.upstream, device) as checkout:
        config = configs.with_arguments(card["config"], arguments)
        batches = building.loader(
            configs.live(config, checkout),
            Path(job.data),
            checkout,
            training=True,
            workers=arguments.workers,
            logger=building.logger_of(None, job.verbose),
        )
        model = building.network(config, checkout, device)
        checkpoints.load_into(model, content["model_state"], source)
        reseed(seed_of(job.seed, RECALIBRATION))
        recalibrate_batchnorm(
            model, _some(batches, arguments.recalibration_frames, checkout, job.title), _forward
        )
    checkpoints.write(target, {**content, "model_state": model.state_dict()})


def _some(batches: Any, frames: int, checkout: Checkout, title: str) -> Iterator[dict[str, Any]]:
    place = checkout.seam("pcdet.models", "load_data_to_gpu")
    count = min(-(-frames // batches.batch_size), len(batches))
    with tqdm(total=count, desc=title, unit="batch", dynamic_ncols=True) as bar:
        for _, batch in zip(range(count), batches, strict=False):
            place(batch)
            yield batch
            bar.update()


@torch.no_grad()
def _forward(model: nn.Module, batch: dict[str, Any]) -> Any:
    """Through every module, without the suppression of boxes that follows in evaluation."""
    for module in model.module_list:  # type: ignore[union-attr]
        batch = module(batch)
    return batch


@contextlib.contextmanager
def _bars(checkout: Checkout, verbose: bool) -> Iterator[None]:
    """A short progress bar in place of OpenPCDet's, unless its own is wanted."""
    before = checkout.seam(_EVALUATION, "tqdm")
    module: Any = sys.modules[_EVALUATION]
    if not verbose:
        module.tqdm = SimpleNamespace(
            tqdm=lambda *args, **options: tqdm(*args, **{**options, "desc": "evaluation", "leave": False})
        )
    try:
        yield
    finally:
        module.tqdm = before

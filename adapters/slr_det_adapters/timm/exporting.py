"""A classifier for export: images in, logits out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from slr_det.adapter import EvalJob
from slr_det.export.exportable import Exportable, Network, Tensors
from slr_det.export.onnxfile import as_text
from slr_det_adapters.subsets import spread
from slr_det_adapters.timm import checkpoints
from slr_det_adapters.timm.arguments import Arguments
from slr_det_adapters.timm.datasets import data_of, require_fit
from slr_det_adapters.timm.evaluation import score_answers
from slr_det_adapters.timm.loaders import images_of, loader, prepared
from slr_det_adapters.timm.starting import require_size


def exportable_of(job: EvalJob) -> Exportable:
    """The classifier of a checkpoint: ``images`` (N, channels, height, width), normalised, to ``logits``."""
    arguments = Arguments.read(job.args)
    data = data_of(job.data, arguments)
    model, card = checkpoints.read(job.model)
    require_fit(card, data, job.model, job.data)
    card = card.at(arguments.size)
    require_size(model, card)

    def samples(split: str, count: int) -> Iterator[Tensors]:
        chosen = data.train if split == "train" else data.val
        images = images_of(chosen, card, arguments, train=False)
        order = list(spread(range(len(chosen)), count))
        for batch in loader(images, arguments, train=False, sampler=order, batch=1):
            if int(batch["labels"]) >= 0:  # else it cannot be decoded
                yield (prepared(batch["images"], card, channels_last=False),)

    def evaluate(network: Network) -> dict[str, Any]:
        def answer(images: Tensor) -> Tensor:
            return network(images)[0]

        found = score_answers(answer, card, data, arguments, title="evaluation", quiet=job.verbose)
        return {**found.metrics, "images": found.images, "per_class": found.per_class}

    metadata = {
        "task": "classify",
        "classes": as_text(list(card.classes)),
        "mean": as_text(list(card.mean)),
        "std": as_text(list(card.std)),
        "input": "images in [0, 1], minus mean, divided by std, channels first",
    }
    return Exportable(model, ("images",), ("logits",), samples, evaluate, metadata)

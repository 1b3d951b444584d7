"""A detector for export: images in, decoded boxes and scores out, in a file that plain ultralytics runs too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from slr_det.adapter import EvalJob
from slr_det.errors import ConfigError, DataError
from slr_det.export.exportable import Exportable, Network, Tensors
from slr_det_adapters.subsets import spread
from slr_det_adapters.ultralytics import models
from slr_det_adapters.ultralytics.adapter import quiet
from slr_det_adapters.ultralytics.evaluation import evaluate_file
from slr_det_adapters.ultralytics.recalibration import plain_images

_LICENSE = "AGPL-3.0 (https://ultralytics.com/license)"


def exportable_of(job: EvalJob) -> Exportable:
    """The detector of a checkpoint: ``images`` (N, 3, size, size) in [0, 1] to ``output0``, as ultralytics writes it.

    The images are square, whatever their shape: a file's input has one size.
    """
    model, args = models.averaged_model(job.model)
    head = model.model[-1]
    if not hasattr(head, "stride"):
        raise ConfigError(
            f"model={job.model} is an RT-DETR, which `export` does not write: it ranks its queries inside the network; "
            "use ultralytics' own: yolo export format=onnx"
        )
    head.export, head.format, head.dynamic, head.shape = True, "onnx", False, None
    split = str(job.args.get("split", "val"))

    def samples(which: str, count: int) -> Iterator[Tensors]:
        with quiet(job.verbose):
            images, _ = plain_images(model, args, job.data, job.args, split if which == "val" else which)
        for number in spread(range(len(images)), count):
            yield (images[number]["img"].unsqueeze(0).float() / 255,)

    first = next(samples("val", 1), None)
    if first is None:
        raise DataError(f"data={job.data}: its split '{split}' has no image")
    size = list(first[0].shape[-2:])

    def evaluate(network: Network) -> dict[str, Any]:
        with quiet(job.verbose):
            return evaluate_file(str(network.path), job, size[0])

    metadata = {
        "task": "detect",
        "names": str(dict(model.names)),
        "stride": str(int(max(model.stride))),
        "imgsz": str(size),
        "channels": str(first[0].shape[1]),
        "end2end": str(bool(getattr(head, "end2end", False))),
        "license": _LICENSE,
        "input": "letterboxed RGB images in [0, 1], channels first",
    }
    return Exportable(
        model.float().eval(),
        ("images",),
        ("output0",),
        samples,
        evaluate,
        metadata,
        # The fixed ramp 0, 1, ... of the box distributions: in 8 bits every box would be off.
        keep_float=(f"model.{len(model.model) - 1}.dfl.conv.weight",) if hasattr(head.dfl, "conv") else (),
    )

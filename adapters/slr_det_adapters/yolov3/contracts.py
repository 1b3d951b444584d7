"""What a checkout of ultralytics/yolov3 has to do, run by ``slr-det upstream check``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from slr_det.adapter import EvalJob, load_adapter
from slr_det.data.shapes import build
from slr_det.upstream.project import Contract, ContractError
from slr_det_adapters import contracting
from slr_det_adapters.yolov3 import building, checkpoints, inject

_CPU = torch.device("cpu")
_PAPERS = {"yolov3-tiny.yaml": 8_852_366, "yolov3.yaml": 61_949_149, "yolov3-spp.yaml": 62_998_749}
#: An architecture in upstream's words for which an epoch takes a second.
_CLASSES = 6
_SMALL = f"""\
nc: {_CLASSES}
depth_multiple: 1.0
width_multiple: 1.0
anchors: [[10, 14, 23, 27, 37, 58], [81, 82, 135, 169, 344, 319]]
backbone:
  [[-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [32, 3, 2]], [-1, 1, Conv, [32, 3, 1]]]
head:
  [[-1, 1, Conv, [32, 3, 1]], [-1, 1, Conv, [32, 3, 2]], [[4, 5], 1, Detect, [nc, anchors]]]
"""
_SIZE = 64
_RHO = 1e4  # upstream clips the length of a gradient, so that nothing overshoots


def network(checkout: Path, folder: Path) -> str:
    """Build the three networks of the paper, at their sizes."""
    with building.opened(checkout, _CPU) as upstream:
        for name, expected in _PAPERS.items():
            found = sum(p.numel() for p in building.network(name, upstream, None).parameters())
            if found != expected:
                raise ContractError(f"{name} has {found:,} parameters, expected {expected:,}")
    return ", ".join(f"{count:,}" for count in _PAPERS.values()) + " parameters"


def exchange(checkout: Path, folder: Path) -> str:
    """What is written is read by upstream's own loader, and without upstream, to the same weights."""
    start = _start(checkout, folder)
    with building.opened(checkout, _CPU) as upstream:
        theirs = upstream.seam("models.experimental", "attempt_load")(str(start), fuse=False)
        ours = checkpoints.read(str(start))
        contracting.same_weights(ours.parameters(), dict(theirs.named_parameters()), "read without upstream")
        theirs.load_state_dict(ours.model.state_dict(), strict=True)
    return ""


def training(checkout: Path, folder: Path) -> str:
    """An epoch of a few pictures; see :func:`slr_det_adapters.contracting.trains`."""
    args = {**_arguments(checkout), "lr0": 0.01, "warmup_epochs": 0, "val": False}
    start, data = _start(checkout, folder), _data(folder)
    return contracting.trains(load_adapter("yolov3"), start, data, folder / "train", args, _RHO)


def evaluation(checkout: Path, folder: Path) -> str:
    """The scores of a network that has learned nothing."""
    job = EvalJob(str(_start(checkout, folder)), str(_data(folder)), _arguments(checkout), device="cpu")
    return contracting.evaluates(load_adapter("yolov3"), job, ("AP50", "trainer_map50"))


def _arguments(checkout: Path) -> dict[str, Any]:
    return {"upstream": str(checkout), "imgsz": _SIZE, "batch": 4, "workers": 0}


def _start(checkout: Path, folder: Path) -> Path:
    """A checkpoint with random weights."""
    path = folder / "start.pt"
    if not path.is_file():
        architecture = folder / "small.yaml"
        architecture.write_text(_SMALL, encoding="utf-8")
        with building.opened(checkout, _CPU) as upstream:
            torch.manual_seed(0)
            net: Any = building.network(str(architecture), upstream, None)
            net.nc = _CLASSES  # as upstream's train() leaves it
            checkpoints.write(path, checkpoints.for_inference(net, {}, "start"))
    return path


def _data(folder: Path) -> Path:
    return build(folder / "data", images=(20, 4), size=_SIZE, progress=False)


UPSTREAM = replace(
    inject.UPSTREAM,
    around=building.around,
    contracts=(
        Contract("network", "the paper's three are built at their sizes", network),
        Contract("checkpoints", "read by upstream and without it, to the same weights", exchange),
        Contract("training", "an epoch is trained with the penalty, saved and resumed", training),
        Contract("evaluation", "it finds boxes and scores them", evaluation),
    ),
)

"""What a checkout of Ultra-Fast-Lane-Detection has to do, run by ``slr-det upstream check``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from slr_det.adapter import EvalJob, load_adapter
from slr_det.data.lane_world import road_dataset
from slr_det.models.parsingnet import ParsingNet, ParsingNetConfig, load
from slr_det.models.weights import read_state_dict
from slr_det.upstream.project import Contract
from slr_det_adapters import contracting
from slr_det_adapters.ufld import building, checkpoints, configs, inject

_CPU = torch.device("cpu")
_SMALL = ParsingNetConfig(griding=10, aux=False)
_SETTINGS = {
    "use_aux": False,
    "griding_num": _SMALL.griding,
    "warmup": None,
    "optimizer": "SGD",
    "momentum": 0.0,
    "weight_decay": 0.0,
}
_RATE = 1e-4


def network(checkout: Path, folder: Path) -> str:
    """Build the network, with and without its auxiliary head, and exchange weights with ours."""
    with building.opened(checkout, _CPU) as upstream:
        said = ""
        for config in (ParsingNetConfig(griding=_SMALL.griding), _SMALL):
            theirs = building.network(config, upstream, _CPU, aux=config.aux)
            said = contracting.same_network(theirs, ParsingNet(config))
        return said


def exchange(checkout: Path, folder: Path) -> str:
    """Upstream saves and we read; we write and upstream's network takes it strictly."""
    with building.opened(checkout, _CPU) as upstream:
        theirs = building.network(_SMALL, upstream, _CPU, aux=False)
        optimizer = torch.optim.SGD(theirs.parameters(), lr=_RATE)
        upstream.seam("utils.common", "save_model")(theirs, optimizer, 7, str(folder), False)
        saved = folder / "ep007.pth"
        ours = ParsingNet(_SMALL)
        load(ours, read_state_dict(saved), str(saved))
        contracting.same_weights(ours.state_dict(), theirs.state_dict(), "read by slr_det")
        start = _start(folder)
        theirs.load_state_dict(torch.load(start, map_location="cpu")["model"], strict=True)
        contracting.same_weights(theirs.state_dict(), checkpoints.read(str(start)).state, "read upstream")
    return ""


def training(checkout: Path, folder: Path) -> str:
    """An epoch of two frames; see :func:`slr_det_adapters.contracting.trains`."""
    args = {**_arguments(checkout), "batch": 1, "lr": _RATE, "set": _SETTINGS}
    return contracting.trains(
        load_adapter("ufld"), _start(folder), _data(folder), folder / "train", args, 0.1 / _RATE
    )


def evaluation(checkout: Path, folder: Path) -> str:
    """The scores of a network that has learned nothing."""
    job = EvalJob(str(_start(folder)), str(_data(folder)), _arguments(checkout), device="cpu")
    return contracting.evaluates(load_adapter("ufld"), job, ("accuracy", "fp", "fn"))


def _arguments(checkout: Path) -> dict[str, Any]:
    return {"upstream": str(checkout), "workers": 0}


def _start(folder: Path) -> Path:
    """A checkpoint with random weights."""
    path = folder / "start.pth"
    if not path.is_file():
        torch.manual_seed(0)
        content = {"model": ParsingNet(_SMALL).state_dict(), checkpoints.KEY: checkpoints.card()}
        checkpoints.write(path, content)
    return path


def _data(folder: Path) -> Path:
    data = road_dataset(folder / "data", frames=(2, 1), progress=False)
    return load_adapter("ufld").prepare_data(str(data), folder / "data")


UPSTREAM = replace(
    inject.UPSTREAM,
    around=lambda model: configs.around(model) if configs.is_config(model) else None,
    contracts=(
        Contract(
            "network", "it is built, and its weights are those of slr_det's, strictly, both ways", network
        ),
        Contract("checkpoints", "each side reads what the other has written", exchange),
        Contract("training", "an epoch is trained with the penalty, saved and resumed", training),
        Contract("evaluation", "it finds lanes and scores them", evaluation),
    ),
)

"""What a checkout of OpenPCDet has to do, run by ``slr-det upstream check``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from slr_det.adapter import EvalJob, load_adapter
from slr_det.data.kitti_world import world_dataset
from slr_det.models.pointpillars import PointPillars, from_openpcdet
from slr_det.upstream.project import Contract
from slr_det_adapters import contracting
from slr_det_adapters.openpcdet import building, checkpoints, configs, inject
from slr_det_adapters.openpcdet.arguments import Arguments

_CPU = torch.device("cpu")
_CONFIG = "cfgs/kitti_models/pointpillar.yaml"
#: A network and a range for which an epoch takes a second.
_SMALL = {
    "DATA_CONFIG.POINT_CLOUD_RANGE": [0, -20.48, -3, 40.96, 20.48, 1],
    "MODEL.VFE.NUM_FILTERS": [16],
    "MODEL.MAP_TO_BEV.NUM_BEV_FEATURES": 16,
    "MODEL.BACKBONE_2D.LAYER_NUMS": [1, 1, 1],
    "MODEL.BACKBONE_2D.NUM_FILTERS": [16, 16, 16],
    "MODEL.BACKBONE_2D.NUM_UPSAMPLE_FILTERS": [16, 16, 16],
}
_FRAMES = (4, 1)  # steps, of which the learning rate's cycle needs a few
_RHO = 1e6  # its optimizer is indifferent to the length of a gradient


def network(checkout: Path, folder: Path) -> str:
    """Build the network of its own configuration, and exchange weights with ours."""
    with building.opened(checkout, _CPU) as upstream:
        config = configs.read(_CONFIG, upstream)
        theirs = building.network(config, upstream, _CPU)
        return contracting.same_network(theirs, PointPillars(from_openpcdet(config)))


def exchange(checkout: Path, folder: Path) -> str:
    """What upstream's trainer saves, we read; what we write, its own loader takes."""
    start = _start(checkout, folder)
    with building.opened(checkout, _CPU) as upstream:
        config = _config(upstream)
        theirs: Any = building.network(config, upstream, _CPU)
        theirs.load_params_from_file(str(start), building.logger_of(None, False), to_cpu=True)
        content, _ = checkpoints.read(str(start))
        contracting.same_weights(theirs.state_dict(), content["model_state"], "read upstream")
        saved = folder / "theirs.pth"
        torch.save(upstream.seam("train_utils.train_utils", "checkpoint_state")(theirs, None, 3, 40), saved)
        ours = PointPillars(from_openpcdet(config))
        checkpoints.load_into(ours, checkpoints.read_any(str(saved))["model_state"], str(saved))
        contracting.same_weights(ours.state_dict(), theirs.state_dict(), "read by slr_det")
    return ""


def training(checkout: Path, folder: Path) -> str:
    """An epoch of a few frames; see :func:`slr_det_adapters.contracting.trains`."""
    start, data = _start(checkout, folder), _data(folder)
    return contracting.trains(
        load_adapter("openpcdet"), start, data, folder / "train", _arguments(checkout), _RHO
    )


def evaluation(checkout: Path, folder: Path) -> str:
    """The scores of a network that has learned nothing."""
    job = EvalJob(str(_start(checkout, folder)), str(_data(folder)), _arguments(checkout), device="cpu")
    return contracting.evaluates(load_adapter("openpcdet"), job, ("moderate", "bev_R40_moderate"))


def _arguments(checkout: Path) -> dict[str, Any]:
    return {"upstream": str(checkout), "batch": 1, "workers": 0}


def _config(upstream: inject.Checkout) -> dict[str, Any]:
    return configs.with_arguments(configs.read(_CONFIG, upstream), Arguments.read({"set": _SMALL}))


def _start(checkout: Path, folder: Path) -> Path:
    """A checkpoint with random weights."""
    path = folder / "start.pth"
    if not path.is_file():
        with building.opened(checkout, _CPU) as upstream:
            torch.manual_seed(0)
            config = _config(upstream)
            net = building.network(config, upstream, _CPU)
        card = checkpoints.card_of(net, config)
        checkpoints.write(path, {"model_state": net.state_dict(), "version": "pcdet", checkpoints.KEY: card})
    return path


def _data(folder: Path) -> Path:
    data = world_dataset(folder / "data", frames=_FRAMES, progress=False)
    return load_adapter("openpcdet").prepare_data(str(data), folder / "data")


UPSTREAM = replace(
    inject.UPSTREAM,
    around=lambda model: configs.around(model) if configs.is_config(model) else None,
    contracts=(
        Contract(
            "network", "it is built, and its weights are those of slr_det's, strictly, both ways", network
        ),
        Contract("checkpoints", "each side reads what the other has written", exchange),
        Contract("training", "an epoch is trained with the penalty, saved and resumed", training),
        Contract("evaluation", "it finds boxes and they are scored", evaluation),
    ),
)

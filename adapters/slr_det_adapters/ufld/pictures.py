"""Frames with true and predicted lanes, dense against pruned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from slr_det.adapter import EvalJob, Picture
from slr_det.data.pictures import decode
from slr_det.data.tusimple.anchors import LABEL_SIZE
from slr_det.data.tusimple.labels import read_rows
from slr_det.plots.lanes import draw_lanes
from slr_det_adapters.ufld import building, checkpoints
from slr_det_adapters.ufld.arguments import Arguments
from slr_det_adapters.ufld.configs import DATASET
from slr_det_adapters.ufld.evaluation import at_work
from slr_det_adapters.ufld.tusimple import HEIGHTS, TEST_LABELS

_PICTURES = 2
_CAPTION = "Predicted lanes are orange, true ones thin, white and dashed on top of them."


@torch.no_grad()
def illustrate(models: Mapping[str, str], job: EvalJob, folder: Path) -> list[Picture]:
    """Draw the evaluated frames with the most points of lanes, one panel per model."""
    arguments = Arguments.read(job.args)
    device = building.device_of(job.device)
    read = {name: checkpoints.read(path) for name, path in models.items()}
    root = Path(job.data)
    rows = read_rows(root / TEST_LABELS)
    fullest = sorted(range(len(rows)), key=lambda n: int((rows[n].lanes >= 0).sum()), reverse=True)[
        :_PICTURES
    ]
    drawn = []
    with building.opened(arguments.upstream, device) as checkout:
        nets = {name: at_work(checkpoint, checkout, device) for name, checkpoint in read.items()}
        frames = building.with_workers(
            checkout.seam("data.dataloader", "get_test_loader")(1, job.data, DATASET, False), checkout, 0
        ).dataset
        lanes_of = checkout.seam("evaluation.eval_wrapper", "generate_tusimple_lines")
        for number, index in enumerate(fullest):
            image, _ = frames[index]
            found = {
                name: np.array(
                    lanes_of(net(image[None].to(device))[0], image.shape[1:], read[name].network.griding)
                )
                for name, net in nets.items()
            }
            key = f"lanes_{number}"
            frame = decode(str(root / rows[index].raw_file)).resize(LABEL_SIZE, Image.Resampling.BILINEAR)
            draw_lanes(frame, rows[index].lanes, found, HEIGHTS, folder / f"{key}.png")
            name = rows[index].raw_file.partition("/")[2]
            drawn.append(Picture(key, f"{key}.png", f"Frame {name}", _CAPTION))
    return drawn

"""Frames with true and predicted lanes, dense against pruned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from slr_det.adapter import EvalJob, Picture
from slr_det.data.pictures import decode
from slr_det.data.tusimple import LABEL_SIZE
from slr_det.plots.lanes import draw_lanes
from slr_det_adapters.lane.arguments import Arguments
from slr_det_adapters.lane.data import collate, open_data, plain_frames
from slr_det_adapters.lane.evaluation import at_work, predicted
from slr_det_adapters.lane.trainable import Trainable

_PICTURES = 2
_CAPTION = "Predicted lanes are orange, true ones thin, white and dashed on top of them."


@torch.no_grad()
def illustrate(models: Mapping[str, str], job: EvalJob, folder: Path) -> list[Picture]:
    """Draw the validation frames with the most points of lanes, one panel per model."""
    arguments = Arguments.read(job.args)
    nets = {name: at_work(path, job.device, arguments) for name, path in models.items()}
    data = open_data(job.data)
    config = next(iter(nets.values())).config
    frames = plain_frames(data, config, arguments, arguments.val_frames)
    points = [int(np.count_nonzero(row.lanes >= 0)) for row in frames.rows]
    fullest = sorted(range(len(frames)), key=lambda number: points[number], reverse=True)[:_PICTURES]
    drawn = []
    for place, number in enumerate(fullest):
        row = frames.rows[number]
        images = collate([frames[number]])["images"]
        found = {}
        for name, net in nets.items():
            model = Trainable(net, channels_last=arguments.channels_last).eval()
            (answer,) = model(images.to(next(net.parameters()).device), mode="predict")
            found[name] = predicted(frames, number, answer).lanes
        picture = decode(str(data.image(row))).resize(LABEL_SIZE, Image.Resampling.BILINEAR)
        key = f"lanes_{place + 1}"
        draw_lanes(picture, row.lanes, found, row.h_samples, folder / f"{key}.png")
        drawn.append(Picture(key, f"{key}.png", f"Frame {row.raw_file}", _CAPTION))
    return drawn

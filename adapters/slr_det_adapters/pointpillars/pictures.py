"""Scans with true and predicted boxes, dense against pruned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from slr_det.adapter import EvalJob, Picture
from slr_det.plots.scans import CAPTION, LOOKED_AT, busiest, draw_scan
from slr_det_adapters.pointpillars.arguments import Arguments
from slr_det_adapters.pointpillars.data import Collate, open_data, plain_frames
from slr_det_adapters.pointpillars.evaluation import at_work
from slr_det_adapters.pointpillars.trainable import Trainable


@torch.no_grad()
def illustrate(models: Mapping[str, str], job: EvalJob, folder: Path) -> list[Picture]:
    """Draw the validation frames with the most objects in range, one panel per model."""
    arguments = Arguments.read(job.args)
    data = open_data(job.data)
    nets = {name: at_work(path, job.device, arguments) for name, path in models.items()}
    config = next(iter(nets.values())).config
    frames = plain_frames(data, "val", config, arguments, arguments.val_frames)
    low_x, low_y, _, high_x, high_y, _ = config.point_range
    area = (low_x, low_y, high_x, high_y)
    looked_at = [frames[index] for index in range(min(len(frames), LOOKED_AT))]
    drawn = []
    for index in busiest((frame.boxes for frame in looked_at), area):
        frame = looked_at[index]
        found = {}
        for name, net in nets.items():
            model = Trainable(net, score=arguments.score or None).eval()
            batch = model.data_preprocessor.to(next(net.parameters()).device)(Collate(config, False)([frame]))
            (detections,) = model(**batch, mode="predict")
            found[name] = (detections.boxes.cpu(), detections.scores.cpu(), detections.labels.cpu())
        key = f"scan_{frame.frame_id}"
        draw_scan(frame.points, frame.boxes, found, data.classes, folder / f"{key}.png", area=area)
        drawn.append(Picture(key, f"{key}.png", f"Frame {frame.frame_id} from above", CAPTION))
    return drawn

"""Scans with true and predicted boxes, dense against pruned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from slr_det.adapter import EvalJob, Picture
from slr_det.plots.scans import draw_scan
from slr_det_adapters.pointpillars.arguments import Arguments
from slr_det_adapters.pointpillars.data import Collate, open_data, plain_frames
from slr_det_adapters.pointpillars.evaluation import at_work
from slr_det_adapters.pointpillars.trainable import Trainable

_PICTURES = 2
_LOOKED_AT = 50  # frames that the pictures are chosen from


@torch.no_grad()
def illustrate(models: Mapping[str, str], job: EvalJob, folder: Path) -> list[Picture]:
    """Draw the validation frames with the most objects in range, one panel per model."""
    arguments = Arguments.read(job.args)
    data = open_data(job.data)
    nets = {name: at_work(path, job.device, arguments) for name, path in models.items()}
    config = next(iter(nets.values())).config
    frames = plain_frames(data, "val", config, arguments, arguments.val_frames)
    low_x, low_y, _, high_x, high_y, _ = config.point_range

    def objects(index: int) -> int:
        boxes = frames[index].boxes
        inside = (boxes[:, 0] > low_x) & (boxes[:, 0] < high_x)
        return int((inside & (boxes[:, 1] > low_y) & (boxes[:, 1] < high_y)).sum())

    busiest = sorted(range(min(len(frames), _LOOKED_AT)), key=objects, reverse=True)[:_PICTURES]
    drawn = []
    for index in busiest:
        frame = frames[index]
        found = {}
        for name, net in nets.items():
            model = Trainable(net, score=arguments.score or None).eval()
            batch = model.data_preprocessor.to(next(net.parameters()).device)(Collate(config, False)([frame]))
            (detections,) = model(**batch, mode="predict")
            found[name] = (detections.boxes.cpu(), detections.scores.cpu(), detections.labels.cpu())
        file = f"scan_{frame.frame_id}.png"
        area = (low_x, low_y, high_x, high_y)
        draw_scan(frame.points, frame.boxes, found, data.classes, folder / file, area=area)
        drawn.append(
            Picture(
                f"scan_{frame.frame_id}",
                file,
                f"Frame {frame.frame_id} from above",
                "True boxes are filled, predicted ones are outlines; a line out of the front shows the heading.",
            )
        )
    return drawn

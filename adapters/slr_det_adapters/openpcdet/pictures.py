"""Scans with true and predicted boxes, dense against pruned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from slr_det.adapter import EvalJob, Picture
from slr_det.plots.scans import CAPTION, LOOKED_AT, busiest, draw_scan
from slr_det_adapters.openpcdet import building, checkpoints, configs
from slr_det_adapters.openpcdet.arguments import Arguments


@torch.no_grad()
def illustrate(models: Mapping[str, str], job: EvalJob, folder: Path) -> list[Picture]:
    """Draw the validation frames with the most objects in range, one panel per model."""
    arguments = Arguments.read(job.args)
    device = building.device_of(job.device)
    read = {name: checkpoints.read(path) for name, path in models.items()}
    drawn = []
    with building.opened(arguments.upstream, device) as checkout:
        config = configs.with_arguments(next(iter(read.values()))[1]["config"], arguments)
        ready = configs.live(config, checkout)
        logger = building.logger_of(None, False)
        frames = building.loader(
            ready, Path(job.data), checkout, training=False, workers=0, logger=logger
        ).dataset
        nets = {}
        for name, (content, card) in read.items():
            nets[name] = building.network(
                configs.with_arguments(card["config"], arguments), checkout, device
            ).eval()
            checkpoints.load_into(nets[name], content["model_state"], models[name])
        place = checkout.seam("pcdet.models", "load_data_to_gpu")
        low_x, low_y, _, high_x, high_y, _ = ready.DATA_CONFIG.POINT_CLOUD_RANGE
        area = (low_x, low_y, high_x, high_y)
        looked_at = [frames[index] for index in range(min(len(frames), LOOKED_AT))]
        for index in busiest((frame["gt_boxes"] for frame in looked_at), area):
            frame = looked_at[index]
            found = {}
            for name, net in nets.items():
                batch: dict[str, Any] = frames.collate_batch([frame])
                place(batch)
                (boxes,), _ = net(batch)
                found[name] = tuple(boxes[f"pred_{part}"].cpu() for part in ("boxes", "scores", "labels"))
            key = f"scan_{frame['frame_id']}"
            draw_scan(
                frame["points"], frame["gt_boxes"], found, ready.CLASS_NAMES, folder / f"{key}.png", area=area
            )
            drawn.append(Picture(key, f"{key}.png", f"Frame {frame['frame_id']} from above", CAPTION))
    return drawn

"""The 2D network of a PointPillars for export: the picture that the pillars make in, the head's answers out.

The pillar feature net stays in torch: it works on a list of points whose length differs from scan to scan, holds 0.01 %
of the weights, and its scatter and the decoding with its rotated suppression have no fixed shape either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from slr_det.adapter import EvalJob
from slr_det.data.kitti.dataset import KittiDataset
from slr_det.export.exportable import Exportable, Network, Tensors
from slr_det.export.onnxfile import as_text
from slr_det.metrics.kitti import fractions
from slr_det.models.pointpillars import Pillars, PointPillars
from slr_det.models.pointpillars.head import Outputs
from slr_det_adapters.pointpillars import checkpoints
from slr_det_adapters.pointpillars.arguments import Arguments
from slr_det_adapters.pointpillars.data import Collate, open_data, plain_frames, require_fit
from slr_det_adapters.pointpillars.evaluation import detect, score
from slr_det_adapters.subsets import spread


class Planar(nn.Module):
    """The 2D backbone and the head of a PointPillars, as convolutions alone.

    Args:
        net: The network.
    """

    def __init__(self, net: PointPillars) -> None:
        super().__init__()
        self.backbone_2d = net.backbone_2d
        self.dense_head = net.dense_head

    def forward(self, picture: Tensor) -> Tensors:
        """(N, anchors, classes), (N, anchors, 7) and (N, anchors, bins) for an (N, width, y, x) picture."""
        x = self.backbone_2d(picture)
        head = self.dense_head
        # The head itself computes all three as one product, whose weight a quantiser would not take for one.
        parts = zip((head.conv_cls, head.conv_box, head.conv_dir_cls), head.numbers, strict=True)
        return tuple(part(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, numbers) for part, numbers in parts)


class Deployed(PointPillars):
    """A PointPillars whose 2D network is an exported file.

    Args:
        net: The network that was exported.
        network: The file.
    """

    def __init__(self, net: PointPillars, network: Network) -> None:
        nn.Module.__init__(self)
        self.config = net.config
        self.vfe = net.vfe
        self.map_to_bev_module = net.map_to_bev_module
        self.dense_head = net.dense_head  # for its anchors
        self._network = network

    def forward(self, pillars: Pillars) -> Outputs:
        return Outputs(*self._network(self.map_to_bev_module(self.vfe(pillars), pillars)))


def exportable_of(job: EvalJob) -> Exportable:
    """The 2D network of a checkpoint: ``picture`` (N, width, y, x) to ``cls``, ``box`` and ``direction``."""
    arguments = Arguments.read(job.args)
    data = open_data(job.data)
    net = checkpoints.read(job.model).eval()
    require_fit(net.config, data, job.model, job.data)

    def frames_of(split: str) -> KittiDataset:
        most = arguments.train_frames if split == "train" else arguments.val_frames
        return plain_frames(data, split, net.config, arguments, most)

    @torch.no_grad()
    def samples(split: str, count: int) -> Iterator[Tensors]:
        frames, collate = frames_of(split), Collate(net.config, training=False)
        for number in spread(range(len(frames)), count):
            batch = collate([frames[number]])
            pillars = Pillars(batch["features"], batch["coordinates"], batch["counts"], batch["frames"])
            yield (net.map_to_bev_module(net.vfe(pillars), pillars),)

    def evaluate(network: Network) -> dict[str, Any]:
        found = detect(Deployed(net, network), data, arguments, title="" if job.verbose else "evaluation")
        return {**fractions(score(data, found, arguments.overlap)), "frames": len(found)}

    config = net.config
    metadata = {
        "task": "pointpillars",
        "classes": as_text(list(config.classes)),
        "point_range": as_text(list(config.point_range)),
        "voxel_size": as_text(list(config.voxel_size)),
        "network": as_text(config.to_dict()),
        "input": "the pillars' vectors at their places in the grid, zero elsewhere",
        "output": "logits, box offsets and direction logits of every anchor",
    }
    names = ("cls", "box", "direction")
    return Exportable(Planar(net).eval(), ("picture",), names, samples, evaluate, metadata)

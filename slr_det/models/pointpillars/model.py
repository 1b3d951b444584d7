"""PointPillars (Lang et al. 2019), with the parameter names, shapes and numbers of OpenPCDet's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slr_det.models.pointpillars.backbone import BaseBEVBackbone
from slr_det.models.pointpillars.batches import Pillars
from slr_det.models.pointpillars.config import PointPillarsConfig
from slr_det.models.pointpillars.decoding import Detections, detections
from slr_det.models.pointpillars.head import AnchorHeadSingle, Outputs
from slr_det.models.pointpillars.losses import losses
from slr_det.models.pointpillars.pillars import PillarVFE, PointPillarScatter
from slr_det.models.pointpillars.targets import assign


class PointPillars(nn.Module):
    """Detects objects in point clouds.

    Args:
        config: What to build. The weights are drawn from torch's global generator.

    Attributes:
        config: The same; with it a state dict is a whole model.
        global_step: (1,) int64 buffer, the training steps taken, as OpenPCDet counts them: see :meth:`count_step`.
    """

    global_step: Tensor

    def __init__(self, config: PointPillarsConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("global_step", torch.zeros(1, dtype=torch.int64))
        self.vfe = PillarVFE(config)
        self.map_to_bev_module = PointPillarScatter(config)
        self.backbone_2d = BaseBEVBackbone(config)
        self.dense_head = AnchorHeadSingle(config)

    @property
    def anchors(self) -> Tensor:
        """(y, x, A, 7) float32 boxes: y and x cells of the head's grid, A anchors in each."""
        return self.dense_head.anchors

    def forward(self, pillars: Pillars) -> Outputs:
        """What the network says about a batch of at least one frame; frames without a pillar are empty pictures."""
        picture = self.map_to_bev_module(self.vfe(pillars), pillars)
        outputs: Outputs = self.dense_head(self.backbone_2d(picture))
        return outputs

    def loss(self, outputs: Outputs, boxes: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch.

        Args:
            outputs: What :meth:`forward` returned.
            boxes: (objects, 8) float32 per frame: box and class label, counted from 1; none is fine.

        Returns:
            The sum, and its parts by OpenPCDet's names, detached: ``rpn_loss_cls``, ``rpn_loss_loc``,
            ``rpn_loss_dir``, ``rpn_loss``. All float32, whatever autocast is on.
        """
        with torch.autocast(outputs.cls.device.type, enabled=False):
            targets = assign(self.anchors, boxes, self.config)
            parts = losses(outputs, targets, self.anchors.flatten(0, 2), self.config)
            total = torch.stack(list(parts.values())).sum()
        return total, {name: part.detach() for name, part in (parts | {"rpn_loss": total}).items()}

    def decode(self, outputs: Outputs, *, score_threshold: float | None = None) -> list[Detections]:
        """The detections of each frame, best first; ``score_threshold`` replaces the configuration's."""
        with torch.autocast(outputs.cls.device.type, enabled=False):
            return detections(outputs, self.anchors.flatten(0, 2), self.config, score_threshold)

    def count_step(self) -> None:
        """Count a training step."""
        self.global_step += 1

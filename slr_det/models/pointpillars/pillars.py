"""Points to a picture seen from above: the pillar feature net and the scatter (Lang et al. 2019, section 2.1).

Pillars hold 2 points on average where there is room for 32. OpenPCDet computes on every place, the empty ones included,
which count in the batch norm's statistics and in the maximum. Here a pillar has a row per point and one row that stands
for all its empty places, with their number as its weight: the same numbers at a fraction of the work.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from slr_det.models.pointpillars.batches import Pillars
from slr_det.models.pointpillars.config import PointPillarsConfig

#: Of every batch norm of the network, as in OpenPCDet.
EPSILON, MOMENTUM = 1e-3, 0.01


class WeightedBatchNorm(nn.BatchNorm1d):
    """Batch norm over rows of which each stands for several equal ones; parameters and buffers are a batch norm's."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, rows: Tensor, shares: Tensor, places: int) -> Tensor:  # type: ignore[override]
        """Normalise rows.

        Args:
            rows: (R, C) floats; computed in float32.
            shares: (R, 1) float32, the part of all places that each row stands for; they sum to 1.
            places: Number of all places.

        Returns:
            (R, C) float32. Without rows, which have no statistics, the running ones stay as they are.
        """
        rows = rows.float()
        mean, variance = self.running_mean, self.running_var
        if self.training and rows.shape[0]:
            mean = (rows * shares).sum(0)
            variance = ((rows - mean).square() * shares).sum(0)
            self._follow(mean.detach(), variance.detach() * (places / max(places - 1, 1)))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias - mean * scale, rows, scale)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked += 1
        # Without a momentum every batch counts the same, as when the statistics are estimated anew.
        step = self.momentum if self.momentum is not None else 1.0 / self.num_batches_tracked.to(mean.dtype)
        self.running_mean += (mean - self.running_mean) * step
        self.running_var += (variance - self.running_var) * step


class PFNLayer(nn.Module):
    """A linear layer, a batch norm and a rectifier on each point, and their maximum over each pillar.

    Args:
        inputs: Numbers per point that come in.
        outputs: Numbers that go out: per pillar for the last layer, else per point, half of them its pillar's maximum.
        last: Whether this is the last layer.
    """

    def __init__(self, inputs: int, outputs: int, last: bool) -> None:
        super().__init__()
        self.last = last
        width = outputs if last else outputs // 2
        self.linear = nn.Linear(inputs, width, bias=False)
        self.norm = WeightedBatchNorm(width, eps=EPSILON, momentum=MOMENTUM)

    def forward(self, rows: Tensor, shares: Tensor, places: int, lengths: Tensor) -> Tensor:
        """Compute (pillars, outputs) or (rows, outputs) from (rows, inputs); ``lengths`` rows belong to each pillar."""
        out = functional.relu(self.norm(self.linear(rows), shares, places))
        highest = torch.segment_reduce(out, "max", lengths=lengths, unsafe=True)
        if self.last:
            return highest
        return torch.cat([out, highest.repeat_interleave(lengths, 0, output_size=out.shape[0])], 1)


class PillarVFE(nn.Module):
    """The pillar feature net: a vector for each pillar.

    A point is seen as its own numbers, its distance from the mean of its pillar's points and from the pillar's centre.

    Args:
        config: Widths of the layers, place of the pillars.
    """

    def __init__(self, config: PointPillarsConfig) -> None:
        super().__init__()
        widths = [config.point_features + 6, *config.pillar_filters]
        self.pfn_layers = nn.ModuleList(
            PFNLayer(inputs, outputs, number == len(widths) - 2)
            for number, (inputs, outputs) in enumerate(pairwise(widths))
        )
        self.size = config.voxel_size
        self.centre = tuple(
            size / 2 + start for size, start in zip(config.voxel_size, config.point_range[:3], strict=True)
        )

    def forward(self, pillars: Pillars) -> Tensor:
        """Compute (V, width of the last layer) floats, zero rows and all for a batch without pillars."""
        features, counts = pillars.features, pillars.counts
        count, room = features.shape[:2]
        # The row behind the last point stands for it and for all that follow.
        place, filled = torch.arange(room, device=features.device), counts.unsqueeze(1)
        present = place <= filled
        lengths = (counts.long() + 1).clamp_(max=room)
        owner = torch.arange(count, device=features.device).repeat_interleave(lengths)
        real = (place < filled)[present].unsqueeze(1)
        mean = features[..., :3].sum(1) / counts.to(features.dtype).unsqueeze(1)
        size, start = features.new_tensor(self.size), features.new_tensor(self.centre)
        centre = pillars.coordinates[:, 1:].flip(1).to(features.dtype) * size + start
        points = features[present]
        xyz = points[:, :3]
        rows = torch.cat([points, xyz - mean[owner], xyz - centre[owner]], 1) * real
        places = count * room
        shares = torch.where(real, 1, (room - counts)[owner].unsqueeze(1)).to(features.dtype) / max(places, 1)
        for layer in self.pfn_layers:
            rows = layer(rows, shares, places, lengths)
        return rows


class PointPillarScatter(nn.Module):
    """Puts the pillars' vectors where the pillars stand; the picture is zero elsewhere.

    Args:
        config: The grid.
    """

    def __init__(self, config: PointPillarsConfig) -> None:
        super().__init__()
        self.grid = config.grid

    def forward(self, vectors: Tensor, pillars: Pillars) -> Tensor:
        """Compute (frames, width, y, x) from (V, width)."""
        nx, ny = self.grid
        frame, _, y, x = pillars.coordinates.long().unbind(1)
        # Not with the channels last in memory: convolutions gain an eighth of a step on a CPU, but its batch norm then
        # adds in plain float32 and is off by 1e-3.
        picture = vectors.new_zeros(pillars.frames, vectors.shape[1], ny * nx)
        picture[frame, :, y * nx + x] = vectors
        return picture.view(pillars.frames, -1, ny, nx)

"""The pillar feature net against the same arithmetic on every place of every pillar, and the scatter."""

from __future__ import annotations

import copy

import pytest
import torch
from pointpillars_frames import TINY, batch, cloud, tiny
from torch import Tensor, nn
from torch.nn import functional

from slr_det import masks
from slr_det.models.pointpillars import Pillars, PointPillars, PointPillarsConfig
from slr_det.models.pointpillars.pillars import PillarVFE, PointPillarScatter


class Dense(nn.Module):
    """The same on every place, the empty ones included, with torch's own batch norm."""

    def __init__(self, net: PillarVFE, config: PointPillarsConfig) -> None:
        super().__init__()
        self.config = config
        self.linears = nn.ModuleList(copy.deepcopy(layer.linear) for layer in net.pfn_layers)
        self.norms = nn.ModuleList()
        for layer in net.pfn_layers:
            norm = nn.BatchNorm1d(layer.norm.num_features, eps=1e-3, momentum=0.01)
            norm.load_state_dict(layer.norm.state_dict())
            self.norms.append(norm)

    def forward(self, pillars: Pillars) -> Tensor:
        rows = []
        for points, at, count in zip(pillars.features, pillars.coordinates, pillars.counts, strict=True):
            real = points[:count, :3]
            described = torch.zeros(len(points), 10)
            for place in range(int(count)):
                corner = torch.tensor([at[3], at[2], at[1]]) * torch.tensor(self.config.voxel_size)
                middle = corner + torch.tensor(self.config.point_range[:3])
                middle = middle + torch.tensor(self.config.voxel_size) / 2
                own = points[place]
                described[place] = torch.cat([own, own[:3] - real.mean(0), own[:3] - middle])
            rows.append(described)
        x = torch.stack(rows)
        for number, (linear, norm) in enumerate(zip(self.linears, self.norms, strict=True)):
            x = functional.relu(norm(linear(x).transpose(1, 2)).transpose(1, 2))
            highest = x.amax(1, keepdim=True)
            last = number == len(self.linears) - 1
            x = highest.squeeze(1) if last else torch.cat([x, highest.expand_as(x)], 2)
        return x


def net_and_reference(config: PointPillarsConfig) -> tuple[PillarVFE, Dense]:
    torch.manual_seed(0)
    net = PillarVFE(config)
    for layer in net.pfn_layers:
        nn.init.uniform_(layer.norm.weight, -1.0, 1.5)
        nn.init.normal_(layer.norm.bias)
    return net, Dense(net, config)


@pytest.mark.parametrize("filters", [(8,), (16, 6), (16, 12, 5)])
@pytest.mark.parametrize("training", [True, False])
def test_the_net_gives_what_every_place_computed_gives(filters: tuple[int, ...], training: bool) -> None:
    config = tiny(pillar_filters=filters)
    net, dense = net_and_reference(config)
    net.train(training)
    dense.train(training)
    pillars = batch(cloud(900), cloud(50, 1), config=config)
    counts = pillars.counts
    assert {1, config.max_points} <= set(counts.tolist()), "there are full pillars and others"
    found, expected = net(pillars), dense(pillars)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    toward = torch.randn_like(found)
    (found * toward).sum().backward()
    (expected * toward).sum().backward()
    for layer, linear, norm in zip(net.pfn_layers, dense.linears, dense.norms, strict=True):
        torch.testing.assert_close(layer.linear.weight.grad, linear.weight.grad, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(layer.norm.weight.grad, norm.weight.grad, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(layer.norm.bias.grad, norm.bias.grad, rtol=1e-3, atol=1e-3)
        for name, value in norm.state_dict().items():
            torch.testing.assert_close(layer.norm.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_statistics_are_estimated_anew_as_for_any_batch_norm() -> None:
    net, dense = net_and_reference(TINY)
    batches = [batch(cloud(600, seed)) for seed in range(3)]
    masks.recalibrate_batchnorm(net, batches)
    masks.recalibrate_batchnorm(dense, batches)
    norm, expected = net.pfn_layers[0].norm, dense.norms[0]
    torch.testing.assert_close(norm.running_mean, expected.running_mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, expected.running_var, rtol=1e-4, atol=1e-5)


def test_what_lies_behind_the_last_point_does_not_matter() -> None:
    net, _ = net_and_reference(TINY)
    pillars = batch(cloud(300))
    dirty = pillars.features.clone()
    behind = torch.arange(TINY.max_points) >= pillars.counts[:, None]
    # The mean of a pillar's points is a sum over its places; zeros there are what a voxeliser promises.
    assert not dirty[behind].any()
    dirty[behind] = torch.tensor([0.0, 0.0, 0.0, 5.0])
    changed = Pillars(dirty, pillars.coordinates, pillars.counts, 1)
    torch.testing.assert_close(net(changed), net(pillars))


def test_without_pillars_statistics_stay_and_gradients_are_zero() -> None:
    net, _ = net_and_reference(TINY)
    before = copy.deepcopy(net.state_dict())
    pillars = batch(torch.zeros(0, 4), torch.full((5, 4), 100.0))
    assert pillars.frames == 2 and len(pillars.counts) == 0
    picture = PointPillarScatter(TINY)(net(pillars), pillars)
    assert picture.shape == (2, 8, 32, 32) and not picture.any()
    picture.sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_pillars_of_a_batch_are_those_of_its_frames_in_order() -> None:
    clouds = [cloud(200, 1), torch.zeros(0, 4), cloud(100, 2)]
    together = batch(*clouds)
    assert together.coordinates[:, 0].unique().tolist() == [0, 2]
    for frame, points in enumerate(clouds):
        alone = batch(points)
        mine = together.coordinates[:, 0] == frame
        torch.testing.assert_close(together.features[mine], alone.features)
        torch.testing.assert_close(together.coordinates[mine, 1:], alone.coordinates[:, 1:])
        torch.testing.assert_close(together.counts[mine], alone.counts)
    assert batch().frames == 0


def test_training_and_evaluation_look_at_their_own_number_of_pillars() -> None:
    config = tiny(max_voxels=(20, 30))
    assert len(batch(cloud(2000), config=config).counts) == 20
    assert len(batch(cloud(2000), config=config, training=False).counts) == 30


def test_every_pillar_stands_where_its_points_are() -> None:
    pillars = batch(cloud(300), cloud(300, 1))
    vectors = torch.randn(len(pillars.counts), 3)
    picture = PointPillarScatter(TINY)(vectors, pillars)
    assert int((picture != 0).any(1).sum()) == len(vectors)
    for vector, (frame, _, y, x), points in zip(
        vectors, pillars.coordinates.tolist(), pillars.features, strict=True
    ):
        torch.testing.assert_close(picture[frame, :, y, x], vector)
        assert int(points[0, 0] / 0.4) == x and int((points[0, 1] + 6.4) / 0.4) == y


def test_a_frame_looks_the_same_alone_and_beside_an_empty_one() -> None:
    torch.manual_seed(0)
    model = PointPillars(TINY).eval()
    points = cloud(400)
    alone, beside = model(batch(points)), model(batch(torch.zeros(0, 4), points))
    torch.testing.assert_close(beside.cls[1:], alone.cls, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(beside.box[1:], alone.box, rtol=1e-4, atol=1e-5)

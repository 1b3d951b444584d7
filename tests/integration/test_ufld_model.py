"""Our parsingNet and that of a checkout of Ultra-Fast-Lane-Detection: one network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slr_det.models.parsingnet import DEPTHS, ParsingNet, ParsingNetConfig, config_of, load
from slr_det.models.parsingnet.losses import losses, total
from slr_det.models.weights import read_state_dict

pytest.importorskip("torchvision")
pytestmark = pytest.mark.filterwarnings("ignore:.*pretrained", "ignore:Arguments other than a weight enum")
CPU = torch.device("cpu")
SMALL = ParsingNetConfig(griding=10)


@pytest.fixture(scope="module")
def upstream(ufld: Path) -> Iterator[Any]:
    from slr_det_adapters.ufld import building

    with building.opened(ufld, CPU) as checkout:
        yield checkout


def theirs(upstream: Any, config: ParsingNetConfig) -> nn.Module:
    from slr_det_adapters.ufld import building

    return building.network(config, upstream, CPU, aux=config.aux)


def shapes(net: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, tensor.shape) for name, tensor in net.state_dict().items()]


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_depth_has_the_same_names_and_shapes_in_the_same_order(upstream: Any, depth: str) -> None:
    """Order counts as well: an optimizer's state goes by it."""
    make = upstream.seam("model.model", "parsingNet")
    for config in (ParsingNetConfig(depth), ParsingNetConfig(depth, 200, aux=False)):
        with torch.device("meta"):
            ours = ParsingNet(config)
            other = make(pretrained=False, backbone=depth, cls_dim=config.classes, use_aux=config.aux)
        assert shapes(ours) == shapes(other)
        assert [name for name, _ in ours.named_parameters()] == [name for name, _ in other.named_parameters()]


def test_the_same_weights_give_the_same_outputs(upstream: Any) -> None:
    torch.manual_seed(1)
    other, ours = theirs(upstream, SMALL), ParsingNet(SMALL)
    load(ours, other.state_dict(), "theirs")
    images = torch.randn(2, 3, 288, 800)
    for training in (True, False):  # the first changes the statistics that the second uses
        with torch.no_grad():
            logits, segmentation = other.train(training)(images)
            found = ours.train(training)(images, aux=True)
        assert found.segmentation is not None
        assert logits.std() > 0.01 and segmentation.std() > 0.1
        assert torch.allclose(found.logits, logits, atol=1e-4)
        assert torch.allclose(found.segmentation, segmentation, atol=1e-4)


# The rest of the network is the same for all, and large.
@pytest.mark.parametrize(
    "depth", [d if d in ("34", "50", "50next") else pytest.param(d, marks=pytest.mark.slow) for d in DEPTHS]
)
def test_every_backbone_gives_the_same_features(upstream: Any, depth: str) -> None:
    torch.manual_seed(2)
    config = ParsingNetConfig(depth, 2, tuple(range(100, 104)), aux=False)
    ours = ParsingNet(config).model.eval()
    other: Any = upstream.seam("model.backbone", "resnet")(depth).eval()
    other.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for mine, upstreams in zip(ours(images), other(images), strict=True):
            assert torch.allclose(mine, upstreams, atol=1e-4, rtol=1e-4)


def test_the_losses_and_their_gradients_are_the_same(upstream: Any) -> None:
    from slr_det_adapters.ufld import configs

    settings = configs.read("configs/tusimple.py", upstream)
    assert (settings["sim_loss_w"], settings["shp_loss_w"]) == (1.0, 0.0)
    calc = upstream.seam("train", "calc_loss")
    entries = upstream.seam("utils.factory", "get_loss_dict")
    generator = torch.Generator().manual_seed(3)
    logits = (torch.randn(3, 101, 56, 4, generator=generator) * 3).requires_grad_()
    segmentation = torch.randn(3, 5, 36, 100, generator=generator).requires_grad_()
    targets = torch.randint(101, (3, 56, 4), generator=generator)
    places = torch.randint(5, (3, 36, 100), generator=generator)
    results = {"cls_out": logits, "cls_label": targets, "seg_out": segmentation, "seg_label": places}
    # As configured, and with the loss that the configuration turns off.
    for changed in (settings, {**settings, "shp_loss_w": 0.7, "sim_loss_w": 0.3}):
        theirs = entries(configs.live(changed, upstream))
        parts = losses(logits, targets, segmentation, places)
        for name, op, sources in zip(theirs["name"], theirs["op"], theirs["data_src"], strict=True):
            value = op(*(results[source] for source in sources))
            assert parts[name].item() == pytest.approx(value.item(), abs=1e-4, rel=1e-4), name
        mine = total(parts, configs.network(changed))
        other = calc(theirs, results, None, 1)  # nothing is logged at step 1
        assert mine.item() == pytest.approx(other.item(), abs=1e-4)
        for a, b in zip(
            torch.autograd.grad(mine, (logits, segmentation), retain_graph=True),
            torch.autograd.grad(other, (logits, segmentation)),
            strict=True,
        ):
            assert torch.allclose(a, b, atol=1e-7, rtol=1e-3) and bool(a.any())


def test_checkpoints_go_both_ways(upstream: Any, tmp_path: Path) -> None:
    torch.manual_seed(4)
    other = theirs(upstream, SMALL)
    optimizer = torch.optim.Adam(other.parameters())
    upstream.seam("utils.common", "save_model")(other, optimizer, 7, str(tmp_path), False)
    state = read_state_dict(tmp_path / "ep007.pth")
    assert config_of(state, "ep007.pth") == SMALL
    ours = ParsingNet(SMALL)
    load(ours, state, "ep007.pth")
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), other.parameters(), strict=True))

    # Back, read as upstream's test.py does: with torch's own defaults, without the auxiliary head.
    trained = ParsingNet(SMALL)
    torch.save({"model": trained.state_dict()}, tmp_path / "ours.pth")
    bare = theirs(upstream, ParsingNetConfig(griding=10, aux=False))
    read = torch.load(tmp_path / "ours.pth", map_location="cpu")["model"]
    assert bare.load_state_dict(read, strict=False).missing_keys == []
    own = dict(trained.named_parameters())
    assert all(torch.equal(own[name], p) for name, p in bare.named_parameters())


def test_a_file_of_torchvision_fills_the_backbone(tmp_path: Path) -> None:
    import torchvision

    published = torchvision.models.resnet18()
    torch.save(published.state_dict(), tmp_path / "resnet18.pth")
    ours = ParsingNet(SMALL)
    load(ours, read_state_dict(tmp_path / "resnet18.pth"), "resnet18.pth")
    named = dict(published.named_parameters())
    assert all(torch.equal(named[name], p) for name, p in ours.model.named_parameters())

"""parsingNet: its weights and their names, its shapes, and what may be loaded into it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slr_det.errors import CheckpointError, ConfigError
from slr_det.models.parsingnet import (
    DEPTHS,
    PRESETS,
    ParsingNet,
    ParsingNetConfig,
    config_of,
    describe,
    holds_backbone_alone,
    layers,
    load,
)
from slr_det.models.parsingnet.checkpoints import CULANE_ROWS
from slr_det.models.weights import read_state_dict

# Parameters of torchvision's published networks, less those of their 1000-class layers (513,000 and 2,049,000).
BACKBONES = {
    "18": 11_689_512 - 513_000,
    "34": 21_797_672 - 513_000,
    "50": 25_557_032 - 2_049_000,
    "101": 44_549_160 - 2_049_000,
    "152": 60_192_808 - 2_049_000,
    "50next": 25_028_904 - 2_049_000,
    "101next": 88_791_336 - 2_049_000,
    "50wide": 68_883_240 - 2_049_000,
    "101wide": 126_886_696 - 2_049_000,
}
TINY = ParsingNetConfig(
    griding=10, row_anchors=(100, 140, 180, 220, 260), lanes=3, size=(72, 100), width=0.125, hidden=16, pool=2
)


def empty(config: ParsingNetConfig) -> ParsingNet:
    """A network without memory for its weights."""
    with torch.device("meta"):
        return ParsingNet(config)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_sizes_that_upstream_has() -> None:
    assert count(empty(ParsingNetConfig(aux=False))) == 61_225_640
    assert count(empty(ParsingNetConfig())) == 64_621_357
    assert count(empty(ParsingNetConfig(aux=False)).cls) == 50_045_024


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_backbone_has_the_published_size_and_is_recognised(depth: str) -> None:
    net = empty(ParsingNetConfig(depth))
    assert count(net.model) == BACKBONES[depth]
    assert config_of(net.state_dict(), "x.pth") == net.config == PRESETS[f"parsingnet{depth}"]
    assert net.config.fits_upstream


def test_what_the_shapes_tell_of_other_data() -> None:
    for config in (
        ParsingNetConfig("18", 200, CULANE_ROWS, aux=False),
        ParsingNetConfig("34", 20, lanes=6),
        ParsingNetConfig("50", 77, aux=False),
    ):
        assert config_of(empty(config).state_dict(), "x.pth") == config


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("pool.weight", None, r"x\.pth: has no weight 'pool\.weight'"),
        ("model.conv1.weight", None, r"x\.pth: has no weight 'model\.conv1"),
        ("model.layer3.2.conv1.weight", (256, 256, 3, 3), "backbone is none of ResNet 18, 34"),
        ("model.layer1.0.conv2.weight", (32, 32, 3, 3), "backbone is none of"),
        ("cls.2.weight", (22_625, 2048), "cls.2.weight has 22625 rows, expected a multiple of 4 lanes"),
        ("cls.0.weight", (2048, 900), r"'cls\.0\.weight' has shape \[2048, 900\].*\[2048, 1800\]"),
    ],
)
def test_other_shapes_are_no_checkpoint_of_upstream(
    name: str, shape: tuple[int, ...] | None, message: str
) -> None:
    state = empty(ParsingNetConfig()).state_dict()
    state.pop(name, None)
    if shape is not None:
        state[name] = torch.empty(shape, device="meta")
    with pytest.raises(CheckpointError, match=message):
        config_of(state, "x.pth")


def test_a_small_one_has_the_shapes_of_its_configuration() -> None:
    """72 x 100 pixels are 9 x 13 cells at stride 8, 5 x 7 at 16 and 3 x 4 at 32, rounded up."""
    net = ParsingNet(TINY)
    assert TINY.classes == (11, 5, 3) and TINY.features == 2 * 3 * 4 and not TINY.fits_upstream
    assert net.cls[2].out_features == 11 * 5 * 3
    images = torch.randn(2, 3, 72, 100)
    outputs = net(images)
    assert outputs.logits.shape == (2, 11, 5, 3)
    assert outputs.segmentation is not None and outputs.segmentation.shape == (2, 4, 9, 13)
    assert net.eval()(images).segmentation is None
    assert net(images, aux=True).segmentation is not None
    without = ParsingNet(ParsingNetConfig.from_dict({**TINY.to_dict(), "aux": False}))
    assert without(images).segmentation is None


def test_the_loss_reaches_every_weight() -> None:
    torch.manual_seed(0)
    net = ParsingNet(TINY)
    outputs = net(torch.randn(2, 3, 72, 100))
    total, parts = net.loss(outputs, torch.randint(11, (2, 5, 3)), torch.randint(4, (2, 9, 13)))
    total.backward()
    assert set(parts) == {"cls_loss", "relation_loss", "aux_loss", "relation_dis"}
    weighted = parts["cls_loss"] + parts["relation_loss"] + parts["aux_loss"]
    assert total.item() == pytest.approx(float(weighted), rel=1e-6), "upstream's weights are 1, 1, 1 and 0"
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    with pytest.raises(ValueError, match="segmentation"):
        net.loss(outputs, torch.randint(11, (2, 5, 3)))


def test_the_pruner_sees_the_layers_in_forward_order_and_not_the_auxiliary_head() -> None:
    info = describe(ParsingNet(TINY))
    names = [layer.name for layer in info.layers]
    assert names[0] == "model.conv1.weight" and names[-3:] == ["pool.weight", "cls.0.weight", "cls.2.weight"]
    roles = {layer.name: layer.role for layer in info.layers}
    assert [name for name, role in roles.items() if role == "head"] == names[-3:]
    assert [name for name, role in roles.items() if role == "first"] == names[:1]
    assert not any(name.startswith("aux_") for name in [*names, *info.weights])
    bare = ParsingNetConfig.from_dict({**TINY.to_dict(), "aux": False})
    assert info.parameters == count(ParsingNet(bare)) and info.classes == 3
    big = layers(empty(ParsingNetConfig()))
    assert sum(layer.numel for layer in big if layer.role == "body") == 11_166_912 - 7 * 7 * 3 * 64
    assert [layer.numel for layer in big if layer.role == "head"] == [4_096, 1800 * 2048, 2048 * 22_624]


def test_the_configuration_survives_plain_data() -> None:
    for config in (TINY, *PRESETS.values()):
        assert ParsingNetConfig.from_dict(config.to_dict()) == config
    assert ParsingNetConfig.from_dict({"backbone": 34}).backbone == "34"
    small = PRESETS["parsingnet_small"]
    assert not small.fits_upstream and count(empty(small)) < 5_000_000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"backbone": "19"}, r"backbone is '19', expected one of 18, 34, .*did you mean"),
        ({"griding": 1, "lanes": 0}, r"lanes is 0.*griding is 1"),
        ({"size": [16, 800]}, r"size is \[16, 800\], expected at least 32"),
        ({"row_anchors": [1, 2, 3]}, "row_anchors: 3 rows, expected at least 4"),
        ({"row_anchors": [1, 3, 2, 4]}, "row_anchors: 1 to 4, expected growing heights"),
        ({"row_anchors": [10, 100, 200, 288]}, "heights from 0 to 287"),
        ({"backbone": "50next", "width": 0.1}, "some layers of ResNet 50next have no channel"),
        ({"shape_weight": -1.0}, "shape_weight is -1, expected at least 0"),
        ({"gridding": 50}, r"unknown key 'gridding' \(did you mean 'griding'"),
        ({"size": [288]}, r"size is \[288\], expected a list of 2 whole numbers"),
    ],
)
def test_what_does_not_fit_together_is_said(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ParsingNetConfig.from_dict(data)


def _equal(state: dict[str, Tensor], net: nn.Module) -> bool:
    own = net.state_dict()
    return all(torch.equal(own[name], tensor) for name, tensor in state.items() if name in own)


def test_a_checkpoint_of_upstream_loads_with_and_without_its_prefix_and_auxiliary_head(
    tmp_path: Path,
) -> None:
    bare = ParsingNetConfig.from_dict({**TINY.to_dict(), "aux": False})
    source = ParsingNet(TINY)
    path = tmp_path / "ep099.pth"
    torch.save({"model": {f"module.{k}": v for k, v in source.state_dict().items()}, "optimizer": {}}, path)
    state = read_state_dict(path)
    assert not holds_backbone_alone(state)
    for config in (TINY, bare):
        net = ParsingNet(config)
        load(net, state, str(path))
        assert _equal(source.state_dict(), net)
    # A model with the head keeps its own where the file has none.
    net, deployed = ParsingNet(TINY), ParsingNet(bare)
    before = net.aux_combine.state_dict()
    load(net, deployed.state_dict(), "deployed.pth")
    assert _equal(deployed.state_dict(), net) and _equal(before, net.aux_combine)
    state.pop("model.layer2.0.conv1.weight")
    state["cls.2.weight"] = state["cls.2.weight"][1:]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"cls\.2\.weight: file \(164, 16\), model \(165, 16\)"):
        load(net, state, "x.pth")
    assert _equal(before, net), "nothing is copied"


def test_a_resnet_for_classification_becomes_the_backbone() -> None:
    source, net = ParsingNet(TINY), ParsingNet(TINY)
    before = net.cls.state_dict()
    state = {**source.model.state_dict(), "fc.weight": torch.zeros(1000, 64), "fc.bias": torch.zeros(1000)}
    assert holds_backbone_alone(state)
    load(net, state, "resnet18.pth")
    assert _equal(source.model.state_dict(), net.model) and _equal(before, net.cls)
    other = {name: t for name, t in state.items() if not name.startswith("layer4.1")}
    with pytest.raises(CheckpointError, match=re.escape("layer4.1.conv1.weight: file none")):
        load(net, other, "resnet18.pth")


def test_the_head_starts_from_small_weights_and_the_backbone_from_he_s() -> None:
    torch.manual_seed(0)
    net = ParsingNet(ParsingNetConfig(griding=20, aux=False))
    assert net.cls[2].weight.std().item() == pytest.approx(0.01, rel=0.01)
    conv = net.model.layer4[1].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)

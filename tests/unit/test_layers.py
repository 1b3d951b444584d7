from __future__ import annotations

import pytest
from torch import nn

from slr_det.layers import layers_of, make_layer


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.deep = nn.Conv2d(8, 8, 3, groups=8)
        self.grouped = nn.Conv2d(8, 16, 3, groups=2)
        self.up = nn.ConvTranspose2d(16, 8, 2)
        self.table = nn.Embedding(10, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(16, 5)


def test_layers_have_kind_role_and_exact_counts() -> None:
    layers = {layer.name: layer for layer in layers_of(Detector(), heads=["head.*"])}
    assert list(layers) == [
        "stem.0.weight",
        "deep.weight",
        "grouped.weight",
        "up.weight",
        "table.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "head.weight",
    ]
    assert layers["stem.0.weight"] == make_layer("stem.0.weight", (8, 3, 3, 3), "conv", "first")
    assert layers["stem.0.weight"].numel == 216
    assert layers["deep.weight"].depthwise and layers["deep.weight"].shape == (8, 1, 3, 3)
    assert not layers["grouped.weight"].depthwise
    assert layers["head.weight"].role == "head" and layers["head.weight"].kind == "linear"
    kinds = {name: layer.kind for name, layer in layers.items()}
    assert kinds["up.weight"] == "deconv"
    assert kinds["table.weight"] == kinds["attention.in_proj_weight"] == "other"
    assert kinds["attention.out_proj.weight"] == "linear"
    assert [layer.role for layer in layers.values()].count("first") == 1


def test_first_layers_can_be_named_and_names_prefixed() -> None:
    layers = layers_of(Detector(), first=["net.deep.*"], prefix="net")
    assert [layer.name for layer in layers if layer.role == "first"] == ["net.deep.weight"]


def test_a_shared_weight_is_listed_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert [layer.name for layer in layers_of(model)] == ["0.weight"]


def test_a_layer_cannot_be_changed() -> None:
    layer = make_layer("a", (2, 2))
    with pytest.raises(AttributeError):
        layer.numel = 3  # type: ignore[misc]

"""Whole networks of the trainers, pruned at random, answer in the sparse runtime as they do in torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import slr_det.models
import slr_det.runtime
from slr_det.models.parsingnet import ParsingNet, ParsingNetConfig
from slr_det.models.pointpillars import PRESETS, PointPillars
from slr_det.runtime import CompiledModule

pytestmark = pytest.mark.usefixtures("runtime")


def prune(model: nn.Module, density: float = 0.1) -> nn.Module:
    """Keep a random part of all weights, and give batch norms statistics that matter."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            fan = parameter[0].numel() * density
            parameter.data.normal_(0.0, (2 / max(fan, 1)) ** 0.5, generator=generator)
            parameter.data.mul_(torch.rand(parameter.shape, generator=generator) < density)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0.0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0.0, 0.1, generator=generator)
    return model.eval()


def compiled_as(model: nn.Module, image: Tensor, **more: Any) -> CompiledModule:
    """The compiled model, its outputs compared here too, on another image."""
    compiled = slr_det.runtime.compile(model, image, threads=1, choose=more.pop("choose", "sparse"))
    assert compiled.reason == ""
    other = torch.rand(image.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = pytree.tree_leaves(model(other))
    found = pytree.tree_leaves(compiled(other))
    assert len(expected) == len(found)
    assert any(isinstance(tensor, Tensor) and float(tensor.std()) > 1e-3 for tensor in expected)
    for one, two in zip(expected, found, strict=True):
        if isinstance(one, Tensor):
            assert float((one - two).abs().max()) <= 1e-4 * max(1.0, float(one.abs().max()))
        else:
            assert one == two
    return compiled


def layers(compiled: CompiledModule) -> set[str]:
    return {row.name for row in compiled.table if row.choice == "sparse"}


def weights(model: nn.Module) -> set[str]:
    kinds = (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kinds)}


class YoloV3Tiny(nn.Module):
    """The classic yolov3-tiny: 8.8 million parameters, two raw heads of 255 channels."""

    def __init__(self) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Module:
            layer = nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, bias=False)
            return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1))

        halve = nn.MaxPool2d(2, 2)
        self.first = nn.Sequential(
            conv(3, 16), halve, conv(16, 32), halve, conv(32, 64), halve, conv(64, 128), halve, conv(128, 256)
        )
        self.second = nn.Sequential(
            halve,
            conv(256, 512),
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.MaxPool2d(2, 1),
            conv(512, 1024),
            conv(1024, 256, 1),
        )
        self.large = nn.Sequential(conv(256, 512), nn.Conv2d(512, 255, 1))
        self.route = nn.Sequential(conv(256, 128, 1), nn.Upsample(scale_factor=2))
        self.small = nn.Sequential(conv(384, 256), nn.Conv2d(256, 255, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(x)
        second = self.second(first)
        return self.large(second), self.small(torch.cat([self.route(second), first], 1))


def test_the_classic_yolov3_tiny_has_no_step_that_is_not_a_layer() -> None:
    model = prune(YoloV3Tiny())
    assert 8.8e6 < sum(parameter.numel() for parameter in model.parameters()) < 8.9e6
    compiled = compiled_as(model, torch.rand(1, 3, 128, 160))
    assert layers(compiled) == weights(model)
    (_, program) = compiled._kept()[0]
    # 13 convolutions, the pool that the route is read before, the one with stride 1, the enlargement: no copies.
    assert len(program._steps) == 16


@pytest.mark.parametrize("name", ["yolov3-tiny.yaml", "yolov8n.yaml"])
def test_yolos_of_ultralytics_with_their_detect_head(name: str) -> None:
    from ultralytics.nn.tasks import DetectionModel

    model = prune(DetectionModel(name, verbose=False))
    compiled = compiled_as(model, torch.rand(1, 3, 96, 128))
    assert layers(compiled) == weights(model)
    compiled_as(model, torch.rand(2, 3, 64, 64))


def test_parsingnet_with_its_large_linear_layers() -> None:
    model = prune(ParsingNet(ParsingNetConfig()))
    compiled = compiled_as(model, torch.rand(1, 3, 288, 800))
    used = {name for name in weights(model) if not name.startswith("aux")}
    assert layers(compiled) == used
    assert sum(row.kind == "linear" for row in compiled.table) == 2


def test_the_2d_network_of_pointpillars_as_it_is_exported() -> None:
    from slr_det_adapters.pointpillars.exporting import Planar

    net = PointPillars(PRESETS["pointpillars"])
    model = prune(Planar(net))
    compiled = compiled_as(model, torch.rand(1, 64, 48, 64))
    assert layers(compiled) == weights(model)
    assert any(row.kind.startswith("transposed") for row in compiled.table)


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_vgg16"])
def test_classifiers_of_the_package(name: str) -> None:
    model = prune(slr_det.models.build(name, 10))
    compiled = compiled_as(model, torch.rand(4, 3, 32, 32))
    assert layers(compiled) == weights(model)


@pytest.mark.parametrize(("name", "size"), [("mobilenetv2_050", 97), ("mixer_s32_224", 224)])
def test_classifiers_of_timm(name: str, size: int) -> None:
    import timm

    model = prune(timm.create_model(name, pretrained=False, num_classes=10))
    compiled = compiled_as(model, torch.rand(1, 3, size, size))
    assert layers(compiled) == weights(model)


def test_layers_that_torch_runs_between_ours_change_nothing() -> None:
    """The choice is by measurement: whatever it is, the outputs are the model's."""
    model = prune(YoloV3Tiny(), density=0.02)
    compiled = compiled_as(model, torch.rand(1, 3, 128, 128), choose="measure")
    assert all(row.sparse_seconds is not None for row in compiled.table)
    assert {row.name for row in compiled.table} == weights(model)

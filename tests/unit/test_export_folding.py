"""Batch norms disappear from a graph, and its answers stay; against the formula and against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_models import example, exportable, lively, small
from torch import Tensor, nn

pytest.importorskip("onnxruntime", reason='needs the export extra: uv pip install "slr-det[export]"')

import onnx

from slr_det.export.folding import count_batchnorms
from slr_det.export.onnxfile import to_onnx
from slr_det.export.runtime import OnnxNetwork


class Twice(nn.Module):
    """What the batch norm reads is read by another layer as well: it cannot go into the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.norm(x)


class Shared(nn.Module):
    """One convolution under two batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.one, self.other = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.other(self.conv(self.one(self.conv(x))))
        return found


def initializers(model: Any) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def answers(model: Any, folder: Path, inputs: tuple[Tensor, ...]) -> Tensor:
    onnx.save(model, folder / "model.onnx")
    return OnnxNetwork(folder / "model.onnx", inputs[0].shape[0])(*inputs)[0]


def test_the_folded_weight_and_bias_are_those_of_the_formula() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, eps=0.0)).eval()
    conv, norm = net[0], net[1]
    conv.weight.data = torch.tensor([2.0, 0.0]).view(2, 1, 1, 1)
    conv.bias.data = torch.tensor([1.0, 5.0])  # type: ignore[union-attr]
    norm.weight.data, norm.bias.data = torch.tensor([3.0, 4.0]), torch.tensor([0.5, -0.5])
    norm.running_mean, norm.running_var = torch.tensor([7.0, 1.0]), torch.tensor([4.0, 16.0])
    model, folded = to_onnx(exportable(net, (1, 2, 2)), example((1, 2, 2)))
    values = initializers(model)
    assert (folded.merged, folded.replaced, count_batchnorms(model)) == (1, 0, 0)
    # s = 3/2 and 4/4; W' = s W; c' = s (c - m) + b
    assert values["0.weight"].ravel().tolist() == [3.0, 0.0]
    (bias,) = (value for name, value in values.items() if name != "0.weight")
    assert bias.tolist() == [1.5 * (1 - 7) + 0.5, 1.0 * (5 - 1) - 0.5]


@pytest.mark.parametrize(
    ("net", "shape", "merged", "replaced"),
    [
        (small(), (2, 6, 6), 2, 0),
        (nn.Sequential(nn.ConvTranspose2d(2, 3, 2, 2, bias=False), nn.BatchNorm2d(3)), (2, 6, 6), 1, 0),
        (nn.Sequential(nn.ConvTranspose2d(2, 4, 2, 2, groups=2), nn.BatchNorm2d(4)), (2, 6, 6), 0, 1),
        (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4)), (2, 6, 6), 1, 0),
        (nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), (5,), 1, 0),
        (nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3)), (5,), 0, 1),
        (nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 3, 1)), (2, 6, 6), 0, 1),
        (Twice(), (2, 6, 6), 0, 1),
        (Shared(), (2, 6, 6), 2, 0),
    ],
    ids=[
        "small",
        "transposed",
        "transposed-groups",
        "groups",
        "linear",
        "first-1d",
        "first",
        "twice",
        "shared",
    ],
)
def test_no_batch_norm_is_left_and_the_answers_are_torchs(
    net: nn.Module, shape: tuple[int, ...], merged: int, replaced: int, tmp_path: Path
) -> None:
    inputs = example(shape, 3)
    model, folded = to_onnx(exportable(lively(net), shape), inputs)
    onnx.checker.check_model(model, full_check=True)
    assert (folded.merged, folded.replaced, count_batchnorms(model)) == (merged, replaced, 0)
    with torch.no_grad():
        assert torch.allclose(answers(model, tmp_path, inputs), net(*inputs), atol=1e-5)


def test_weights_keep_their_names_and_their_zeros() -> None:
    net = small(keep=0.1)
    model, _ = to_onnx(exportable(net), example())
    values = initializers(model)
    for name, parameter in net.named_parameters():
        if parameter.dim() > 1:
            assert (values[name] == 0).tolist() == (parameter == 0).tolist()
    assert not any("running" in name for name in values)


def test_a_batch_of_any_size(tmp_path: Path) -> None:
    net = small()
    model, _ = to_onnx(exportable(net), example(), dynamic=True)
    onnx.save(model, tmp_path / "model.onnx")
    network, many = OnnxNetwork(tmp_path / "model.onnx", 0), example(batch=5)
    with torch.no_grad():
        assert torch.allclose(network(*many)[0], net(*many), atol=1e-5)

"""A model becomes the graph that it should: layers by their names, all that can be fused fused, nothing changed."""

from __future__ import annotations

import copy

import pytest
import torch
from runtime_nets import Function, c2f, conv, images, resnet, settle, yolo
from torch import Tensor, nn
from torch.nn import functional as F

from slr_det.errors import RuntimeRefusedError
from slr_det.runtime.capture import Captured, capture
from slr_det.runtime.graph import Add, Conv, Linear, MaxPool, Opaque
from slr_det.runtime.structs import Activation


def kinds(captured: Captured) -> list[str]:
    return [type(node).__name__ for node in captured.graph.nodes]


def test_a_convolution_takes_in_its_batch_norm_activation_and_pool() -> None:
    model = settle(nn.Sequential(*conv(3, 4), nn.MaxPool2d(2, 2)))
    graph = capture(model, (images(1, 3, 6, 8),)).graph
    (node,) = graph.nodes
    assert isinstance(node, Conv)
    assert (node.name, node.pool, node.activation, node.slope) == (
        "0.weight",
        True,
        Activation.LEAKY_RELU,
        0.1,
    )
    norm = model[1]
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    assert torch.allclose(
        node.weight.double(), model[0].weight * scale.reshape(-1, 1, 1, 1), rtol=1e-6, atol=0
    )
    assert node.bias is not None
    assert torch.allclose(node.bias.double(), norm.bias - scale * norm.running_mean, rtol=1e-6, atol=1e-7)
    assert torch.equal(node.weight == 0, model[0].weight == 0)


def test_a_pool_that_leaves_out_nothing_is_fused_and_others_are_not() -> None:
    def graph_of(pool: nn.Module, size: int) -> list[str]:
        return kinds(capture(settle(nn.Sequential(nn.Conv2d(3, 4, 3), pool)), (images(1, 3, size, size),)))

    assert graph_of(nn.MaxPool2d(2, 2), 9) == ["Conv"]  # 7 x 7 outputs: the last row has no pair
    assert graph_of(nn.MaxPool2d(2, 2, ceil_mode=True), 9) == ["Conv", "MaxPool"]
    assert graph_of(nn.MaxPool2d(3, 2), 9) == ["Conv", "MaxPool"]
    assert graph_of(nn.MaxPool2d(2, 1), 9) == ["Conv", "MaxPool"]


def test_a_value_that_is_read_twice_keeps_what_follows_it_apart() -> None:
    def call(m: nn.Module, x: Tensor) -> object:
        sums = m.conv(x)
        return F.relu(sums), F.max_pool2d(sums, 2)

    captured = capture(settle(Function(call, conv=nn.Conv2d(3, 4, 3))), (images(1, 3, 8, 8),))
    assert kinds(captured) == ["Conv", "Activate", "MaxPool"]
    first = captured.graph.nodes[0]
    assert isinstance(first, Conv) and first.activation == Activation.NONE and not first.pool


@pytest.mark.parametrize(
    ("function", "activation", "slope"),
    [
        (F.relu, Activation.RELU, 0.0),
        (lambda x: F.relu_(x), Activation.RELU, 0.0),
        (F.silu, Activation.SILU, 0.0),
        (lambda x: x * torch.sigmoid(x), Activation.SILU, 0.0),
        (lambda x: torch.sigmoid(x) * x, Activation.SILU, 0.0),
        (lambda x: x.mul_(x.sigmoid()), Activation.SILU, 0.0),
        (lambda x: F.leaky_relu(x, 0.25), Activation.LEAKY_RELU, 0.25),
    ],
)
def test_every_form_of_an_activation_is_known(function, activation: Activation, slope: float) -> None:  # type: ignore[no-untyped-def]
    model = settle(Function(lambda m, x: function(m.conv(x)), conv=nn.Conv2d(3, 4, 3)))
    (node,) = capture(model, (images(1, 3, 5, 5),)).graph.nodes
    assert isinstance(node, Conv)
    assert (node.activation, node.slope) == (activation, slope)


def test_a_resnet_is_convolutions_and_sums_with_their_activations() -> None:
    captured = capture(settle(resnet()), (images(1, 3, 32, 32),))
    assert kinds(captured)[:5] == ["Conv", "MaxPool", "Conv", "Conv", "Add"]
    sums = [node for node in captured.graph.nodes if isinstance(node, Add)]
    assert [node.activation for node in sums] == [Activation.RELU] * 3
    names = [node.name for node in captured.graph.nodes if isinstance(node, (Conv, Linear))]
    assert names[0] == "0.0.weight" and names[-1] == "3.weight" and "0.5.short.0.weight" in names


def test_a_yolo_is_no_longer_than_its_layers() -> None:
    captured = capture(settle(yolo()), (images(1, 3, 32, 32),))
    assert kinds(captured) == [
        *["Conv"] * 3, "MaxPool", "Conv", "Pad", "MaxPool", *["Conv"] * 4, "Upsample", "Concat", "Conv", "Conv",
    ]  # fmt: skip
    pools = [node.kernel + node.stride for node in captured.graph.nodes if isinstance(node, MaxPool)]
    assert pools == [(2, 2, 2, 2), (2, 2, 1, 1)]  # the first is read twice, by the route too


def test_pieces_that_are_put_back_in_order_are_the_whole() -> None:
    captured = capture(settle(c2f()), (images(1, 3, 8, 8),))
    (joined,) = [node for node in captured.graph.nodes if type(node).__name__ == "Concat"]
    assert len(joined.inputs) == 3  # both halves as one


def test_linear_layers_over_many_dimensions_see_rows() -> None:
    model = settle(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3, bias=False)))
    captured = capture(model, (images(2, 5, 6).transpose(0, 1),))
    layers = [node for node in captured.graph.nodes if isinstance(node, Linear)]
    assert [(node.name, tuple(node.weight.shape)) for node in layers] == [
        ("0.weight", (4, 6)),
        ("2.weight", (3, 4)),
    ]
    assert captured.graph.values[layers[0].inputs[0]].shape == (10, 6)


def test_what_parameters_alone_decide_is_computed_once() -> None:
    def call(m: nn.Module, x: Tensor) -> object:
        weight = m.conv.weight - m.conv.weight.mean((1, 2, 3), keepdim=True)  # weight standardisation
        return F.conv2d(x, weight, m.conv.bias)

    model = settle(Function(call, conv=nn.Conv2d(3, 4, 3)))
    (node,) = capture(model, (images(1, 3, 5, 5),)).graph.nodes
    assert isinstance(node, Conv) and node.name == "conv.weight"
    assert float(node.weight.mean((1, 2, 3)).abs().max()) < 1e-7


@pytest.mark.parametrize(
    ("layer", "shape", "reason"),
    [
        (nn.Conv3d(3, 4, 3), (1, 3, 5, 5, 5), "float32 images"),
        (nn.Conv1d(3, 4, 3), (1, 3, 9), "float32 images"),
        (nn.ConvTranspose2d(3, 4, 3, 2, 1), (1, 3, 5, 5), "kernel equals their stride"),
    ],
)
def test_layers_that_are_not_known_stay_torch_s_and_say_why(
    layer: nn.Module, shape: tuple[int, ...], reason: str
) -> None:
    captured = capture(settle(nn.Sequential(layer)), (images(*shape),))
    found = [node for node in captured.graph.nodes if isinstance(node, Opaque) and node.layer]
    assert [node.layer for node in found] == ["0.weight"]
    assert reason in found[0].reason


def test_outputs_keep_their_structure() -> None:
    model = settle(Function(lambda m, x: {"a": [m.conv(x), 3], "b": (None, x + 1)}, conv=nn.Conv2d(3, 4, 1)))
    captured = capture(model, (images(1, 3, 2, 2),))
    assert captured.rebuild(["first", 3, None, "last"]) == {"a": ["first", 3], "b": (None, "last")}
    assert captured.graph.outputs[1:3] == (3, None)


def test_tracing_leaves_the_model_as_it_was() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.anchors = torch.empty(0)

        def forward(self, x: Tensor) -> Tensor:
            if self.anchors.shape != x.shape[2:]:
                self.anchors = torch.arange(float(x.shape[2] * x.shape[3])).reshape(x.shape[2:])
            return self.conv(x) + self.anchors

    model = settle(Remembers())
    before = copy.deepcopy(model.state_dict())
    capture(model, (images(1, 3, 4, 5),))
    assert model.anchors.shape == (0,)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class _Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (_Counts(), "its own state"),
        (Function(lambda m, x: x * 2 if x.sum().item() > 0 else x), "cannot be traced"),
        (Function(lambda m, x: x.add_(1)), "its own state"),
        (Function(lambda m, x: x.as_strided((2, 2), (1, 2))), "as_strided"),
        (Function(lambda m, x: [][0]), "cannot be traced"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(model: nn.Module, word: str) -> None:
    with pytest.raises(RuntimeRefusedError, match=word) as caught:
        capture(model.eval(), (images(1, 3, 4, 4),))
    assert "\n" not in str(caught.value)

"""Dead filters go and the outputs stay: closed forms and small nets of every kind of branch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from slr_det.bench import shrinking
from slr_det.bench.rows import Settings
from slr_det.errors import ConfigError
from slr_det.models.cifar import resnet18, resnet_thin
from slr_det.shrink import channels_of, compare, find_dead, resize_to, shrink, sums
from slr_det.shrink.resize import remove, zero_dead

pytest.importorskip("torch_pruning", reason="needs the shrink extra")


class Net(nn.Module):
    """Layers by name and a function of them."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def conv(inputs: int, outputs: int, **options: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)  # type: ignore[arg-type]


def settle(net: nn.Module) -> nn.Module:
    """Batch norms as after a training: a dead filter before one emits a constant that is not zero."""
    generator = torch.Generator().manual_seed(3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return net.eval()


def kill(net: nn.Module, **filters: list[int]) -> nn.Module:
    for name, dead in filters.items():
        net.get_submodule(name).get_parameter("weight").data[dead] = 0
    return net


def plain() -> nn.Module:
    net = Net(
        lambda m, x: m.c(functional.relu(m.bn(m.b(functional.silu(m.a(x)))))),
        a=conv(3, 6),
        b=conv(6, 8, bias=False),
        bn=nn.BatchNorm2d(8),
        c=conv(8, 2),
    )
    return settle(net)


def residual() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = functional.relu(m.bn0(m.stem(x)))
        return m.out(functional.relu(x + m.bn2(m.b(functional.relu(m.bn1(m.a(x)))))))

    layers = {"stem": conv(3, 8), "a": conv(8, 6), "b": conv(6, 8), "out": conv(8, 2)}
    norms = {"bn0": nn.BatchNorm2d(8), "bn1": nn.BatchNorm2d(6), "bn2": nn.BatchNorm2d(8)}
    return settle(Net(forward, **layers, **norms))


IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def test_a_dead_filter_goes_with_its_batch_norm_and_its_readers() -> None:
    net = kill(plain(), a=[1], b=[0, 7])
    small, result = shrink(net, IMAGE)
    shapes = {name: tuple(p.shape) for name, p in small.named_parameters() if p.dim() == 4}
    assert shapes == {"a.weight": (5, 3, 3, 3), "b.weight": (6, 5, 3, 3), "c.weight": (2, 6, 3, 3)}
    assert small.get_submodule("bn").num_features == 6
    assert small.get_submodule("b").out_channels == 6 and small.get_submodule("c").in_channels == 6
    kept = [i for i in range(8) if i not in (0, 7)]
    torch.testing.assert_close(
        small.get_parameter("b.weight"), net.get_parameter("b.weight")[kept][:, [0, 2, 3, 4, 5]]
    )
    torch.testing.assert_close(small.get_buffer("bn.running_var"), net.get_buffer("bn.running_var")[kept])
    assert result.parameters == (
        sum(p.numel() for p in net.parameters()),
        sum(p.numel() for p in small.parameters()),
    )
    assert result.filters == (16, 13) and result.left == ()


def test_the_outputs_are_those_of_the_network_with_dead_filters_silenced() -> None:
    """By hand: weights, bias, and the batch norm's scale, shift and mean of a dead filter are zero."""
    net = kill(plain(), a=[1], b=[0, 7])
    small, result = shrink(net, IMAGE)
    by_hand = kill(plain(), a=[1], b=[0, 7])
    by_hand.load_state_dict(net.state_dict())
    by_hand.get_parameter("a.bias").data[1] = 0
    for tensor in ("weight", "bias", "running_mean"):
        dict(by_hand.get_submodule("bn").state_dict())[tensor][[0, 7]] = 0
    assert compare(by_hand, small, IMAGE) < 1e-12
    assert result.difference < 1e-12
    # The constants that dead filters emitted are gone: that is a change, and it is told.
    assert result.silenced == pytest.approx(compare(net, by_hand, IMAGE)) and result.silenced > 0.01


def test_the_network_is_not_changed() -> None:
    net = kill(plain(), b=[0])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    shrink(net, IMAGE)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_filter_of_a_sum_goes_only_where_every_branch_is_dead() -> None:
    small, result = shrink(kill(residual(), stem=[1, 2, 3], b=[2, 3, 4]), IMAGE)
    widths = {n: m.out_channels for n, m in small.named_modules() if isinstance(m, nn.Conv2d)}
    assert widths == {"stem": 6, "a": 6, "b": 6, "out": 2}
    assert result.difference < 1e-12
    assert {(left.module, left.filters, left.why) for left in result.left} == {
        ("stem", 1, "another branch of its sum is alive"),
        ("b", 1, "another branch of its sum is alive"),
    }


def test_an_input_channel_that_nobody_reads_takes_its_filter_along_and_changes_nothing() -> None:
    net = plain()
    net.get_parameter("c.weight").data[:, [2, 5]] = 0
    small, result = shrink(net, IMAGE)
    assert small.get_submodule("b").out_channels == 6
    assert result.silenced < 1e-12


def test_death_spreads_to_filters_that_read_dead_ones_alone() -> None:
    net = kill(plain(), a=[1, 2])
    net.get_parameter("b.weight").data[3, [0, 3, 4, 5]] = 0
    small, _ = shrink(net, IMAGE)
    assert small.get_submodule("a").out_channels == 4 and small.get_submodule("b").out_channels == 7


def test_a_concatenation_keeps_its_order() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        up = functional.interpolate(m.a(functional.max_pool2d(x, 3)), scale_factor=3.0)
        return m.out(torch.cat([up, m.b(x)], 1))

    net = kill(Net(forward, a=conv(3, 4), b=conv(3, 6), out=conv(10, 2)).eval(), a=[0], b=[1, 5])
    small, result = shrink(net, IMAGE)
    torch.testing.assert_close(
        small.get_parameter("out.weight"), net.get_parameter("out.weight")[:, [1, 2, 3, 4, 6, 7, 8]]
    )
    assert result.difference < 1e-12


def test_a_depthwise_convolution_follows_its_input() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = functional.relu(m.bn1(m.a(x)))
        return m.out(functional.relu(m.bn2(m.dw(x))))

    layers = {"a": conv(3, 8), "dw": conv(8, 8, groups=8), "out": conv(8, 2)}
    net = settle(Net(forward, **layers, bn1=nn.BatchNorm2d(8), bn2=nn.BatchNorm2d(8)))
    small, result = shrink(kill(net, a=[0, 3]), IMAGE)
    depthwise = small.get_submodule("dw")
    assert depthwise.groups == depthwise.in_channels == depthwise.out_channels == 6
    assert tuple(depthwise.get_parameter("weight").shape) == (6, 1, 3, 3)
    assert result.difference < 1e-12


def test_a_transposed_convolution_and_a_flattened_image() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.linear(functional.relu(m.up(functional.relu(m.a(x)))).flatten(1))

    up = nn.ConvTranspose2d(6, 4, 2, stride=2)
    net = Net(forward, a=conv(3, 6), up=up, linear=nn.Linear(4 * 18 * 18, 5)).eval()
    kill(net, a=[2])
    up.weight.data[:, [1, 3]] = 0
    small, result = shrink(net, IMAGE)
    assert tuple(small.get_parameter("up.weight").shape) == (5, 2, 2, 2)
    assert small.get_submodule("linear").in_features == 2 * 18 * 18
    assert result.difference < 1e-12


def test_what_mixes_channels_keeps_them_and_says_so() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.a(x)
        n, c, h, w = x.shape
        return m.out(m.b(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)))

    net = kill(Net(forward, a=conv(3, 6), b=conv(6, 6), out=conv(6, 2)).eval(), a=[0, 1], b=[0])
    small, result = shrink(net, IMAGE)
    assert small.get_submodule("a").out_channels == 6 and small.get_submodule("b").out_channels == 5
    assert [(left.module, left.filters) for left in result.left] == [("a", 2)]
    assert "may mix channels (Transpose)" in result.left[0].why


def test_a_grouped_convolution_keeps_its_inputs() -> None:
    net = Net(lambda m, x: m.out(m.b(m.a(x))), a=conv(3, 6), b=conv(6, 6, groups=2), out=conv(6, 2)).eval()
    with pytest.raises(ConfigError, match=r"no dead filter that could go \(a: b is a grouped convolution\)"):
        shrink(kill(net, a=[0, 3]), IMAGE)


def test_the_result_of_the_network_stays_whole() -> None:
    with pytest.raises(ConfigError, match="no dead filter that could go"):
        shrink(kill(plain(), c=[0]), IMAGE)


def test_named_layers_are_kept() -> None:
    net = kill(plain(), a=[0], b=[1])
    small, _ = shrink(net, IMAGE, find_dead(net, channels_of(net, IMAGE, keep=["b"])))
    assert small.get_submodule("a").out_channels == 5 and small.get_submodule("b").out_channels == 8


def test_a_layer_of_dead_filters_alone_keeps_one() -> None:
    small, result = shrink(kill(plain(), b=list(range(8))), IMAGE)
    assert small.get_submodule("b").out_channels == 1
    assert result.difference < 1e-12


def test_widths_can_be_asked_for() -> None:
    net = kill(plain(), b=[0, 1, 2])
    plan = find_dead(net, channels_of(net, IMAGE), lambda name, alive: -(-alive // 2) * 2)
    small, result = shrink(net, IMAGE, plan)
    assert small.get_submodule("b").out_channels == 6 and small.get_submodule("a").out_channels == 6
    assert [(left.module, left.filters, left.why) for left in result.left] == [
        ("b", 1, "the layer keeps a width")
    ]


def test_a_dense_network_has_nothing_to_remove() -> None:
    with pytest.raises(
        ConfigError, match=r"no dead filter that could go; prune with prune\.projection=filter"
    ):
        shrink(plain(), IMAGE)


def test_other_outputs_are_refused() -> None:
    """A gate of zero is half open: what a dead filter gives behind a sigmoid is one half, and does not go unseen."""
    net = Net(lambda m, x: m.b(torch.sigmoid(m.a(x))), a=conv(3, 6), b=conv(6, 2)).eval()
    with pytest.raises(ConfigError, match=r"has other outputs: they differ by .* expected at most 1e-05"):
        shrink(kill(net, a=[0]), IMAGE)


def test_an_untraceable_network_is_refused_in_one_line() -> None:
    net = Net(lambda m, x: m.a(x).detach(), a=conv(3, 4))
    with pytest.raises(ConfigError) as error:
        shrink(net, IMAGE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("make", "size"), [(resnet_thin(20), 32), (resnet18, 16)])
def test_residual_classifiers(make: Callable[[int, int], nn.Module], size: int) -> None:
    torch.manual_seed(0)
    net = settle(make(10, 3))
    stage = list(range(0, 16, 3))
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            inner = name.endswith("conv1") and "." in name
            dead = torch.randperm(module.out_channels)[: module.out_channels // 2].tolist()
            module.weight.data[dead if inner else stage] = 0
    image = torch.randn(2, 3, size, size)
    small, result = shrink(net, image)
    assert result.difference < 1e-12
    for name, module in small.named_modules():
        if isinstance(module, nn.Conv2d) and name.endswith("conv1") and "." in name:
            assert module.out_channels == net.get_submodule(name).out_channels // 2
    if make is resnet18:  # the thin ones pad their sums with zero channels, which keeps those as they are
        assert small.get_submodule("layer1.0.conv2").out_channels == 64 - len(stage)
    else:
        assert any("pad" in left.why for left in result.left)


@pytest.mark.parametrize("make", [plain, residual])
def test_a_fresh_network_is_resized_to_the_weights_of_a_shrunk_one(make: Callable[[], nn.Module]) -> None:
    net = make()
    dead = {
        name: [1] for name, m in net.named_modules() if isinstance(m, nn.Conv2d) and name not in ("c", "out")
    }
    small, _ = shrink(kill(net, **dead), IMAGE)
    again = make()
    resize_to(again, small.state_dict())
    again.load_state_dict(small.state_dict())
    assert compare(small, again, IMAGE) == 0
    for name, module in again.named_modules():
        if isinstance(module, nn.Conv2d):
            twin = small.get_submodule(name)
            assert (module.in_channels, module.out_channels) == (twin.in_channels, twin.out_channels)


def test_resizing_never_widens_a_layer_or_changes_a_kernel() -> None:
    net = plain()
    shapes = {name: p.shape for name, p in net.named_parameters()}
    wide = {
        "a.weight": torch.zeros(1 << 10, 3, 3, 3),
        "a.bias": torch.zeros(1 << 10),
        "c.weight": torch.zeros(2, 8, 1, 1),
    }
    resize_to(net, wide)
    assert {name: p.shape for name, p in net.named_parameters()} == shapes


def test_a_depthwise_layer_is_resized_with_its_groups() -> None:
    net = nn.Sequential(conv(8, 8, groups=8))
    resize_to(net, {"0.weight": torch.zeros(5, 1, 3, 3), "0.bias": torch.zeros(5)})
    assert (net[0].groups, net[0].in_channels, net[0].out_channels) == (5, 5, 5)
    assert net(torch.randn(1, 5, 4, 4)).shape == (1, 5, 4, 4)


def test_the_layers_that_need_one_mask_are_those_that_are_added_up() -> None:
    net = residual()
    assert sums(channels_of(net, IMAGE)) == [("stem", "b")]
    assert sums(channels_of(net, IMAGE, keep=["b"])) == []
    assert sums(channels_of(plain(), IMAGE)) == []


def test_silencing_and_removing_are_two_steps() -> None:
    net = kill(plain(), b=[4])
    plan = find_dead(net, channels_of(net, IMAGE))
    zero_dead(net, plan)
    before = net(IMAGE).detach()
    assert float(net.get_buffer("bn.running_mean")[4]) == 0
    assert float(net.get_buffer("bn.running_var")[4]) > 0
    remove(net, plan)
    torch.testing.assert_close(net(IMAGE), before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))


@pytest.mark.slow
def test_the_bench_halves_every_layer_but_the_heads_and_measures_both_networks() -> None:
    pytest.importorskip("onnx", reason="needs the export extra")
    pytest.importorskip("onnxruntime", reason="needs the export extra")
    rows = shrinking.classifiers(Settings(threads=1, quick=True))
    found = {(row.name, row.setting.split(",")[0]): row for row in rows}
    # Of 13 convolutions half of the filters and half of the inputs go: a quarter, but for the first and the last layer.
    assert found["parameters, shrunk", "cifar_vgg16"].measured == pytest.approx(0.25, abs=0.001)
    assert found["parameters, shrunk", "cifar_resnet20"].measured == pytest.approx(0.503, abs=0.001)
    assert all(len(row.details["shrunk_seconds"]) == 2 for row in rows if row.name == "latency, shrunk")

"""Small networks for the tests of the runtime: what a detector, a lane finder or a classifier is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def settle(model: nn.Module, density: float = 0.3, seed: int = 0) -> nn.Module:
    """Give a network zeros, batch-norm statistics that matter, and evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0.0, 0.3, generator=generator)
            parameter.data.mul_(torch.rand(parameter.shape, generator=generator) < density)
        else:
            parameter.data.uniform_(-0.5, 1.0, generator=generator)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0.0, 0.3, generator=generator)
            module.running_var.uniform_(0.3, 2.0, generator=generator)
    return model.eval()


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 0.5


class Function(nn.Module):
    """Layers by name, and what is done with them."""

    def __init__(self, call: Callable[..., object], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.call = call

    def forward(self, *inputs: Tensor) -> object:
        return self.call(self, *inputs)


def conv(inputs: int, outputs: int, kernel: int = 3, **more: int) -> nn.Sequential:
    more.setdefault("padding", kernel // 2)
    layer = nn.Conv2d(inputs, outputs, kernel, bias=False, **more)  # type: ignore[arg-type]
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1))


class Residual(nn.Module):
    """A block of a ResNet, with a projection where the size changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )
        self.two = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        same = stride == 1 and inputs == outputs
        self.short = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.two(self.one(x)) + self.short(x))


def resnet() -> nn.Module:
    body = nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1), Residual(8, 8, 1),
        Residual(8, 12, 2), Residual(12, 12, 1),
    )  # fmt: skip
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))


def yolo() -> nn.Module:
    """The shape of yolov3-tiny: pools, a maximum with stride 1, a route that is enlarged and concatenated."""

    def call(m: nn.Module, x: Tensor) -> object:
        a = m.a(x)
        b = m.b(a)
        return [m.h1(b), m.h2(torch.cat([m.up(m.r(b)), a], 1))]

    return Function(
        call,
        a=nn.Sequential(conv(3, 6), nn.MaxPool2d(2, 2), conv(6, 9), nn.MaxPool2d(2, 2), conv(9, 10)),
        b=nn.Sequential(
            nn.MaxPool2d(2, 2), conv(10, 16), nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1), conv(16, 8, 1)
        ),
        h1=nn.Sequential(conv(8, 12), nn.Conv2d(12, 15, 1)),
        r=conv(8, 5, 1),
        up=nn.Upsample(scale_factor=2),
        h2=nn.Sequential(conv(15, 12), nn.Conv2d(12, 15, 1)),
    )


def c2f() -> nn.Module:
    """A block of newer YOLOs: its input is cut in two, and everything is put together again."""

    def call(m: nn.Module, x: Tensor) -> object:
        parts = list(m.first(x).chunk(2, 1))
        parts.append(m.deeper(parts[-1]))
        parts.append(m.deepest(parts[-1]) + parts[-1])
        return m.last(torch.cat(parts, 1))

    return Function(call, first=conv(3, 8, 1), deeper=conv(4, 4), deepest=conv(4, 4), last=conv(16, 7, 1))


def mobile() -> nn.Module:
    """Depthwise convolutions and ReLU6, which the library lacks."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 6, 1), nn.Conv2d(6, 12, 5, 2, 2, groups=3), nn.Hardswish(), nn.Conv2d(12, 4, 1),
    )  # fmt: skip


def pillars() -> nn.Module:
    """The 2D network of a PointPillars: transposed convolutions bring three sizes together."""

    def call(m: nn.Module, x: Tensor) -> object:
        one = m.one(x)
        two = m.two(one)
        three = m.three(two)
        joined = torch.cat([m.up1(one), m.up2(two), m.up4(three)], 1)
        return m.head(joined).permute(0, 2, 3, 1), m.box(joined)

    def up(inputs: int, factor: int) -> nn.Module:
        layer = nn.ConvTranspose2d(inputs, 6, factor, factor, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(6), nn.ReLU())

    return Function(
        call, one=conv(3, 8, stride=2), two=conv(8, 10, stride=2), three=conv(10, 12, stride=2), up1=up(8, 1),
        up2=up(10, 2), up4=up(12, 4), head=nn.Conv2d(18, 6, 1), box=nn.Conv2d(18, 14, 1),
    )  # fmt: skip


def mixer() -> nn.Module:
    """Linear layers over rows of tokens, and over columns of them."""

    def call(m: nn.Module, x: Tensor) -> object:
        tokens = m.stem(x).flatten(2).transpose(1, 2)
        tokens = tokens + m.across(m.norm(tokens).transpose(1, 2)).transpose(1, 2)
        return m.out(F.silu(m.hidden(tokens)).mean(1))

    return Function(
        call, stem=nn.Conv2d(3, 10, 4, 4), across=nn.Sequential(nn.Linear(12, 9), nn.GELU(), nn.Linear(9, 12)),
        norm=nn.LayerNorm(10), hidden=nn.Linear(10, 20), out=nn.Linear(20, 5),
    )  # fmt: skip


def odd() -> nn.Module:
    """Everything with sizes that are a multiple of nothing: dilation, uneven kernels and strides, no padding."""
    return nn.Sequential(
        nn.Conv2d(3, 5, (3, 1), padding=(0, 2)), nn.SiLU(), nn.Conv2d(5, 7, 3, padding=2, dilation=2), nn.ReLU(),
        nn.Conv2d(7, 6, (2, 3), stride=(1, 2), padding=(1, 0)), nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.ZeroPad2d((2, 1, 0, 3)), nn.Conv2d(6, 4, 3, stride=3), nn.Conv2d(4, 3, 1),
    )  # fmt: skip


def preactivated() -> nn.Module:
    """Batch norms and activations that no layer stands before; a concatenation that grows."""

    def call(m: nn.Module, x: Tensor) -> object:
        one = m.one(F.relu(m.norm1(x)))
        both = torch.cat([x, one], 1)
        two = m.two(F.leaky_relu(m.norm2(both), 0.2))
        return m.last(torch.cat([both, two], 1)), both[:, 2:5]

    return Function(
        call, norm1=nn.BatchNorm2d(3), one=nn.Conv2d(3, 4, 3, padding=1), norm2=nn.BatchNorm2d(7),
        two=nn.Conv2d(7, 4, 3, padding=1), last=nn.Conv2d(11, 5, 1),
    )  # fmt: skip


def reused() -> nn.Module:
    """Values that are needed often: as parts of two concatenations, twice in one, and as outputs."""

    def call(m: nn.Module, x: Tensor) -> object:
        a, b = m.a(x), m.b(x)
        one = torch.cat([a, b], 1)
        two = torch.cat([b, a, b], 1)
        return {
            "one": m.one(one),
            "two": m.two(two),
            "a": a,
            "none": None,
            "x": x,
            "mean": two.mean((2, 3)),
            "b": b,
        }

    return Function(call, a=conv(3, 4), b=conv(3, 5), one=conv(9, 6), two=conv(14, 6))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (resnet, (1, 3, 37, 51)),
    "resnet, two images": (resnet, (2, 3, 32, 32)),
    "yolo": (yolo, (1, 3, 40, 56)),
    "yolo, three images": (yolo, (3, 3, 24, 24)),
    "c2f": (c2f, (2, 3, 9, 13)),
    "mobile": (mobile, (1, 3, 29, 31)),
    "pillars": (pillars, (1, 3, 16, 24)),
    "mixer": (mixer, (2, 3, 12, 16)),
    "odd": (odd, (2, 3, 23, 17)),
    "preactivated": (preactivated, (2, 3, 7, 11)),
    "reused": (reused, (1, 3, 5, 6)),
    "one pixel": (reused, (2, 3, 1, 1)),
}


def _conv(a: Tensor, number: int) -> nn.Module:
    inputs = a.shape[1]
    if number == 6:
        return nn.Sequential(nn.Conv2d(inputs, inputs, 3, 1, 1, groups=inputs), nn.ReLU())
    kernel, stride, dilation, padding = (
        (1, 1, 1, 0),
        (3, 1, 1, 1),
        (3, 2, 1, 1),
        (3, 1, 2, 2),
        (2, 1, 1, 1),
        (5, 1, 1, 2),
    )[number]
    outputs = 2 + number
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation), nn.BatchNorm2d(outputs), nn.SiLU()
    )  # fmt: skip


def _transposed(a: Tensor, number: int) -> nn.Module:
    factor = 1 + number % 3
    return nn.ConvTranspose2d(a.shape[1], 3, factor, factor)


#: Steps of a woven net: layers for a value, by a number from 0 to 6.
STEPS: dict[str, Callable[[Tensor, int], nn.Module]] = {
    "conv": _conv,
    "conv again": _conv,
    "transposed": _transposed,
    "norm": lambda a, number: nn.BatchNorm2d(a.shape[1]),
    "activation": lambda a, number: (
        nn.ReLU(),
        nn.SiLU(),
        nn.LeakyReLU(0.2),
        nn.ReLU6(),
        nn.Hardswish(),
        nn.GELU(),
        nn.ELU(),
    )[number],
    "pool": lambda a, number: (
        nn.MaxPool2d(2, 2) if number < 3 and min(a.shape[2:]) > 1 else nn.MaxPool2d(3, 1 + number % 2, 1)
    ),
    "upsample": lambda a, number: nn.Upsample(scale_factor=1 + number % 2),
    "pad": lambda a, number: nn.ZeroPad2d((number % 2, number % 3, number // 3, number // 4)),
    "concat": lambda a, number: nn.Identity(),
    "sum": lambda a, number: nn.Identity(),
    "slice": lambda a, number: nn.Identity(),
}


class Woven(nn.Module):
    """A net of steps, each on a value made before; concatenations and sums take all values of one size."""

    def __init__(self, steps: list[tuple[str, int, int]], image: Tensor) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleList()
        self.eval()
        values = [image]
        for kind, number, place in steps:
            value = values[place % len(values)]
            self.layers.append(STEPS[kind](value, number).eval())
            values.append(self.step(kind, self.layers[-1], number, value, values))

    def step(self, kind: str, layer: nn.Module, number: int, value: Tensor, values: list[Tensor]) -> Tensor:
        alike = [other for other in values if other.shape[2:] == value.shape[2:]]
        if kind == "concat":
            return torch.cat([value, *alike[: number % 3 + 1]], 1)
        if kind == "sum":
            return value + next(other for other in alike[::-1] if other.shape == value.shape)
        if kind == "slice":
            return value[:, number % value.shape[1] :]
        result = layer(value)
        assert isinstance(result, Tensor)
        return result

    def forward(self, image: Tensor) -> list[Tensor]:
        values = [image]
        for (kind, number, place), layer in zip(self.steps, self.layers, strict=True):
            values.append(self.step(kind, layer, number, values[place % len(values)], values))
        return values[len(values) // 2 :]

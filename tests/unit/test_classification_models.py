"""The networks for small images: their names, their sizes, and what they compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from slr_det.data.augment import augment_batch, normalise
from slr_det.data.classification import MemorySplit, open_classification
from slr_det.errors import ConfigError
from slr_det.metrics.classification import TopK
from slr_det.models import build, names
from slr_det.models.cifar import PaddedShortcut
from slr_det.projections.registry import budget

#: As published by the two collections, for ten classes and three channels.
PARAMETERS = {
    "cifar_resnet18": 11_173_962,
    "cifar_resnet50": 23_520_842,
    "cifar_resnet20": 269_722,
    "cifar_resnet32": 464_154,
    "cifar_resnet44": 658_586,
    "cifar_resnet56": 853_018,
    "cifar_resnet110": 1_727_962,
    "cifar_vgg16": 14_728_266,
    "digits_cnn": 59_050,
}


def test_every_network_has_the_published_number_of_parameters() -> None:
    assert names() == list(PARAMETERS)
    counts = {name: sum(p.numel() for p in build(name, 10).parameters()) for name in names()}
    assert counts == PARAMETERS


def test_resnet18_at_a_tenth_of_its_block_convolutions_is_compressed_8_711_times() -> None:
    """What counts is every parameter called ``weight``: those of convolutions and of the linear layer, and the scales
    of batch norm (4,800), but no bias. Only the sixteen 3x3 convolutions of the blocks are pruned, each to
    round(0.1 n); the first convolution, the three 1x1 shortcuts and the linear layer stay dense.
    """
    model = build("cifar_resnet18", 10)
    weights = {name: p for name, p in model.named_parameters() if name.endswith(".weight")}
    blocks = [name for name, p in weights.items() if name.startswith("layer") and p.shape[2:] == (3, 3)]
    assert len(blocks) == 16
    left = {name: budget(0.1, p.numel()) if name in blocks else p.numel() for name, p in weights.items()}
    assert sum(p.numel() for p in weights.values()) == 11_169_152
    assert sum(left.values()) == 1_282_227
    assert round(11_169_152 / 1_282_227, 3) == 8.711
    # Without the scales, as the report's tally of weights of more than one dimension has it.
    matrices = {name: p for name, p in weights.items() if p.dim() > 1}
    assert sum(p.numel() for p in matrices.values()) == 11_164_352
    assert sum(left[name] for name in matrices) == 1_277_427


def test_the_digits_network_has_58144_weights() -> None:
    model = build("digits_cnn", 10, 1)
    assert sum(p.numel() for p in model.parameters() if p.dim() > 1) == 58_144


@pytest.mark.parametrize("name", names())
def test_logits_have_one_column_per_class(name: str) -> None:
    channels = 1 if name == "digits_cnn" else 3
    model = build(name, 7, channels).eval()
    side = 8 if name == "digits_cnn" else 32
    with torch.no_grad():
        logits = model(torch.randn(2, channels, side, side))
    assert logits.shape == (2, 7) and bool(logits.isfinite().all())


def test_names_are_those_of_the_published_checkpoints() -> None:
    thin = build("cifar_resnet20", 10).state_dict()
    assert [k for k in thin if k.startswith("layer2.0") and k.endswith("weight")] == [
        "layer2.0.conv1.weight", "layer2.0.bn1.weight", "layer2.0.conv2.weight", "layer2.0.bn2.weight",
    ]  # fmt: skip
    assert not [k for k in thin if "shortcut" in k]
    wide = build("cifar_resnet18", 10).state_dict()
    assert [k for k in wide if "shortcut" in k and k.endswith("weight")] == [
        f"layer{stage}.0.shortcut.{part}.weight" for stage in (2, 3, 4) for part in (0, 1)
    ]
    assert wide["layer4.0.shortcut.0.weight"].shape == (512, 256, 1, 1)
    assert wide["conv1.weight"].shape == (64, 3, 3, 3) and wide["linear.weight"].shape == (10, 512)
    deep = build("cifar_resnet50", 10).state_dict()
    assert deep["layer1.0.shortcut.0.weight"].shape == (256, 64, 1, 1)
    assert deep["layer3.5.conv3.weight"].shape == (1024, 256, 1, 1)
    vgg = build("cifar_vgg16", 10).state_dict()
    convolutions = [int(k.split(".")[1]) for k in vgg if k.startswith("features") and vgg[k].dim() == 4]
    assert convolutions == [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]
    assert vgg["features.40.bias"].shape == (512,) and vgg["features.1.running_var"].shape == (64,)
    assert vgg["classifier.weight"].shape == (10, 512)


def shaken(name: str) -> torch.nn.Module:
    """A network whose batch norms are no identities."""
    torch.manual_seed(3)
    model = build(name, 10).eval()
    for key, value in model.state_dict().items():
        if "running_mean" in key or (".bn" in key and key.endswith("bias")):
            value.normal_(0, 0.1)
        elif "running_var" in key:
            value.uniform_(0.5, 2)
    return model


def by_formula(s: dict[str, Tensor], x: Tensor, blocks: tuple[int, ...], deep: bool) -> Tensor:
    """A residual network written out from its state dict."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = s[f"{name}.running_mean"], s[f"{name}.running_var"]
        return functional.batch_norm(x, mean, var, s[f"{name}.weight"], s[f"{name}.bias"])

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = s[f"{name}.weight"]
        return functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = norm(conv(x, "conv1"), "bn1").relu()
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = norm(conv(x, f"{at}.conv1", 1 if deep else stride), f"{at}.bn1").relu()
            y = norm(conv(y, f"{at}.conv2", stride if deep else 1), f"{at}.bn2")
            if deep:
                y = norm(conv(y.relu(), f"{at}.conv3"), f"{at}.bn3")
            if f"{at}.shortcut.0.weight" in s:
                x = norm(conv(x, f"{at}.shortcut.0", stride), f"{at}.shortcut.1")
            x = (x + y).relu()
    pooled = functional.avg_pool2d(x, 4).flatten(1)
    return pooled @ s["linear.weight"].T + s["linear.bias"]


@pytest.mark.parametrize(
    ("name", "blocks", "deep"),
    [("cifar_resnet18", (2, 2, 2, 2), False), ("cifar_resnet50", (3, 4, 6, 3), True)],
)
def test_a_residual_network_computes_what_its_formula_says(
    name: str, blocks: tuple[int, ...], deep: bool
) -> None:
    model = shaken(name)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found, wanted = model(x), by_formula(model.state_dict(), x, blocks, deep)
    assert float((found - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())


def test_the_shortcut_without_parameters_takes_every_second_pixel_and_adds_zeros() -> None:
    x = torch.randn(2, 4, 6, 6)
    found = PaddedShortcut(4, 8, 2)(x)
    wanted = torch.zeros(2, 8, 3, 3)
    for c in range(4):
        for i in range(3):
            for j in range(3):
                wanted[:, c + 2, i, j] = x[:, c, 2 * i, 2 * j]
    assert torch.equal(found, wanted)


def test_an_unknown_network_or_a_wrong_number_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"'resnet18' \(did you mean 'cifar_resnet18'\?\); there are: cifar_"
    ):
        build("resnet18", 10)
    with pytest.raises(
        ConfigError, match=r"classes is 1, expected at least 2; .*channels is 0, expected at l"
    ):
        build("cifar_vgg16", 1, 0)


def train_digits(epochs: int) -> float:
    data = open_classification("digits")
    assert isinstance(data.train, MemorySplit) and isinstance(data.val, MemorySplit)
    torch.manual_seed(0)
    model = build("digits_cnn", 10, 1)
    generator = torch.Generator().manual_seed(0)
    # Written out: the first step of one of torch's own optimizers takes seconds of importing.
    parameters = list(model.parameters())
    momenta = [torch.zeros_like(p) for p in parameters]
    for epoch in range(epochs):
        rate = 0.05 * (1 - epoch / epochs)
        for batch in torch.randperm(len(data.train), generator=generator).split(64):
            images = augment_batch(data.train.images[batch], generator, 1, False)
            logits = model(normalise(images, data.mean, data.std))
            loss = functional.cross_entropy(logits, data.train.labels[batch])
            with torch.no_grad():
                for p, m, g in zip(parameters, momenta, torch.autograd.grad(loss, parameters), strict=True):
                    m.mul_(0.9).add_(g + 5e-4 * p)
                    p.sub_(m, alpha=rate)
    metric = TopK(data.classes)
    with torch.no_grad():
        metric.process(model.eval()(normalise(data.val.images, data.mean, data.std)), data.val.labels)
    return metric.evaluate().metrics["top1"]


def test_the_digits_network_learns() -> None:
    assert train_digits(4) > 0.9


@pytest.mark.slow
def test_the_digits_network_reaches_98_percent() -> None:
    assert train_digits(30) > 0.98

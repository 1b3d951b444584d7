"""Shrunk checkpoints in their own trainers: they load, predict the same, and train on at their smaller size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from slr_det import classify, yolo
from slr_det.adapter import EvalJob, TrainJob, load_adapter
from slr_det.shrink import compare

pytest.importorskip("torch_pruning", reason="needs the shrink extra")

DIGITS = {"lr": 0.05, "batch": 50, "pad": 1, "flip": False}
STEPS = {"imgsz": 64, "batch": 10, "workers": 0, "mosaic": 0}


def without(share: float, model: nn.Module, heads: set[str], seed: int = 5) -> nn.Module:
    """Zero a share of the filters of every convolution, and give batch norms something to emit."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 4 and name not in heads:
            count = int(len(parameter) * share)
            parameter.data[torch.randperm(len(parameter), generator=generator)[:count]] = 0
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.uniform_(-1, 1, generator=generator)
            module.running_mean.uniform_(-1, 1, generator=generator)
    return model


def pruned_yolo(architecture: str, target: Path, share: float = 0.5, classes: int = 3) -> str:
    from slr_det_adapters.ultralytics import models

    torch.manual_seed(0)
    model = models.build_architecture(architecture, classes)
    models.write_native(target, without(share, model, set(models.outputs(model))), {}, phase="pruned")
    return str(target)


def load(path: str | Path) -> Any:
    from slr_det_adapters.ultralytics import models

    return models.load_native(str(path))[0]


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error:")]


def test_yolov3_tiny_at_half_of_its_filters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pruned_yolo("yolov3-tiny.yaml", tmp_path / "pruned.pt", classes=80)
    target = tmp_path / "small.pt"
    assert yolo.main(["shrink", source, "-o", str(target), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    before, after = found["parameters"]
    assert after <= 0.3 * before
    assert found["difference"] <= 1e-5 and found["silenced"] > 1e-3
    assert found["bytes"][1] <= 0.3 * found["bytes"][0]
    assert sum(p.numel() for p in load(target).parameters()) == after
    # Only the towers of the head, whose widths ultralytics computes, keep filters that are dead.
    assert {left["why"] for left in found["left"]} == {"the layer keeps a width"}
    assert all(left["module"].startswith("model.20.") for left in found["left"])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, tiny_yaml: Path) -> Path:
    folder = tmp_path_factory.mktemp("shrunk")
    source = pruned_yolo(str(tiny_yaml), folder / "pruned.pt", classes=6)
    load_adapter("ultralytics").shrink(source, folder / "small.pt")  # type: ignore[attr-defined]
    return folder / "small.pt"


def test_the_small_model_predicts_as_the_pruned_one_with_its_dead_filters_silenced(small: Path) -> None:
    """The reference is made by hand: a dead filter's batch norm has no scale, shift and mean. Those of the box towers,
    which keep their width, go on emitting what they did.
    """
    from slr_det_adapters.ultralytics import models

    pruned = load(small.parent / "pruned.pt")
    shrunk = load(small)
    names = [name.removesuffix(".weight") for name in models.outputs(pruned)]
    for name, module in pruned.named_modules():
        if isinstance(module, nn.Conv2d) and name not in names and ".cv2." not in name:
            dead = module.weight.flatten(1).abs().sum(1) == 0
            norm = pruned.get_submodule(name.removesuffix("conv") + "bn")
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
                tensor[dead] = 0
    widths = [shrunk.model[i].conv.out_channels for i in range(6)]
    assert widths == [8, 8, 16, 16, 16, 16]  # halves, in multiples of eight
    assert compare(pruned, shrunk, torch.rand(2, 3, 64, 64), lambda net, x: net(x)[0]) <= 1e-5


def test_plain_ultralytics_trains_it_on_at_its_size(small: Path, tiny_data: Path, tmp_path: Path) -> None:
    from slr_det_adapters.ultralytics.offline import load_ultralytics

    model = load_ultralytics().YOLO(str(small))
    wanted = shapes(model.model)
    start = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    seen: dict[str, Any] = {}
    model.add_callback(
        "on_train_start",
        lambda trainer: seen.update({n: t.detach().clone() for n, t in trainer.model.state_dict().items()}),
    )
    model.train(
        data=str(tiny_data), epochs=1, project=str(tmp_path), name="on", device="cpu", plots=False, **STEPS
    )
    assert start.keys() == seen.keys() and all(torch.equal(start[name], seen[name]) for name in start)
    assert shapes(load(tmp_path / "on" / "weights" / "last.pt")) == wanted


@pytest.mark.parametrize("keep_zeros", [False, True])
def test_slr_det_trains_and_evaluates_it(
    small: Path, tiny_data: Path, tmp_path: Path, keep_zeros: bool
) -> None:
    adapter = load_adapter("ultralytics")
    job = TrainJob(
        str(small), str(tiny_data), str(tmp_path / "t"), 1, STEPS, device="cpu", keep_zeros=keep_zeros
    )
    adapter.train(job, resume=False)
    assert shapes(load(adapter.last(job.folder))) == shapes(load(small))
    metrics = adapter.evaluate(EvalJob(str(small), str(tiny_data), {"imgsz": 64}, "cpu"))
    assert 0 <= metrics["AP50"] <= 1


def test_the_command_line_evaluates_and_trains_it(
    small: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = str(small.parent / "pruned.pt"), str(tmp_path / "small.pt")
    where = ["--data", str(tiny_data), "--size", "64", "--device", "cpu"]
    assert yolo.main(["shrink", source, "-o", target, *where]) == 0
    assert "AP50 " in capsys.readouterr().out
    options = [f"model={target}", f"data={tiny_data}", f"project={tmp_path}", "name=on", "epochs=1"]
    assert yolo.main(["train", *options, "device=cpu", *(f"{k}={v}" for k, v in STEPS.items())]) == 0
    assert shapes(load(tmp_path / "on" / "dense.pt")) == shapes(load(target))


def test_groups_are_settings_that_prune_a_residual_classifier(capsys: pytest.CaptureFixture[str]) -> None:
    """What --groups prints goes into a configuration as it is; all sums of a ResNet-18 are in it."""
    pytest.importorskip("timm", reason="needs the classify extra")
    assert classify.main(["shrink", "cifar_resnet18", "--groups"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)["prune"]
    params = [name for group in found["groups"] for name in group["params"]]
    assert sorted(params) == sorted(
        ["conv1.weight"]
        + [f"layer{stage}.{block}.conv2.weight" for stage in (1, 2, 3, 4) for block in (0, 1)]
        + [f"layer{stage}.0.shortcut.0.weight" for stage in (2, 3, 4)]
    )
    settings = [f"prune.groups={json.dumps(found['groups'])}", "prune.projection=filter", "prune.keep=0.5"]
    assert classify.main(["analyze", "model=cifar_resnet18", *settings]) == 0
    assert "filter:coupled" in capsys.readouterr().out
    assert yolo.main(["shrink", "yolov3-tiny.yaml", "--groups"]) == 0
    assert "no filters are added up" in capsys.readouterr().out


BLOCKS = """\
nc: 6
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, C3, [32]]
  - [-1, 1, Conv, [32, 3, 2]]
head:
  - [-1, 1, Conv, [32, 3, 1]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [[4, 5], 1, Detect, [nc]]
"""


def test_a_model_that_no_description_builds_trains_on_in_slr_det(tiny_data: Path, tmp_path: Path) -> None:
    """Blocks compute their inner widths: ultralytics would build the large model again, silently."""
    (tmp_path / "blocks.yaml").write_text(BLOCKS)
    source = pruned_yolo(str(tmp_path / "blocks.yaml"), tmp_path / "pruned.pt", 0.3, classes=6)
    adapter = load_adapter("ultralytics")
    adapter.shrink(source, tmp_path / "small.pt")  # type: ignore[attr-defined]
    wanted = shapes(load(tmp_path / "small.pt"))
    assert wanted != shapes(load(source))
    job = TrainJob(str(tmp_path / "small.pt"), str(tiny_data), str(tmp_path / "t"), 1, STEPS, device="cpu")
    adapter.train(job, resume=False)
    assert shapes(load(adapter.last(job.folder))) == wanted
    other = TrainJob(**{**vars(job), "epochs": 2, "folder": str(tmp_path / "two")})
    adapter.train(other, resume=False)
    adapter.export(adapter.last(other.folder), tmp_path / "out.pt", other)
    assert shapes(load(tmp_path / "out.pt")) == wanted


def test_mistakes_are_one_line(tmp_path: Path, tiny_yaml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense = pruned_yolo(str(tiny_yaml), tmp_path / "dense.pt", share=0.0)
    assert yolo.main(["shrink", dense, "-o", str(tmp_path / "s.pt")]) == 2
    assert "no dead filter that could go" in lines(capsys.readouterr().err)[0]
    assert not (tmp_path / "s.pt").exists()
    assert yolo.main(["shrink", dense, "-o", dense]) == 2
    assert "is the model itself" in lines(capsys.readouterr().err)[0]
    assert yolo.main(["shrink", str(tmp_path / "none.pt"), "-o", str(tmp_path / "s.pt")]) == 2
    assert "does not exist" in lines(capsys.readouterr().err)[0]
    assert yolo.main(["shrink", "yolov3-tiny.yaml", "-o", str(tmp_path / "s.pt")]) == 2
    assert "is no checkpoint" in lines(capsys.readouterr().err)[0]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned digits network whose accuracy is not zero, and its small twin beside it."""
    pytest.importorskip("timm", reason="needs the classify extra")
    from slr_det_adapters.timm import checkpoints

    folder = tmp_path_factory.mktemp("digits")
    adapter = load_adapter("timm")
    job = TrainJob("digits_cnn", "digits", str(folder / "train"), 4, DIGITS, device="cpu")
    adapter.train(job, resume=False)
    net, card = checkpoints.read(adapter.last(job.folder))
    for parameter in net.parameters():
        if parameter.dim() == 4:
            weakest = parameter.data.flatten(1).norm(dim=1).argsort()
            parameter.data[weakest[: len(weakest) // 4]] = 0
    checkpoints.write(folder / "pruned.pt", net, card, "pruned")
    return folder


def test_a_classifier_shrinks_evaluates_and_trains_on(
    classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from slr_det_adapters.timm import checkpoints

    source, target = str(classifier / "pruned.pt"), str(classifier / "small.pt")
    assert classify.main(["shrink", source, "-o", target, "--data", "digits", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "parameters" in out and "top1" in out and f"model: {target}" in out
    net, card = checkpoints.read(target)
    assert card.shrunk and net.get_submodule("conv2").out_channels == 48
    assert net.get_submodule("linear").in_features == 48 * 4
    assert compare(net, checkpoints.read(target)[0], torch.randn(2, 1, 8, 8)) == 0
    adapter = load_adapter("timm")
    job = TrainJob(target, "digits", str(classifier / "on"), 1, DIGITS, device="cpu")
    adapter.train(job, resume=False)
    after, card = checkpoints.read(adapter.last(job.folder))
    assert card.shrunk and shapes(after) == shapes(net)
    assert adapter.evaluate(EvalJob(adapter.last(job.folder), "digits", {}, "cpu"))["top1"] > 0.6


def test_a_residual_classifier_shrinks_inside_its_blocks(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="needs the classify extra")
    from slr_det_adapters.timm import checkpoints, models
    from slr_det_adapters.timm.cards import Card

    torch.manual_seed(0)
    net = models.build("cifar_resnet20", 10, 3)
    card = Card("cifar_resnet20", tuple("0123456789"), 3, (32, 32), (0.5,) * 3, (0.25,) * 3)
    checkpoints.write(tmp_path / "pruned.pt", without(0.5, net, set()), card, "pruned")
    result = load_adapter("timm").shrink(str(tmp_path / "pruned.pt"), tmp_path / "small.pt")  # type: ignore[attr-defined]
    assert result.parameters[1] < 0.55 * result.parameters[0] and result.difference <= 1e-5
    small, _ = checkpoints.read(str(tmp_path / "small.pt"))
    assert sum(p.numel() for p in small.parameters()) == result.parameters[1]
    assert small(torch.randn(1, 3, 32, 32)).shape == (1, 10)

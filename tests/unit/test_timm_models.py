"""Classifiers by name, weights from files, and the layers that the pruner sees."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from slr_det.adapter import EvalJob
from slr_det.allocation import allocate
from slr_det.errors import CheckpointError, ConfigError, MissingExtraError

pytest.importorskip("timm", reason='needs the classify extra: uv pip install "slr-det[classify]"')

from slr_det_adapters.timm import ClassifierAdapter, checkpoints, models
from slr_det_adapters.timm.cards import Card

ADAPTER = ClassifierAdapter()
# Small networks of timm, one of a kind: bottlenecks, depthwise convolutions, attention, a layer norm after each block.
SMALL = ("test_resnet", "test_efficientnet", "test_vit", "test_convnext")
# The networks of configs/classify and of the README, with what is left dense beside the first and the last layer.
LARGE = {
    "resnet18": set(),
    "resnet50": set(),
    "vgg16_bn": set(),
    "mobilenetv2_100": {"depthwise"},
    "mixer_b16_224": set(),
    "swin_tiny_patch4_window7_224": {"not a conv or linear weight"},
}


def card(model: str = "cifar_resnet20", classes: int = 4) -> Card:
    names = tuple(f"class {n}" for n in range(classes))
    return Card(model, names, 3, (32, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture(scope="module")
def resnet20(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A checkpoint of ResNet-20 for four classes, and its model."""
    torch.manual_seed(0)
    model = models.build("cifar_resnet20", 4, 3)
    path = tmp_path_factory.mktemp("weights") / "resnet20.pt"
    checkpoints.write(path, model, card(), "test")
    return path, model


# -- names ------------------------------------------------------------------------------------------------


def test_a_name_that_timm_lacks_may_go_without_its_family() -> None:
    assert models.full_name("resnet20") == "cifar_resnet20"
    assert models.full_name("resnet18") == "resnet18"  # timm's, for large images
    assert models.classes_of(models.build("resnet20", 7, 3)) == 7


def test_an_unknown_name_is_told_the_nearest_of_all() -> None:
    for name, hint in (("resnet21", "resnet"), ("cifar_resnt20", "cifar_resnet20")):
        with pytest.raises(ConfigError, match=f"there is no model '{name}' \\(did you mean '{hint}"):
            models.build(name, 10, 3)


def test_what_a_network_was_made_for() -> None:
    assert models.made_for("cifar_resnet20") == models.MadeFor(10, (32, 32))
    assert models.made_for("digits_cnn").size == (8, 8)
    vit = models.made_for("test_vit")
    assert vit.size == (160, 160) and vit.only_size and len(vit.mean) == 3
    assert not models.made_for("test_resnet").only_size
    assert models.made_for("swin_tiny_patch4_window7_224.ms_in22k").classes == 21_841


def test_the_family_has_no_published_weights() -> None:
    with pytest.raises(ConfigError, match="weights=FILE"):
        models.build("cifar_resnet20", 10, 3, pretrained=True)


@pytest.mark.parametrize(("package", "job"), [("timm", "build"), ("mmengine", "evaluate")])
def test_a_package_that_is_missing_is_one_line_with_the_command(
    package: str, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = {
        "build": lambda: models.build("resnet18", 10, 3),
        "evaluate": lambda: ADAPTER.evaluate(EvalJob("digits.pt", "digits")),
    }
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r'not installed; run: uv pip install "slr-det\[classify\]"'):
        jobs[job]()
    assert ADAPTER.inspect("cifar_resnet20", 10).classes == 10  # the networks of slr_det need neither


# -- layers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SMALL, "cifar_resnet18", "cifar_vgg16", "digits_cnn"])
def test_the_head_is_the_classifier_and_the_first_layer_reads_the_image(name: str) -> None:
    info = ADAPTER.inspect(name, 7)
    heads = [layer for layer in info.layers if layer.role == "head"]
    (first,) = (layer for layer in info.layers if layer.role == "first")
    assert [layer.shape[0] for layer in heads] == [7] and heads[0].name == info.layers[-1].name
    assert first.shape[1] == (1 if name.startswith("digits") else 3)
    assert info.classes == 7
    assert info.parameters == sum(p.numel() for p in models.build(name, 7, first.shape[1]).parameters())


def test_depthwise_convolutions_stay_dense_unless_they_are_named_in_full() -> None:
    info = ADAPTER.inspect("test_efficientnet", 7)
    depthwise = [layer.name for layer in info.layers if layer.depthwise]
    assert depthwise
    rows = {row.layer.name: row for row in allocate(info.layers, keep=0.5, head="output layer").layers}
    assert {rows[name].reason for name in depthwise} == {"depthwise"}
    rows = {row.layer.name: row for row in allocate(info.layers, keep=0.5, include=depthwise[:1]).layers}
    assert rows[depthwise[0]].keep == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_the_table_of_the_networks_in_the_documents(name: str) -> None:
    info = ADAPTER.inspect(name)
    allocation = allocate(
        info.layers, model_parameters=info.parameters, target_compression=1.7, head="output layer"
    )
    reasons = {row.reason for row in allocation.layers if row.reason}
    assert reasons == {"first layer", "output layer", *LARGE[name]}
    assert allocation.compression()["model"]["rate"] == pytest.approx(1.7, rel=1e-3)
    assert info.classes == 1000


def test_without_data_an_architecture_has_the_classes_that_it_is_known_for(
    resnet20: tuple[Path, nn.Module],
) -> None:
    assert ADAPTER.inspect("cifar_resnet20").classes == 10
    assert ADAPTER.inspect("test_resnet").classes == 1000
    assert ADAPTER.inspect("cifar_resnet20", weights=str(resnet20[0])).classes == 4
    assert ADAPTER.inspect("cifar_resnet20", classes=3, weights=str(resnet20[0])).classes == 3


# -- weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["th", "pth", "pt", "safetensors"])
def test_weights_come_from_any_usual_file(
    suffix: str, resnet20: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    state = resnet20[1].state_dict()
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    model, others = models.with_weights("resnet20", str(path), 4, 3)
    assert others is None
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_weights_of_a_training_under_way_lose_the_trainers_prefix(
    resnet20: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    state = {f"net.{name}": tensor for name, tensor in resnet20[1].state_dict().items()}
    torch.save({"state_dict": state, "meta": {"classifier": card().to_dict()}}, tmp_path / "epoch_1.pth")
    model, _ = models.with_weights("cifar_resnet20", str(tmp_path / "epoch_1.pth"), 4, 3)
    read, found = checkpoints.read(str(tmp_path / "epoch_1.pth"))
    assert found == card()
    for one in (model, read):
        assert torch.equal(one.state_dict()["conv1.weight"], state["net.conv1.weight"])


def test_weights_for_other_classes_keep_their_backbone(resnet20: tuple[Path, nn.Module]) -> None:
    model, others = models.with_weights("cifar_resnet20", str(resnet20[0]), 9, 3)
    assert others == 4
    state = resnet20[1].state_dict()
    for name, value in model.state_dict().items():
        if name.startswith("linear."):
            assert len(value) == 9
        else:
            assert torch.equal(value, state[name]), name


def test_weights_of_another_architecture_name_the_first_three_differences(
    resnet20: tuple[Path, nn.Module],
) -> None:
    with pytest.raises(CheckpointError) as caught:
        models.with_weights("cifar_resnet32", str(resnet20[0]), 4, 3)
    line = str(caught.value)
    assert (
        line.count("file none, model (") == 3
        and "layer1.3.conv1.weight: file none, model (16, 16, 3, 3)" in line
    )
    assert "and 57 more" in line and "missing 60" in line
    with pytest.raises(CheckpointError, match=r"file \(16, 3, 3, 3\), model \(64, 3, 3, 3\)"):
        models.with_weights("cifar_resnet18", str(resnet20[0]), 4, 3)


# -- checkpoints ------------------------------------------------------------------------------------------


def test_a_checkpoint_is_read_back_to_the_last_bit(resnet20: tuple[Path, nn.Module]) -> None:
    model, found = checkpoints.read(str(resnet20[0]))
    assert found == card()
    for name, value in resnet20[1].state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_plain_torch_and_timm_open_a_checkpoint(tmp_path: Path) -> None:
    import timm

    model = models.build("test_resnet", 5, 3)
    with torch.no_grad():
        next(p for p in model.parameters() if p.dim() == 4).view(-1)[::2] = 0.0
    path = tmp_path / "pruned.pt"
    checkpoints.write(path, model, card("test_resnet", 5), "test")
    content = torch.load(path)  # weights_only is its default
    assert content["meta"]["classifier"]["model"] == "test_resnet"
    other = timm.create_model("test_resnet", num_classes=5)
    timm.models.load_checkpoint(other, str(path))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": {"a": torch.zeros(1)}}, "give its name and the file: model=NAME weights="),
        ({"a": torch.zeros(1)}, "give its name and the file: model=NAME weights="),
        (torch.zeros(1), "expected a state dict"),
        ({"state_dict": {}, "meta": {"classifier": {"model": "digits_cnn"}}}, "'size'"),
    ],
)
def test_a_file_that_is_no_checkpoint_says_so(content: object, said: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match=said):
        checkpoints.read(str(tmp_path / "file.pt"))


def test_a_damaged_checkpoint_says_so(resnet20: tuple[Path, nn.Module], tmp_path: Path) -> None:
    (tmp_path / "cut.pt").write_bytes(resnet20[0].read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cut.pt: truncated or damaged"):
        checkpoints.read(str(tmp_path / "cut.pt"))
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoints.read(str(tmp_path / "none.pt"))

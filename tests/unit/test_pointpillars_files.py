"""The files that a PointPillars is read from: ours, OpenPCDet's of any age, and whatever else a user may name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pointpillars_tiny import TINY

from slr_det.data.kitti_world import world_dataset
from slr_det.errors import CheckpointError, ConfigError
from slr_det.models.pointpillars import PRESETS, PointPillars
from slr_det_adapters.pointpillars import PointPillarsAdapter, checkpoints

ADAPTER = PointPillarsAdapter()
# What OpenPCDet's one-cycle schedule leaves in the optimizer's state.
NUMBERS = {"lr": np.float64(0.003), "mom": np.float32(0.9), "step": np.int64(7)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training frames and one to evaluate on, of the generated world."""
    return world_dataset(tmp_path_factory.mktemp("cache"), frames=(2, 1), progress=False)


@pytest.fixture(scope="module")
def net() -> PointPillars:
    torch.manual_seed(0)
    return PointPillars(TINY)


@pytest.fixture(scope="module")
def written(net: PointPillars, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    checkpoints.write(path, net, "test")
    return path


def assert_same_weights(one: PointPillars, other: PointPillars) -> None:
    state = other.state_dict()
    assert one.state_dict().keys() == state.keys()
    assert [name for name, value in one.state_dict().items() if not torch.equal(value, state[name])] == []


# -- checkpoints ------------------------------------------------------------------------------------------


def test_a_checkpoint_is_read_back_to_the_last_bit_and_has_openpcdets_keys(
    net: PointPillars, written: Path
) -> None:
    read = checkpoints.read(str(written))
    assert read.config == TINY
    assert_same_weights(read, net)
    content = torch.load(written)  # weights_only is its default
    assert {"epoch", "it", "model_state", "optimizer_state", "version"} < content.keys()
    assert content["model_state"].keys() == net.state_dict().keys()
    assert content["slr_det"]["phase"] == "test"


@pytest.mark.parametrize("zipped", [True, False], ids=["new format", "old format"])
@pytest.mark.parametrize("optimizer", [None, {"param_groups": [NUMBERS]}], ids=["none", "numpy"])
def test_a_file_of_openpcdets_is_recognised_by_its_shapes(
    zipped: bool, optimizer: Any, tmp_path: Path
) -> None:
    """OpenPCDet writes torch's old format."""
    torch.manual_seed(1)
    whole = PointPillars(PRESETS["pointpillars"])
    path = tmp_path / "pointpillar_7728.pth"
    content = {"epoch": 80, "it": 1, "model_state": whole.state_dict(), "version": "pcdet+0.3.0"}
    torch.save({**content, "optimizer_state": optimizer}, path, _use_new_zipfile_serialization=zipped)
    read = checkpoints.read(str(path))
    assert read.config == PRESETS["pointpillars"]
    assert torch.equal(read.dense_head.conv_cls.weight, whole.dense_head.conv_cls.weight)


def test_numbers_of_numpy_1_are_read_and_code_is_not_run(net: PointPillars, tmp_path: Path) -> None:
    file = tmp_path / "old.pth"
    content = {"model_state": net.state_dict(), "slr_det": {"pointpillars": TINY.to_dict()}, "lr": NUMBERS}
    torch.save(content, file, _use_new_zipfile_serialization=False)
    for module in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        data = re.sub(rb"numpy\.(_?)core\.multiarray", module, file.read_bytes())
        assert module in data
        file.write_bytes(data)
        assert_same_weights(checkpoints.read(str(file)), net)
    torch.save({**content, "hook": assert_same_weights}, file)
    with pytest.raises(CheckpointError, match="could run code"):
        checkpoints.read(str(file))


def test_a_training_checkpoint_loses_the_trainers_prefix(net: PointPillars, tmp_path: Path) -> None:
    state = {f"net.{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": state, "meta": {"pointpillars": TINY.to_dict()}}, tmp_path / "epoch_1.pth")
    assert_same_weights(checkpoints.read(str(tmp_path / "epoch_1.pth")), net)


def test_weights_that_are_no_numbers_are_named(net: PointPillars, tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in net.state_dict().items()}
    state["dense_head.conv_box.bias"][3] = torch.nan
    file = tmp_path / "nan.pt"
    torch.save({"model_state": state, "slr_det": {"pointpillars": TINY.to_dict()}}, file)
    with pytest.raises(CheckpointError, match=r"nan\.pt: dense_head\.conv_box\.bias holds NaN or infinite"):
        checkpoints.read(str(file))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (lambda state: state, r"give its description and the file: model=FILE.yaml weights="),
        (lambda state: {"model_state": state}, r"model=FILE.yaml weights="),
        (lambda state: {"model_state": {"a": 1}}, "'a' is a int, expected a tensor"),
        (lambda state: {"epoch": 3}, "'epoch' is a int, expected a tensor"),
        (lambda state: torch.zeros(2), "holds a Tensor, expected a state dict"),
        (
            lambda state: {"model_state": state, "slr_det": {"pointpillars": {"classes": 3}}},
            "its description of the network is damaged .*classes is 3",
        ),
        (
            lambda state: {"model_state": {}, "slr_det": {"pointpillars": TINY.to_dict()}},
            "does not fit the model: global_step: file none",
        ),
    ],
    ids=["bare", "unknown", "foreign", "no weights", "a tensor", "damaged", "empty"],
)
def test_a_file_that_is_no_checkpoint_is_one_line(
    content: Callable[[Any], Any], expected: str, net: PointPillars, tmp_path: Path
) -> None:
    file = tmp_path / "file.pth"
    torch.save(content(net.state_dict()), file)
    with pytest.raises(CheckpointError, match=expected) as caught:
        checkpoints.read(str(file))
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_a_damaged_or_missing_file_says_so(written: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.pt").write_bytes(written.read_bytes()[:5000])
    (tmp_path / "text.pt").write_text("no checkpoint at all")
    for name, expected in (("cut", "truncated or damaged"), ("text", "text.pt"), ("none", "no such file")):
        with pytest.raises(CheckpointError, match=expected) as caught:
            checkpoints.read(str(tmp_path / f"{name}.pt"))
        assert "\n" not in str(caught.value)


# -- networks and weights ---------------------------------------------------------------------------------


def test_a_network_for_some_of_its_classes_has_their_anchors_alone() -> None:
    whole = PRESETS["pointpillars_small"]
    assert checkpoints.for_classes(whole, whole.classes, "m") is whole
    some = checkpoints.for_classes(whole, ("Cyclist", "Car"), "m")
    assert some.classes == ("Cyclist", "Car")
    assert {anchor.name for anchor in some.anchors} == {"Car", "Cyclist"} and some.anchors_per_cell == 4
    with pytest.raises(
        ConfigError, match=r"model=m has no anchors for 'Van'.*only for Car, Pedestrian, Cyclist"
    ):
        checkpoints.for_classes(whole, ("Car", "Van"), "m")
    with pytest.raises(ConfigError, match="has anchors for 3 classes .* and the data has 4"):
        ADAPTER.inspect("pointpillars_small", 4)


def test_an_unknown_network_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no model 'pointpilars' \(did you mean 'pointpillars'\?\)"):
        ADAPTER.inspect("pointpilars")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        ADAPTER.inspect("nowhere.yaml")


def test_the_layers_of_a_checkpoint_and_of_a_network(net: PointPillars, written: Path) -> None:
    info = ADAPTER.inspect(str(written))
    assert info.classes == 2 and info.parameters == sum(p.numel() for p in net.parameters())
    roles = {layer.name: layer.role for layer in info.layers}
    assert [name for name, role in roles.items() if role == "first"] == ["vfe.pfn_layers.0.linear.weight"]
    assert [name for name, role in roles.items() if role == "head"] == [
        f"dense_head.conv_{part}.weight" for part in ("cls", "box", "dir_cls")
    ]
    small = ADAPTER.inspect("pointpillars_small", 1)
    shapes = {layer.name: layer.shape for layer in small.layers}
    assert small.classes == 1 and shapes["dense_head.conv_cls.weight"][0] == 2  # an anchor a rotation


def small_weights(folder: Path, classes: tuple[str, ...], described: bool) -> Path:
    torch.manual_seed(2)
    model = PointPillars(checkpoints.for_classes(PRESETS["pointpillars_small"], classes, "m"))
    if described:
        checkpoints.write(folder / "weights.pth", model, "test")
    else:
        torch.save({"model_state": model.state_dict()}, folder / "weights.pth")
    return folder / "weights.pth"


def test_given_weights_become_a_checkpoint(world: Path, tmp_path: Path, written: Path) -> None:
    assert ADAPTER.given(str(written), "", world, tmp_path / "start.pt") == str(written)
    every = ("Car", "Pedestrian", "Cyclist")
    for described in (True, False):
        source = small_weights(tmp_path, every, described)
        start = ADAPTER.given("pointpillars_small", str(source), world, tmp_path / "start.pt")
        assert_same_weights(
            checkpoints.read(start), checkpoints.built("pointpillars_small", str(source), every)
        )
    state = torch.load(source)["model_state"]
    torch.save({f"module.{name}": value for name, value in state.items()}, source)
    assert checkpoints.built("pointpillars_small", str(source)).config.classes == every


def test_weights_that_cannot_be_given_are_one_line(world: Path, tmp_path: Path, written: Path) -> None:
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {world}\nclasses: [Pedestrian, Car, Cyclist]\n")
    target = tmp_path / "start.pt"
    two = small_weights(tmp_path, ("Car", "Pedestrian"), True)
    cases = [
        ("pointpillars_small", "", world, ConfigError, "network without weights"),
        (str(written), "w.pth", world, ConfigError, "brings its own weights"),
        (str(tmp_path / "none.pt"), "", world, CheckpointError, "no such file"),
        ("pointpillars_small", "none.pth", world, CheckpointError, "none.pth: no such file"),
        ("pointpillars_small", "pretrained", world, ConfigError, "no published weights"),
        ("pointpillars_small", str(written), world, CheckpointError, "another architecture"),
        ("pointpillars_small", str(two), world, CheckpointError, "for another number of classes"),
    ]
    for model, weights, place, kind, expected in cases:
        with pytest.raises(kind, match=expected) as caught:
            ADAPTER.given(model, weights, place, target)
        assert "\n" not in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("described", [True, False])
def test_weights_for_the_classes_in_another_order_are_refused(
    described: bool, world: Path, tmp_path: Path
) -> None:
    """Their shapes fit, and every car would be called a pedestrian."""
    source = small_weights(tmp_path, ("Car", "Pedestrian", "Cyclist"), described)
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {world}\nclasses: [Pedestrian, Car, Cyclist]\n")
    with pytest.raises(
        CheckpointError, match=r"for Car, Pedestrian, Cyclist but .*'classes: \[Car, Ped"
    ) as caught:
        ADAPTER.given("pointpillars_small", str(source), data, tmp_path / "start.pt")
    assert "\n" not in str(caught.value) and not (tmp_path / "start.pt").exists()

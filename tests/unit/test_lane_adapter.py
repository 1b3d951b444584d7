"""The lane adapter without training: what it takes, its data and checkpoints, and the names of its numbers."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slr_det.data.lane_world import road_dataset
from slr_det.data.tusimple import TuSimpleDataset
from slr_det.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from slr_det.lane import TASK
from slr_det.models.parsingnet import PRESETS, ParsingNet, ParsingNetConfig
from slr_det.presets import LANE
from slr_det_adapters.lane import LaneAdapter, checkpoints
from slr_det_adapters.lane.arguments import Arguments
from slr_det_adapters.lane.data import (
    begin_run,
    collate,
    find_data,
    open_data,
    plain_frames,
    require_fit,
    training_frames,
)

ADAPTER = LaneAdapter()
TINY = ParsingNetConfig(
    griding=20, row_anchors=tuple(range(64, 288, 8)), size=(64, 160), width=0.125, hidden=16, pool=2
)
MMENGINE = 'needs the lane extra: uv pip install "slr-det[lane]"'


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training frames and one to evaluate on, of the generated road."""
    return road_dataset(tmp_path_factory.mktemp("cache"), frames=(3, 1), progress=False)


@pytest.fixture(scope="module")
def tiny() -> ParsingNet:
    torch.manual_seed(0)
    return ParsingNet(TINY)


# -- arguments --------------------------------------------------------------------------------------------


def test_the_defaults_are_upstreams() -> None:
    given = Arguments.read({"lr": 1, "amp": False})
    assert given == Arguments(lr=1.0, amp="") and isinstance(given.lr, float)
    usual = Arguments()
    assert (usual.optimizer, usual.lr, usual.weight_decay, usual.batch) == ("adam", 4e-4, 1e-4, 32)
    assert (usual.schedule, usual.rotation, usual.up_down, usual.left_right) == ("cosine", 6, 100, 200)
    assert ADAPTER.trainer_keys() >= {"lr", "batch", "rotation", "cache", "ema", "workers", "val_every"}


def test_all_problems_come_at_once_and_name_what_was_expected() -> None:
    wrong: dict[str, Any] = {
        "lr": 0,
        "rotation": 181,
        "up_down": 720,
        "left_right": -1,
        "cache": "yes",
        "train_frames": -1,
        "recalibration_frames": 0,
        "predictions": 3,
        "rotatoin": 6,
    }
    with pytest.raises(ConfigError) as caught:
        Arguments.read(wrong)
    assert list(caught.value.problems) == [
        "lr is 0, expected a number above 0",
        "rotation is 181, expected 0 to 180",
        "up_down is 720, expected 0 to 719",
        "left_right is -1, expected 0 to 1279",
        "cache is 'yes', expected true or false",
        "train_frames is -1, expected at least 0",
        "recalibration_frames is 0, expected at least 1",
        "predictions is 3, expected text",
        "the trainer has no argument 'rotatoin' (did you mean 'rotation'?)",
    ]


def test_the_preset_is_a_run_that_the_trainer_takes() -> None:
    assert Arguments.read(LANE["train"]).cache and Arguments.read({**LANE["train"], **LANE["dense"]})
    assert LANE["model"] in PRESETS and TASK.metric in TASK.shown


def test_without_mmengine_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'uv pip install "slr-det\[lane\]"'):
        ADAPTER.last("nowhere")


# -- data -------------------------------------------------------------------------------------------------


def test_a_folder_is_read_in_place_and_has_four_lanes(road: Path) -> None:
    before = sorted(road.rglob("*"))
    assert ADAPTER.prepare_data(str(road), Path("unused")) == road
    assert ADAPTER.classes(road) == 4
    assert sorted(road.rglob("*")) == before


def test_the_word_road_is_generated_even_where_a_run_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("slr_det_adapters.lane.data.road_dataset", lambda: asked.append("road") or tmp_path)
    monkeypatch.chdir(tmp_path)
    assert find_data("road") == tmp_path and asked == ["road"]
    (tmp_path / "road").mkdir()
    assert find_data("road") == tmp_path and asked == ["road", "road"]
    assert find_data("./road") == Path("road") and len(asked) == 2


def test_wrong_data_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for data, expected in (
        ("raod", r"data=raod: no such folder \(did you mean 'road'\?\)"),
        ("empty", r"empty: no labels \(it is empty\), expected clips/ with label_data"),
        ("file", "file: no such folder"),
    ):
        with pytest.raises(DataError, match=expected) as caught:
            ADAPTER.prepare_data(data, tmp_path)
        assert "\n" not in str(caught.value)


def test_frames_have_the_size_of_the_network_and_are_the_first_so_many(road: Path) -> None:
    folder = open_data(str(road))
    few = training_frames(folder, TINY, Arguments(train_frames=2), seed=1)
    assert len(few) == 2 and few.augmentation == Arguments().augmentation() and few.seed == 1
    item = few[0]
    assert item.image.shape == (3, 64, 160) and item.target.shape == (28, 4)
    assert item.segmentation.shape == (8, 20) and int(item.target.max()) <= 20
    every = plain_frames(folder, TINY, Arguments(), 0)
    assert len(every) == 1 and every.augmentation is None


def test_frames_in_memory_are_those_on_the_disk(road: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin_run()
    folder = open_data(str(road))
    read, kept = (training_frames(folder, TINY, Arguments(cache=cache), 3) for cache in (False, True))
    for epoch in (0, 1):
        for frames in (read, kept):
            frames.set_epoch(epoch)
        for index in (0, 2):
            for one, other in zip(read[index], kept[index], strict=True):
                assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    monkeypatch.setattr(TuSimpleDataset, "_read", None)  # nothing is decoded again
    assert kept[0].row == 0
    with pytest.raises(TypeError):
        kept[1]
    # The next phase has them too, at its own variations; another size, or another run, has not.
    assert not torch.equal(training_frames(folder, TINY, Arguments(cache=True), 4)[0].image, kept[0].image)
    with pytest.raises(TypeError):
        training_frames(folder, replace(TINY, size=(32, 160)), Arguments(cache=True), 4)[0]
    begin_run()
    with pytest.raises(TypeError):
        kept[0]


def test_a_batch_has_images_targets_and_the_places_of_lanes(road: Path) -> None:
    frames = training_frames(open_data(str(road)), TINY, Arguments(), 0)
    batch = collate([frames[2], frames[0]])
    assert batch["images"].shape == (2, 3, 64, 160) and batch["targets"].shape == (2, 28, 4)
    assert batch["places"].shape == (2, 8, 20) and batch["rows"] == [2, 0]


def test_a_missing_clip_is_named_once_in_a_run(
    road: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = (road / "label_data_train.json").read_text().splitlines()[0]
    (tmp_path / "clips").symlink_to(road / "clips")
    names = [label.replace("train/0000", f"train/{n:04d}") for n in range(2)]
    many = [label.replace("clips/train/0000", f"clips/train/0000/../000{n % 2}") for n in range(2, 150)]
    gone = label.replace("train/0000", "train/gone")
    (tmp_path / "label_data_train.json").write_text("\n".join([*names, *many, gone]))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # two runs in one process
            ADAPTER.prepare_data(str(tmp_path), tmp_path)
            for _ in range(3):  # the phases of a run
                assert len(open_data(str(tmp_path)).split("train")) == 150
            monkeypatch.setenv("RANK", "1")
            open_data(str(tmp_path)).split("train")
            monkeypatch.delenv("RANK")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and said[0] == said[1]
    assert "label_data_train.json:151: clips/train/gone/20.jpg: no such image" in said[0]
    assert "training goes on without it" in said[0]


# -- checkpoints ------------------------------------------------------------------------------------------


def test_a_checkpoint_is_upstreams_with_the_network_beside_the_weights(
    tiny: ParsingNet, tmp_path: Path
) -> None:
    checkpoints.write(tmp_path / "tiny.pt", tiny, "given")
    content = torch.load(tmp_path / "tiny.pt")  # weights_only is its default
    assert content.keys() == {"model", "slr_det"}
    assert content["slr_det"]["parsingnet"] == TINY.to_dict() and content["slr_det"]["phase"] == "given"
    assert content["model"].keys() == tiny.state_dict().keys()
    found = checkpoints.read(str(tmp_path / "tiny.pt"))
    assert found.config == TINY
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), tiny.parameters(), strict=True))
    # In training the trainer's own: names with a prefix, the network under `meta`.
    training = {
        "state_dict": {f"net.{name}": tensor for name, tensor in content["model"].items()},
        "meta": {"parsingnet": TINY.to_dict(), "epoch": 3},
    }
    torch.save(training, tmp_path / "epoch_3.pth")
    assert checkpoints.read(str(tmp_path / "epoch_3.pth")).config == TINY


def test_the_auxiliary_head_is_neither_counted_nor_pruned_but_kept(tiny: ParsingNet, tmp_path: Path) -> None:
    path = tmp_path / "tiny.pt"
    checkpoints.write(path, tiny, "given")
    info = ADAPTER.inspect(str(path))
    averaged = ADAPTER.averaged(str(path))
    assert info.parameters == sum(p.numel() for p in averaged.values())
    assert not any(name.startswith("aux_") for name in (*info.weights, *averaged))
    assert [layer.name for layer in info.layers if layer.role == "head"] == [
        "pool.weight",
        "cls.0.weight",
        "cls.2.weight",
    ]
    job: Any = type("Job", (), {"title": "hard_prune"})
    zeros = {"cls.0.weight": torch.zeros_like(averaged["cls.0.weight"])}
    ADAPTER.export(str(path), tmp_path / "pruned.pt", job, zeros)
    state = torch.load(tmp_path / "pruned.pt")["model"]
    assert not state["cls.0.weight"].any() and torch.equal(
        state["aux_combine.4.weight"], tiny.state_dict()["aux_combine.4.weight"]
    )


@pytest.mark.slow
def test_a_checkpoint_of_upstreams_says_by_its_shapes_what_it_is(tmp_path: Path) -> None:
    with torch.device("meta"):
        empty = ParsingNet(replace(PRESETS["parsingnet18"], aux=False))
    state = {f"module.{name}": torch.zeros(t.shape, dtype=t.dtype) for name, t in empty.state_dict().items()}
    torch.save(
        {"model": state, "optimizer": {}}, tmp_path / "ep099.pth", _use_new_zipfile_serialization=False
    )
    found = ADAPTER.inspect(str(tmp_path / "ep099.pth"))
    assert found.parameters == 61_225_640 and found.classes == 4


def test_files_that_are_no_checkpoint_are_one_line(tiny: ParsingNet, tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "tiny.pt", tiny, "given")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "tiny.pt").read_bytes()[:20_000])
    content = torch.load(tmp_path / "tiny.pt")
    torch.save({"model": content["model"]}, tmp_path / "bare.pt")
    content["slr_det"]["parsingnet"]["backbone"] = "19"
    torch.save(content, tmp_path / "other.pt")
    for name, expected in (
        ("none.pt", "none.pt: no such file"),
        ("cut.pt", "truncated or damaged"),
        ("bare.pt", "comes with its configuration"),
        ("other.pt", "description of the network is damaged .*backbone is '19'"),
    ):
        with pytest.raises(CheckpointError, match=expected) as caught:
            checkpoints.read(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_a_network_has_a_name_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text("backbone: 34\ngriding: 50\n")
    found = checkpoints.network(str(tmp_path / "net.yaml"))
    assert (found.backbone, found.griding, found.size) == ("34", 50, (288, 800))
    (tmp_path / "list.yaml").write_text("[1]\n")
    for word, expected in (
        ("parsingnet19", r"no model 'parsingnet19' \(did you mean 'parsingnet18'\?\)"),
        (str(tmp_path / "list.yaml"), "expected a network's settings"),
    ):
        with pytest.raises(ConfigError, match=expected):
            checkpoints.network(word)


def test_weights_of_a_backbone_are_a_start_for_training_alone(tiny: ParsingNet, tmp_path: Path) -> None:
    net = tmp_path / "net.yaml"
    net.write_text("griding: 20\nsize: [64, 160]\nwidth: 0.125\nhidden: 16\npool: 2\n")
    backbone = {**tiny.model.state_dict(), "fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}
    torch.save(backbone, tmp_path / "resnet.pth")
    built = checkpoints.built(str(net), str(tmp_path / "resnet.pth"))
    assert torch.equal(built.model.conv1.weight, tiny.model.conv1.weight)
    with pytest.raises(ConfigError, match="those of the backbone alone; train the rest first"):
        ADAPTER.given(str(net), str(tmp_path / "resnet.pth"), tmp_path, tmp_path / "start.pt")
    with pytest.raises(ConfigError, match="no published weights here"):
        checkpoints.built(str(net), "pretrained")


def test_a_network_for_other_lanes_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text("griding: 20\nsize: [64, 160]\nwidth: 0.125\nlanes: 2\n")
    with pytest.raises(ConfigError, match="tells 2 lanes apart and the data has 4; write lanes: 4 into"):
        ADAPTER.inspect(str(tmp_path / "net.yaml"), 4)
    with pytest.raises(CheckpointError, match="model=two.pt tells 2 lanes apart"):
        require_fit(replace(TINY, lanes=2), "two.pt")
    require_fit(TINY, "tiny.pt")


# -- numbers ----------------------------------------------------------------------------------------------


def answer_of(targets: torch.Tensor, griding: int) -> torch.Tensor:
    """The logits (griding + 1, rows, lanes) of a network that is sure of the targets."""
    return 50.0 * torch.nn.functional.one_hot(targets, griding + 1).permute(2, 0, 1).float()


def test_an_answer_becomes_lanes_at_the_heights_of_the_label(road: Path) -> None:
    pytest.importorskip("mmengine", reason=MMENGINE)
    from slr_det_adapters.lane.evaluation import LaneMetric, metrics_of, predicted, score

    config = PRESETS["parsingnet18"]
    frames = plain_frames(open_data(str(road)), config, Arguments(), 0)
    answer = answer_of(frames[0].target, config.griding)
    row = predicted(frames, 0, answer)
    label = frames.rows[0]
    assert row.raw_file == label.raw_file and row.run_time == 10.0
    assert row.lanes.shape == (4, len(label.h_samples)), "a lane that is not seen is there without a point"
    scores = score(frames, {0: row})
    assert scores.accuracy > 0.95 and scores.point_accuracy > 0.9
    assert 0.2 < scores.empty_accuracy < 0.6 and scores.clips == 1
    found = metrics_of(scores)
    assert list(found) == list(TASK.shown) and found["fn"] == scores.fn == 0.0
    nothing = answer_of(torch.full_like(frames[0].target, config.griding), config.griding)
    assert not np.any(predicted(frames, 0, nothing).lanes >= 0)
    assert score(frames, {0: predicted(frames, 0, nothing)}).accuracy == pytest.approx(scores.empty_accuracy)
    metric = LaneMetric(frames)
    metric.process({"rows": [0]}, [answer])
    assert metric.compute_metrics(metric.results) == found


def test_the_loss_is_upstreams_in_evaluation_mode_too(tiny: ParsingNet) -> None:
    pytest.importorskip("mmengine", reason=MMENGINE)
    from slr_det_adapters.lane.trainable import Trainable

    torch.manual_seed(1)
    images = torch.randn(2, 3, 64, 160)
    targets, places = torch.randint(0, 21, (2, 28, 4)), torch.randint(0, 5, (2, 8, 20))
    model = Trainable(tiny, channels_last=True).eval()
    with torch.no_grad():
        found = model(images, targets, places, rows=[0, 1])
        total, parts = tiny.loss(tiny(images, aux=True), targets, places)
        answers = model(images, targets, places, rows=[0, 1], mode="predict")
        expected = tiny(images).logits
    assert float(found["loss"]) == pytest.approx(float(total), rel=1e-5)
    # mmengine adds up what is called a loss, and shows the rest.
    assert found.keys() == {"loss", "cls", "relation", "aux", "relation_dis"}
    assert float(found["aux"]) == pytest.approx(float(parts["aux_loss"]), rel=1e-5)
    assert len(answers) == 2 and torch.allclose(torch.stack(answers), expected, atol=1e-5)

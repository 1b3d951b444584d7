"""The files in configs/lane/ hold the rows of the paper's Table 6, and rates that the network can reach."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from slr_det.adapter import ModelInfo
from slr_det.config import RunConfig, load_config
from slr_det.errors import ConfigError
from slr_det.lane import TASK
from slr_det.models.parsingnet import PRESETS, ParsingNet, deployed, layers
from slr_det.pipeline import allocate_for

CONFIGS = Path(__file__).parents[2] / "configs" / "lane"
# Zhou et al., Table 6: accuracy x100 of ADMM and SLR after hard pruning, and after retraining, by rate.
TABLE_6 = {
    "1.82": ((92.49, 94.64), (94.28, 94.63)),
    "2.54": ((92.25, 94.56), (94.04, 94.93)),
    "4.21": ((90.97, 94.66), (94.18, 94.68)),
    "12.10": ((88.41, 94.51), (94.45, 94.7)),
    "16.85": ((78.75, 94.55), (94.23, 94.65)),
    "22.80": ((67.79, 94.62), (94.08, 94.55)),
    "35.25": ((57.05, 93.93), (93.63, 94.34)),
    "77.67": ((46.09, 89.72), (88.33, 90.18)),
}


def row(rate: str, *words: str) -> RunConfig:
    file = CONFIGS / f"parsingnet18_{rate}x.yaml"
    return load_config(file, ["model=parsingnet18", *words], task="lane", scopes=TASK.scope_settings)


def test_every_row_of_table_6_has_its_file() -> None:
    files = {path.stem for path in CONFIGS.glob("parsingnet18_*x.yaml")}
    assert files == {f"parsingnet18_{rate}x" for rate in TABLE_6}


@pytest.mark.parametrize("rate", TABLE_6)
def test_a_row_is_the_papers(rate: str) -> None:
    config = row(rate)
    assert (config.name, config.task) == (f"parsingnet18_{rate}x", "lane")
    assert (config.method, config.recipe) == (("slr", "admm"), "paper")
    assert (config.prune.target_compression, config.prune.scope) == (float(rate), "everything")
    assert (config.prune.compression_over, config.prune.dense_head) == ("model", False)
    assert (config.dense_epochs, config.epochs, config.retrain_epochs) == (0, 40, 5)
    assert (config.slr.rho, config.slr.M, config.slr.r, config.slr.s0) == (0.1, 300.0, 0.1, 0.01)
    paper = dict(config.paper or {})
    source, metric = paper.pop("source"), paper.pop("metric")
    assert metric == "point_accuracy x100"
    assert f"Table 6, Ultra-Fast-Lane-Detection on TuSimple, {rate}x, 40 epochs" in source
    hard, retrained = TABLE_6[rate]
    assert paper == {
        method: {"hard_prune": hard[place], "retrain": retrained[place]}
        for place, method in enumerate(("admm", "slr"))
    }


@pytest.fixture(scope="module")
def network() -> ModelInfo:
    """Upstream's ResNet 18 without its values: 61,225,640 parameters take no time on the device "meta"."""
    with torch.device("meta"):
        model = ParsingNet(PRESETS["parsingnet18"])
    return ModelInfo(layers(model), deployed(dict(model.named_parameters())), model.config.lanes)


@pytest.mark.parametrize("rate", TABLE_6)
def test_the_rate_of_a_row_is_within_reach_with_cls_and_out_of_reach_without(
    rate: str, network: ModelInfo
) -> None:
    assert network.parameters == 61_225_640
    allocation = allocate_for(TASK, row(rate), network)
    assert allocation.compression()["model"]["rate"] == pytest.approx(float(rate), rel=1e-3)
    assert {row.layer.name: row.reason for row in allocation.layers if row.keep is None} == {
        "model.conv1.weight": "first layer"
    }
    with pytest.raises(
        ConfigError, match=r"the highest rate is 1\.222x, .*cls\.2\.weight \(46,333,952 weights"
    ):
        allocate_for(TASK, row(rate, "prune.scope=backbone", "prune.compression_over=model"), network)
    alone = allocate_for(TASK, row(rate, "prune.scope=backbone"), network).compression()
    assert alone["groups"]["rate"] == pytest.approx(float(rate), rel=1e-3)
    assert alone["model"]["rate"] < 1.222

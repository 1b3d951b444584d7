"""The files in configs/pointpillars/ hold the rows of the paper's Table 7, and rates that the network can reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from slr_det.allocation import allocate
from slr_det.config import RunConfig, load_config
from slr_det.layers import Layer, layers_of
from slr_det.models.pointpillars import PRESETS, PointPillars

CONFIGS = Path(__file__).parents[2] / "configs" / "pointpillars"
LEVELS = ("easy", "moderate", "hard")
DENSE = (80.7, 78.5, 60.7)
RATES = (4.874, 5.702, 6.431, 9.449)
# Zhou et al., Table 7: AP x100 at the three difficulties, by rate, method and phase; the others we have not seen.
TABLE_7 = {
    9.449: {
        "admm": {"hard_prune": (58.6, 54.1, 30.8), "retrain": (70.9, 66.8, 35.6)},
        "slr": {"hard_prune": (68.0, 65.6, 46.1), "retrain": (79.9, 75.8, 51.4)},
    }
}


def row(rate: float) -> RunConfig:
    return load_config(CONFIGS / f"pointpillars_{rate}x.yaml", task="pointpillars")


def test_every_row_of_table_7_has_its_file() -> None:
    files = {path.stem for path in CONFIGS.glob("pointpillars_*x.yaml")}
    assert files == {f"pointpillars_{rate}x" for rate in RATES}


@pytest.mark.parametrize("rate", RATES)
def test_a_row_is_the_papers(rate: float) -> None:
    config = row(rate)
    assert (config.name, config.task, config.model) == (
        f"pointpillars_{rate}x",
        "pointpillars",
        "pointpillars",
    )
    assert (config.method, config.recipe) == (("slr", "admm"), "paper")
    assert (config.prune.target_compression, config.prune.compression_over) == (rate, "model")
    assert (config.dense_epochs, config.epochs, config.retrain_epochs) == (0, 40, 3)
    assert config.train["overlap"] == "0.5"  # text, as the trainer wants it
    paper = dict(config.paper or {})
    source, metric = paper.pop("source"), paper.pop("metric")
    assert metric == "moderate x100"
    assert f"Table 7, PointPillars on KITTI, {rate}x, 40 epochs, IoU 0.5" in source
    expected = {"dense": dict(zip(LEVELS, DENSE, strict=True))} | {
        method: {phase: dict(zip(LEVELS, values, strict=True)) for phase, values in phases.items()}
        for method, phases in TABLE_7.get(rate, {}).items()
    }
    assert paper == expected


@pytest.fixture(scope="module")
def network() -> tuple[list[Layer], int]:
    """The layers that can be pruned, and all parameters of the model."""
    model = PointPillars(PRESETS["pointpillars"])
    layers = layers_of(model, heads=["dense_head.*"])
    return layers, sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("rate", RATES)
def test_the_rate_of_a_row_is_within_reach_of_the_network(
    rate: float, network: tuple[list[Layer], int]
) -> None:
    layers, parameters = network
    assert parameters == 4_834_888
    prune = row(rate).prune
    allocation = allocate(
        layers,
        projection=prune.projection,
        method=prune.allocation,
        target_compression=prune.target_compression,
        compression_over=prune.compression_over,
        model_parameters=parameters,
    )
    assert allocation.compression()["model"]["rate"] == pytest.approx(rate, rel=1e-3)

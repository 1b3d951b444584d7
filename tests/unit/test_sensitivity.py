from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slr_det.allocation import allocate
from slr_det.errors import CheckpointError, ConfigError, NumericsError
from slr_det.layers import Layer, make_layer
from slr_det.projections import Projection
from slr_det.sensitivity import SensitivityTable, scan


def model() -> tuple[list[Layer], dict[str, Tensor]]:
    layers = [
        make_layer("a.weight", (4, 5)),
        make_layer("b.weight", (6, 5)),
        make_layer("t.weight", (3, 3), "other"),
    ]
    generator = torch.Generator().manual_seed(1)
    return layers, {layer.name: torch.randn(layer.shape, generator=generator) for layer in layers}


def energy(weights: dict[str, Tensor]) -> Callable[[], float]:
    """A metric with a closed form: layer a counts ten times."""
    return lambda: float(
        10 * weights["a.weight"].double().square().sum() + weights["b.weight"].double().square().sum()
    )


def bits(weights: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: weight.view(torch.int32).flatten().tolist() for name, weight in weights.items()}


def test_scan_measures_each_layer_alone_and_restores_it() -> None:
    layers, weights = model()
    weights["a.weight"][0, 0] = -0.0
    before = bits(weights)
    table = scan(layers, energy(weights), weights, (0.2, 0.5), progress=False)
    assert bits(weights) == before
    assert table.ratios == (0.5, 0.2) and list(table.metric) == ["a.weight", "b.weight"]
    for name, scale, kept in (("a.weight", 10, (10, 4)), ("b.weight", 1, (15, 6))):
        squares = weights[name].double().square().flatten().sort(descending=True).values
        assert table.drops(name) == pytest.approx([scale * float(squares[n:].sum()) for n in kept])
        assert table.kept[name] == pytest.approx([n / squares.numel() for n in kept])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("call", range(1, 6))
def test_weights_come_back_whatever_happens(error: type[BaseException], call: int) -> None:
    layers, weights = model()
    before = bits(weights)
    metric = energy(weights)
    calls = 0

    def evaluate() -> float:
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return metric()

    with pytest.raises(error):
        scan(layers, evaluate, weights, (0.5, 0.2), progress=False)
    assert bits(weights) == before


def test_an_interrupted_scan_goes_on_where_it_stopped(tmp_path: Path) -> None:
    layers, weights = model()
    cache = tmp_path / "scan.json"
    metric = energy(weights)
    calls = 0

    def stopping(limit: int) -> Callable[[], float]:
        def evaluate() -> float:
            nonlocal calls
            calls += 1
            if calls > limit:
                raise KeyboardInterrupt
            return metric()

        return evaluate

    with pytest.raises(KeyboardInterrupt):
        scan(layers, stopping(4), weights, (0.5, 0.2), cache=cache, progress=False)
    assert list(SensitivityTable.load(cache).metric) == ["a.weight"]
    calls = 0
    resumed = scan(layers, stopping(2), weights, (0.5, 0.2), cache=cache, progress=False)
    assert calls == 2
    assert resumed == scan(layers, metric, weights, (0.5, 0.2), progress=False)
    assert scan(layers, stopping(2), weights, (0.5, 0.2), cache=cache, progress=False) == resumed
    assert calls == 2


def test_a_cache_of_something_else_is_refused(tmp_path: Path) -> None:
    layers, weights = model()
    cache = tmp_path / "scan.json"
    scan(layers, energy(weights), weights, (0.5,), cache=cache, progress=False)
    with pytest.raises(CheckpointError, match=r"with ratios \(0\.5,\), not \(0\.4,\)"):
        scan(layers, energy(weights), weights, (0.4,), cache=cache, progress=False)
    with pytest.raises(CheckpointError, match="projection unstructured, not filter"):
        scan(layers, energy(weights), weights, (0.5,), "filter", cache=cache, progress=False)
    weights["b.weight"][0, 0] += 1
    with pytest.raises(CheckpointError, match="other weights"):
        scan(layers, energy(weights), weights, (0.5,), cache=cache, progress=False)
    text = cache.read_text(encoding="utf-8")
    for damaged in (
        text[:100],
        text.replace("/1", "/9"),
        json.dumps({"schema": "slr_det.sensitivity/1"}),
        "[]",
    ):
        cache.write_text(damaged, encoding="utf-8")
        with pytest.raises(CheckpointError, match="scan again"):
            SensitivityTable.load(cache)


def test_equal_masks_are_evaluated_once() -> None:
    layers, weights = model()
    calls = 0
    metric = energy(weights)

    def evaluate() -> float:
        nonlocal calls
        calls += 1
        return metric()

    table = scan(layers, evaluate, weights, (0.7, 0.5, 0.3), "2:4", progress=False)
    assert calls == 3  # the dense model, and each layer once: 2:4 has one ratio
    assert table.kept["a.weight"] == (0.6, 0.6, 0.6)  # of 5 input channels 2 + 1 stay


def test_bad_input_is_refused_before_anything_is_pruned() -> None:
    layers, weights = model()
    with pytest.raises(ConfigError) as caught:
        scan([make_layer("aa.weight", (2, 2)), *layers], energy(weights), weights, (0.5, 0.0, 2.0))
    assert caught.value.problems == (
        "scan: the model has no parameter 'aa.weight' (did you mean 'a.weight'?)",
        "scan: ratio is 2.0, expected a keep ratio in (0, 1]",
        "scan: ratio is 0.0, expected a keep ratio in (0, 1]",
    )
    with pytest.raises(NumericsError, match="nan for the dense model"):
        scan(layers, lambda: float("nan"), weights, progress=False)


def test_a_loss_counts_the_other_way(tmp_path: Path) -> None:
    layers, weights = model()
    metric = energy(weights)
    higher = scan(layers, metric, weights, (0.5,), progress=False)
    lower = scan(layers, lambda: -metric(), weights, (0.5,), higher_is_better=False, progress=False)
    assert lower.drops("a.weight") == pytest.approx(higher.drops("a.weight"))
    assert SensitivityTable.load(lower.save(tmp_path / "t.json")) == lower


def test_allocation_follows_the_scan(tmp_path: Path) -> None:
    layers, weights = model()
    table = scan(layers, energy(weights), weights, (0.8, 0.6, 0.4, 0.2), progress=False)
    path = table.save(tmp_path / "scan.json")
    kept = [
        [row.kept for row in allocate(layers, method="sensitivity", sensitivity=source, keep=0.6).layers[:2]]
        for source in (path, table.curves())
    ]
    assert kept[0] == kept[1] and sum(kept[0]) == 30
    assert kept[0][0] / 20 > kept[0][1] / 30  # layer a costs ten times as much


def test_plot_is_a_picture_and_text_holds_the_numbers(tmp_path: Path) -> None:
    table = SensitivityTable(
        0.5, (0.5, 0.1), {"a.weight": (0.5, 0.1)}, {"a.weight": (0.48, 0.2)}, Projection("unstructured")
    )
    path = table.plot(tmp_path / "scan.png", metric="AP50")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000
    assert str(table).splitlines()[-1].split() == ["a.weight", "0.0200", "0.3000"]
